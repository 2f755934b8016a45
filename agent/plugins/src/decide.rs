//! Decisions on files, made of what all access policies say: one that denies is enough to deny, and one must allow. No
//! policy, a failed one, a stale one, an obligation that this host does not know: all mean no.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use remora_core::policy::{Access, Decision, Effect};
use serde::Serialize;

use crate::documents::Mode;
use crate::host::{Digest, of_processor};
use crate::policies::{BATCH, QUICK};
use crate::set::{AccessBinding, AccessPolicy, Generation};

/// What becomes of a request.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Whether it may be done.
    pub allowed: bool,
    /// A short name for why, which the one who asks is shown.
    pub code: String,
    /// The generation that decided.
    pub generation: u64,
    /// What each policy said.
    pub said: Vec<Said>,
}

/// What one policy said of a request.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    /// The document.
    pub policy: String,
    /// The module, as the document names it.
    pub module: String,
    /// The interface by which it was asked, with its version: `remora:policy/authorize@0.2.0`.
    pub interface: &'static str,
    /// The SHA-256 of the module.
    pub digest: Digest,
    /// The SHA-256 of the settings.
    pub settings: Digest,
    /// Whether its word counts.
    pub mode: Mode,
    /// What it said; a failure is a denial.
    pub effect: Effect,
    /// The short name of why.
    pub code: String,
    /// Why.
    pub reason: String,
}

/// What this host can do along with an allowed request: nothing but log it, which it always does.
const OBLIGATIONS: [&str; 1] = ["audit"];

impl Generation {
    /// Decides on requests, all by this generation. Blocks for as long as the policies take: 100 ms, and some more at most, for
    /// each 1,000 requests.
    pub fn authorize(&self, requests: &[Access], now: Timestamp) -> Vec<Outcome> {
        requests.chunks(BATCH).flat_map(|batch| self.decide(batch, now)).collect()
    }

    fn decide(&self, requests: &[Access], now: Timestamp) -> Vec<Outcome> {
        let said = self.ask_all(requests, now);
        // A file that was broken from the first may have been meant to deny.
        let unknown = self.files.iter().find(|file| file.active.is_none() && file.may_deny);
        let unknown = unknown.map(|file| file.file.as_str());
        let outcome = |(request, said): (&Access, Vec<Said>)| {
            let mut outcome = combine(said, unknown, self.number);
            if !is_clear(&request.path) {
                (outcome.allowed, outcome.code) = (false, "unclear-path".into());
            }
            log(request, &outcome);
            outcome
        };
        requests.iter().zip(said).map(outcome).collect()
    }

    /// What each policy says of each request, in the order of the documents. They have their time together, and those whose word
    /// does not count what the others leave of it.
    fn ask_all(&self, requests: &[Access], now: Timestamp) -> Vec<Vec<Said>> {
        let until = of_processor() + QUICK;
        let bindings = self.accesses().flat_map(|(policy, stale_since)| {
            policy.bindings.iter().map(move |binding| Asked { policy, binding, stale_since })
        });
        let mut order: Vec<_> = bindings.enumerate().collect();
        order.sort_by_key(|(_, asked)| asked.binding.mode == Mode::Shadow);
        let mut answers: Vec<_> = order.into_iter().map(|(n, asked)| (n, ask(&asked, requests, now, until))).collect();
        answers.sort_by_key(|(n, _)| *n);
        let mut said: Vec<Vec<Said>> = vec![Vec::new(); requests.len()];
        for (_, answers) in answers {
            for (said, answer) in said.iter_mut().zip(answers) {
                said.push(answer);
            }
        }
        said
    }
}

/// A policy that is asked.
struct Asked<'a> {
    policy: &'a AccessPolicy,
    binding: &'a AccessBinding,
    stale_since: Option<Timestamp>,
}

/// What a policy says of each request, before this thread has had `until` of a processor.
fn ask(asked: &Asked<'_>, requests: &[Access], now: Timestamp, until: Duration) -> Vec<Said> {
    let Asked { policy, binding, stale_since } = *asked;
    let say = |effect, code: &str, reason: String| Said {
        policy: policy.name.clone(),
        module: binding.module.clone(),
        interface: binding.policy.interface(),
        digest: binding.policy.digest(),
        settings: binding.policy.settings_hash(),
        mode: binding.mode,
        effect,
        code: code.into(),
        reason,
    };
    let all = |code: &str, reason: &str| vec![say(Effect::Deny, code, reason.to_owned()); requests.len()];
    if let Some(since) = stale_since {
        // What a clock that was ahead noted says as little as what is too long ago.
        if now.duration_since(since).unsigned_abs() > policy.max_staleness {
            return all("stale-policy", &format!("its newer version has been broken since {since}"));
        }
    }
    let (started, left) = (Instant::now(), until.saturating_sub(of_processor()));
    if left.is_zero() {
        tracing::error!(
            policy = policy.name,
            module = binding.module,
            "a policy was not asked: the others took all the time"
        );
        return all("policy-failed", "it was not asked, for those before it took all of the 100 ms");
    }
    match binding.policy.decide(requests, left) {
        Ok(decisions) => decisions.into_iter().map(checked).map(|d| say(d.effect, &d.code, d.reason)).collect(),
        Err(error) => {
            let took = started.elapsed();
            tracing::error!(
                policy = policy.name,
                module = binding.module,
                ?took,
                error = error.chain(),
                "a policy failed"
            );
            all("policy-failed", &error.chain())
        }
    }
}

/// A decision with an obligation that must be met, and that this host does not know, is a denial.
fn checked(decision: Decision) -> Decision {
    let unknown = |id: &str| !OBLIGATIONS.contains(&id);
    match decision.obligations.iter().find(|obligation| obligation.required && unknown(&obligation.id)) {
        Some(obligation) if decision.effect == Effect::Allow => Decision {
            effect: Effect::Deny,
            code: "unknown-obligation".into(),
            reason: format!("it obliges the host to {:?}, which this host does not know", obligation.id),
            ..decision
        },
        _ => decision,
    }
}

/// Whether a path says by itself which file it is, as policies are promised: their rules do not know `/a/../b` or `/a//b`.
fn is_clear(path: &[u8]) -> bool {
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    path == b"/" || path.strip_prefix(b"/").is_some_and(|names| names.split(|byte| *byte == b'/').all(is_name))
}

/// Deny overrides; silence denies.
fn combine(said: Vec<Said>, unknown: Option<&str>, generation: u64) -> Outcome {
    let counts = |effect| said.iter().find(move |said: &&Said| said.mode == Mode::Enforce && said.effect == effect);
    let (allowed, code) = match (counts(Effect::Deny), unknown, counts(Effect::Allow)) {
        (Some(denied), ..) => (false, denied.code.clone()),
        (None, Some(_), _) => (false, "broken-policy".into()),
        (None, None, Some(allowed)) => (true, allowed.code.clone()),
        (None, None, None) => (false, "nothing-allows".into()),
    };
    Outcome { allowed, code, generation, said }
}

/// One line for each decision, and for each policy's word what is needed to hold it to account.
fn log(request: &Access, outcome: &Outcome) {
    if !tracing::enabled!(target: "remora::decision", tracing::Level::INFO) {
        return;
    }
    let said: Vec<_> = outcome.said.iter().map(|said| serde_json::to_string(said).unwrap_or_default()).collect();
    tracing::info!(
        target: "remora::decision",
        allowed = outcome.allowed,
        code = outcome.code,
        generation = outcome.generation,
        user = request.subject.user,
        action = request.action.name(),
        vm = request.vm.name.as_str(),
        point = request.point,
        path = %String::from_utf8_lossy(&request.path),
        said = %format_args!("[{}]", said.join(",")),
        "decision"
    );
}
