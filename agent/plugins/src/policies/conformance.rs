//! Trials of policies: what `docs/plugins.md` says that one must hold.

mod questions;
mod settings;
mod speed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use remora_core::Result;

use super::{AuthorizePolicy, RetentionPolicy, SchedulePolicy, SelectPolicy};
use crate::cases;
use crate::conformance::settings::{Refusal, refusals};
use crate::conformance::{self, Depth, Findings, Report};
use crate::host::{Digest, Host, HostOptions, Kind, Module, Refused, Reuse, wrong_setting};
use questions::Random;

/// How a policy is tried.
#[derive(Clone, Debug, Default)]
pub struct PolicyTrial {
    /// The settings that it is to take, as JSON.
    pub settings: String,
    /// Settings that it is to refuse: YAML, a list of `{settings, field}`.
    pub refused: Option<String>,
    /// Files of golden cases.
    pub cases: Vec<PathBuf>,
    /// What the random questions come from.
    pub seed: u64,
    /// How many random questions are asked.
    pub questions: usize,
    /// The program that compiles it; else the one beside this program.
    pub program: Option<PathBuf>,
}

/// Tries a policy.
pub async fn policy(component: Vec<u8>, trial: PolicyTrial, depth: Depth) -> Result<Report> {
    let host = Host::new(&HostOptions { compiler: trial.program.clone(), ..HostOptions::default() })?;
    let refusals = refusals(trial.refused.as_deref())?;
    let (seed, files) = (trial.seed, trial.cases.clone());
    let digest = Digest::of(&component);
    let tried = {
        let host = host.clone();
        move || Component { host: &host, trial: &trial, refusals: &refusals, depth }.all(&component)
    };
    let tried = tokio::task::spawn_blocking(tried).await;
    let (mut findings, exports) = tried
        .map_err(|died| remora_core::Error::new(remora_core::ErrorKind::Failed, "trying a policy").because(died))?;
    if depth == Depth::Test {
        for file in &files {
            golden(&mut findings, &host, file).await;
        }
        if files.is_empty() {
            findings.skip("golden cases", "none were given");
        }
    }
    Ok(findings.report(digest, exports, seed))
}

/// The cases of a file. They are run by the documents that it names, which are to name this component.
async fn golden(findings: &mut Findings, host: &Host, file: &std::path::Path) {
    let named = format!("golden cases of {}", file.display());
    match cases::run(host, file).await {
        Ok(results) => {
            for case in results {
                findings.note(format!("{named}: {}", case.name), case.failed.map_or(Ok(()), Err));
            }
        }
        Err(error) => findings.note(named, Err(error.chain())),
    }
}

/// A component that is tried.
struct Component<'a> {
    host: &'a Host,
    trial: &'a PolicyTrial,
    refusals: &'a [Refusal],
    depth: Depth,
}

impl Component<'_> {
    /// What was found, and the names of the interfaces that were tried.
    fn all(&self, component: &[u8]) -> (Findings, Vec<String>) {
        let mut findings = Findings::default();
        findings.size(component);
        let started = Instant::now();
        let module = match self.host.module(&component.into()) {
            Ok(module) => module,
            Err(error) => {
                findings.note(WORLD, Err(conformance::told(&error)));
                return (findings, Vec::new());
            }
        };
        findings.note(WORLD, Ok(()));
        findings.figure("compiling", started.elapsed().as_secs_f64() * 1e3, "ms", None);
        for kind in module.exports().keys() {
            match kind {
                Kind::Select => self.one::<SelectPolicy>(&mut findings, &module),
                Kind::Schedule => self.one::<SchedulePolicy>(&mut findings, &module),
                Kind::Retention => self.one::<RetentionPolicy>(&mut findings, &module),
                Kind::Authorize => self.one::<AuthorizePolicy>(&mut findings, &module),
            }
        }
        (findings, module.exports().values().copied().map(String::from).collect())
    }

    /// One of the interfaces that it exports.
    fn one<P: Tried>(&self, findings: &mut Findings, module: &Arc<Module>) {
        let kind = P::KIND;
        let loaded = P::load(self.host, module, &self.trial.settings);
        let policy = match loaded {
            Ok(policy) => policy,
            Err(refused) => return findings.note(format!("{kind}: takes its settings"), Err(told(&refused))),
        };
        findings.note(format!("{kind}: takes its settings"), Ok(()));
        if self.depth != Depth::Bench {
            settings::try_wrong::<P>(findings, self.host, module, &self.trial.settings, self.refusals);
        }
        if self.depth == Depth::Test {
            self.ask_at_random(findings, &policy);
        }
        if self.depth != Depth::Check {
            speed::measure(findings, &policy, self.trial.seed, self.depth);
        }
    }

    /// Asks what nobody thought of: it must answer, and the same whenever and wherever it is asked.
    fn ask_at_random<P: Tried>(&self, findings: &mut Findings, policy: &P) {
        let mut random = Random::new(self.trial.seed);
        let questions = P::questions(&mut random, self.trial.questions);
        let kind = P::KIND;
        let batched = in_batches(policy, &questions);
        let answers = match batched {
            Ok(answers) => answers,
            Err(why) => {
                findings.note(format!("{kind}: answers random questions"), Err(why));
                return findings.skip(format!("{kind}: equal questions get equal answers"), "it did not answer all");
            }
        };
        findings.note(format!("{kind}: answers random questions"), Ok(()));
        findings.note(format!("{kind}: equal questions get equal answers"), same(policy, &questions, &answers));
    }
}

const WORLD: &str = "is a component that imports nothing and exports an interface of a policy";

/// Asks in calls of different sizes, each in a new instance.
fn in_batches<P: Tried>(policy: &P, questions: &[P::Question]) -> Result<Vec<String>, String> {
    let mut answers = Vec::with_capacity(questions.len());
    for size in [1, 7, 64].into_iter().cycle() {
        let batch = &questions[answers.len()..questions.len().min(answers.len() + size)];
        if batch.is_empty() {
            break;
        }
        let first = answers.len();
        answers.extend(policy.ask(Reuse::Never, batch).map_err(|error| {
            let shown: String = format!("{:?}", batch[0]).chars().take(2_000).collect();
            format!("questions {first} to {}, of which the first is {shown}: {}", first + batch.len(), error.chain())
        })?);
    }
    Ok(answers)
}

/// Whether each question alone, in a new instance and in one that was asked others before, gets its answer again.
fn same<P: Tried>(policy: &P, questions: &[P::Question], answers: &[String]) -> Result<(), String> {
    // The last one first: what an instance keeps of earlier questions is another thing then.
    for (n, (question, expected)) in questions.iter().zip(answers).enumerate().rev() {
        for (reuse, where_) in [(Reuse::Never, "a new instance"), (Reuse::Ready, "one that was used before")] {
            let asked = policy.ask(reuse, std::slice::from_ref(question));
            let answer = asked.map_err(|error| format!("question {n}, in {where_}: {}", error.chain()))?.concat();
            if answer != *expected {
                return Err(format!("question {n}: {expected} among others, and {answer} in {where_}"));
            }
        }
    }
    Ok(())
}

/// What a policy says of itself when it is not taken.
fn told(refused: &Refused) -> String {
    match refused {
        Refused::Because(error) => conformance::told(error),
        Refused::Settings(errors) => {
            let each = errors.iter().map(|error| wrong_setting(&error.path, &error.message));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

/// A policy of any kind, as it is tried.
trait Tried: Sized {
    const KIND: Kind;
    type Question: Clone + std::fmt::Debug;

    fn load(host: &Host, module: &Arc<Module>, settings: &str) -> Result<Self, Refused>;
    /// So many, of all sorts.
    fn questions(random: &mut Random, count: usize) -> Vec<Self::Question>;
    /// As much as one call is asked in production.
    fn large(random: &mut Random) -> Vec<Self::Question>;
    /// What it answers, as text: equal if and only if the answers are.
    fn ask(&self, reuse: Reuse, questions: &[Self::Question]) -> Result<Vec<String>>;
}

fn texts<T: std::fmt::Debug>(answers: Vec<T>) -> Vec<String> {
    answers.into_iter().map(|answer| format!("{answer:?}")).collect()
}

macro_rules! tried {
    ($policy:ident, $kind:ident, $question:ty, $all_sorts:ident, $large:ident) => {
        impl Tried for $policy {
            const KIND: Kind = Kind::$kind;
            type Question = $question;

            fn load(host: &Host, module: &Arc<Module>, settings: &str) -> Result<Self, Refused> {
                Self::of(host, Arc::clone(module), settings)
            }

            fn questions(random: &mut Random, count: usize) -> Vec<$question> {
                random.$all_sorts(count)
            }

            fn large(random: &mut Random) -> Vec<$question> {
                random.$large(super::BATCH)
            }

            fn ask(&self, reuse: Reuse, questions: &[$question]) -> Result<Vec<String>> {
                // The method of the policy itself, which answers in its own words.
                $policy::ask(self, reuse, questions).map(texts)
            }
        }
    };
}

tried!(SelectPolicy, Select, remora_core::policy::VmFacts, vms, vms);
tried!(SchedulePolicy, Schedule, remora_core::policy::Question, schedules, schedules);
tried!(AuthorizePolicy, Authorize, remora_core::policy::Access, listings, listing);

impl Tried for RetentionPolicy {
    const KIND: Kind = Kind::Retention;
    type Question = questions::Points;

    fn load(host: &Host, module: &Arc<Module>, settings: &str) -> Result<Self, Refused> {
        Self::of(host, Arc::clone(module), settings)
    }

    fn questions(random: &mut Random, count: usize) -> Vec<questions::Points> {
        (0..count).map(|_| random.points(200)).collect()
    }

    fn large(random: &mut Random) -> Vec<questions::Points> {
        vec![random.points(10_000)]
    }

    fn ask(&self, reuse: Reuse, questions: &[questions::Points]) -> Result<Vec<String>> {
        questions
            .iter()
            .map(|asked| Ok(format!("{:?}", Self::ask(self, reuse, &asked.vm, &asked.all, asked.now)?)))
            .collect()
    }
}
