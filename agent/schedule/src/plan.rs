//! Which runs are due: from what policies say, what the ledger remembers, and the time. Policies that fail are as if they
//! had said again what they said last. Nobody waits long for them: one look loses about a second to those that hang, however many
//! they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use remora_core::policy::{Due, Question, Schedule, Select, Selection, VmFacts, Word};
use remora_core::{Error, ErrorKind, VmName, is_ahead};
use remora_plugins::set::{BackupPolicy, Generation};
use remora_plugins::{Digest, Kind};

use crate::answers::{Answered, LastAnswers, LastDue};
use crate::ledger::{Charge, Entry, LAST_RETRY, Ledger};

/// A VM that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// What policies may know of it.
    pub facts: VmFacts,
    /// Whether it can be backed up now.
    pub power: Power,
}

/// Whether a VM runs: on a libvirt host one that does not cannot be backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs, or that does not matter.
    On,
    /// It does not: what is due waits.
    Off,
}

/// A policy that failed is not asked again for so long, unless it changes.
const REST: Duration = Duration::from_mins(1);

/// When a look has lost so much to policies that failed, nobody else is asked in it: who plans has other things to do, and who was
/// not asked is in the next look. Those that fail at once, in a trap, are not what this is about.
const LOST: Duration = Duration::from_millis(500);

/// No two runs are closer by the answer that a policy gave before it failed: that may have been "at once".
const SHORTEST: SignedDuration = SignedDuration::from_hours(1);

/// The reason of an answer that was given before this program started: only the time of it was kept.
const REMEMBERED: &str = "it said so before a restart";

/// What stands before the reason of an answer that is taken to be meant again.
const GUESSED: &str = "it has not answered anew, and a run comes as long after the last one as it said then";

/// Whether a policy selects a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selects {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It did not answer.
    Unknown,
}

/// A run that is due.
#[derive(Clone, Debug)]
pub struct Job {
    /// The VM and the policy.
    pub charge: Charge,
    /// The VM.
    pub vm: VmFacts,
    /// The policy.
    pub policy: Arc<BackupPolicy>,
    /// What it follows: the run before, or the instant since when the VM is selected. There is one run after each.
    pub after: Timestamp,
    /// When it was to start: those that have waited longest go first.
    pub start: Timestamp,
    /// Who said so, and why.
    pub word: Word,
}

/// A policy that failed, in what, and why.
pub type Failure = (String, Kind, Error);

/// What was answered last.
#[derive(Debug, Default)]
pub struct Planner {
    /// By policy, the VMs that it selects, or selected when it last answered.
    selected: HashMap<String, HashSet<VmName>>,
    /// Policies that failed, in what, and when they are asked again.
    failed: HashMap<(String, Kind), Timestamp>,
    answers: HashMap<Charge, Answer>,
    /// Those of which a clock that was ahead settled more than there is, and since when that is known.
    ahead: HashMap<Charge, Timestamp>,
    /// Of which generation and VMs the selection is.
    selected_from: Option<(u64, Vec<Vm>)>,
    /// Policies that have not been asked yet which of these they select.
    unasked: HashSet<String>,
    /// Whether anything of this is new since it was last told.
    news: bool,
}

#[derive(Debug)]
struct Answer {
    generation: u64,
    after: Timestamp,
    due: Due,
    /// The module that gave it and its settings; none if it was given to somebody before.
    by: Option<[Digest; 2]>,
}

impl Answer {
    /// When the run after what is settled starts. A policy that has not answered since is taken to mean the same time again
    /// as there was between the last two.
    fn start(&self, settled: Timestamp) -> Option<Timestamp> {
        let start = self.due.start?;
        if self.after == settled {
            return Some(start);
        }
        settled.checked_add(start.duration_since(self.after).max(SHORTEST)).ok()
    }

    /// Who says that the run after what is settled starts then, and why.
    fn word(&self, settled: Timestamp) -> Word {
        let [digest, settings] = self.by.map(|by| by.map(|digest| digest.to_string())).unwrap_or_default();
        let said = self.due.reason.as_str();
        let reason = if self.after == settled { said.into() } else { format!("{GUESSED}: {said}") };
        Word { digest, settings, reason }
    }
}

/// A VM that a policy selects, and what is remembered of it.
struct Charged<'a> {
    vm: &'a Vm,
    charge: Charge,
    entry: Entry,
}

impl Planner {
    /// One for which policies that fail say what they answered somebody before.
    pub fn following(answered: Answered) -> Self {
        let mut planner = Self::default();
        for (policy, last) in answered {
            for (vm, LastDue { after, start }) in last.due {
                let charge = Charge { policy: policy.clone(), vm };
                // Of no generation that there is: who can answer is asked.
                let answer = Answer { generation: 0, after, due: Due { start, reason: REMEMBERED.into() }, by: None };
                planner.answers.insert(charge, answer);
            }
            planner.selected.insert(policy, last.selected.into_iter().collect());
        }
        planner
    }

    /// What policies answered last, if anything of it is new since this was last asked.
    pub fn news(&mut self) -> Option<Answered> {
        if !std::mem::take(&mut self.news) {
            return None;
        }
        let last = |selected: &HashSet<VmName>| LastAnswers {
            selected: selected.iter().cloned().collect(),
            ..LastAnswers::default()
        };
        let mut all: Answered =
            self.selected.iter().map(|(policy, selected)| (policy.clone(), last(selected))).collect();
        for (charge, answer) in &self.answers {
            // Of a VM that is gone nobody asks any more.
            if let Some(last) = all.get_mut(&charge.policy).filter(|last| last.selected.contains(&charge.vm)) {
                last.due.insert(charge.vm.clone(), LastDue { after: answer.after, start: answer.due.start });
            }
        }
        Some(all)
    }

    /// The runs that are due, those that have waited longest first.
    pub async fn due(
        &mut self,
        generation: &Generation,
        vms: &[Vm],
        ledger: &mut Ledger,
        now: Timestamp,
    ) -> (Vec<Job>, Vec<Failure>) {
        let mut failures = self.select(generation, vms, now).await;
        let (mut jobs, mut lost) = (Vec::new(), Duration::ZERO);
        for policy in self.in_turn(generation, Kind::Schedule) {
            let Some(charged) = self.charged(policy, vms, ledger, now) else { continue };
            if lost < LOST && self.is_asked(&policy.name, Kind::Schedule, now) {
                let started = Instant::now();
                let asked = self.ask(generation.number, policy, &charged, now).await;
                lost += lost_to(&asked, started);
                self.note(&policy.name, Kind::Schedule, asked.err(), now, &mut failures);
            }
            jobs.extend(charged.into_iter().filter_map(|charged| self.job(policy, charged, now)));
        }
        jobs.sort_by(|a, b| (a.start, &a.charge).cmp(&(b.start, &b.charge)));
        (jobs, failures)
    }

    /// The VMs that a policy selects; none if it has never said which.
    fn charged<'a>(
        &mut self,
        policy: &BackupPolicy,
        vms: &'a [Vm],
        ledger: &mut Ledger,
        now: Timestamp,
    ) -> Option<Vec<Charged<'a>>> {
        let selected = self.selected.get(&policy.name)?;
        let chosen: Vec<_> = vms.iter().filter(|vm| selected.contains(&vm.facts.name)).collect();
        let charged = chosen.into_iter().map(|vm| {
            let charge = Charge { policy: policy.name.clone(), vm: vm.facts.name.clone() };
            let entry = self.set_back(&charge, ledger.entry(&charge, now).clone(), now);
            Charged { vm, charge, entry }
        });
        Some(charged.collect())
    }

    /// The run of a VM, if it is due by what its policy answered.
    fn job(&self, policy: &Arc<BackupPolicy>, charged: Charged<'_>, now: Timestamp) -> Option<Job> {
        let Charged { vm, charge, entry } = charged;
        let answer = self.answers.get(&charge)?;
        let start = entry.rested(answer.start(entry.after())?);
        if start > now || vm.power == Power::Off {
            return None;
        }
        let (after, word) = (entry.settled, answer.word(entry.after()));
        Some(Job { charge, vm: vm.facts.clone(), policy: Arc::clone(policy), after, start, word })
    }

    /// Whether a policy selects a VM.
    pub fn selects(&self, charge: &Charge) -> Selects {
        let failed = self.failed.contains_key(&(charge.policy.clone(), Kind::Select));
        let answered = !failed && !self.unasked.contains(&charge.policy);
        match self.selected.get(&charge.policy).filter(|_| answered) {
            Some(vms) if vms.contains(&charge.vm) => Selects::Yes,
            Some(_) => Selects::No,
            None => Selects::Unknown,
        }
    }

    /// The policies in the order in which they are asked: those that answer, those that never did yet, those that failed. So who
    /// answers is not asked after one that hangs, but for the first time.
    fn in_turn<'a>(&self, generation: &'a Generation, kind: Kind) -> Vec<&'a Arc<BackupPolicy>> {
        let mut policies: Vec<_> = generation.backups().map(|(policy, _)| policy).collect();
        policies.sort_by_cached_key(|policy| {
            // None comes first, then who failed longest ago.
            let failed = self.failed.get(&(policy.name.clone(), kind)).copied();
            (failed, !self.selected.contains_key(&policy.name))
        });
        policies
    }

    /// Whether a policy is asked now: one that failed rests, for it may take its whole second again, and others wait. A rest that
    /// is longer than any is one of a clock that was set back.
    fn is_asked(&self, policy: &str, kind: Kind, now: Timestamp) -> bool {
        self.failed.get(&(policy.to_owned(), kind)).is_none_or(|again| *again <= now || *again > now + REST)
    }

    /// What is remembered of a VM, without what a clock noted that was ahead: until that time came, nothing would be due. Such a
    /// run settles what was there when the clock had been set back; the ledger keeps it, for the clock may be wrong now.
    fn set_back(&mut self, charge: &Charge, mut entry: Entry, now: Timestamp) -> Entry {
        // A failed run rests for that long at the most: what is later was noted by such a clock, and not by one seconds ahead.
        entry.retry = entry.retry.filter(|retry| !is_ahead(*retry, now + LAST_RETRY));
        if is_ahead(entry.after(), now) {
            let known = self.ahead.get(charge).copied().filter(|since| !is_ahead(*since, now));
            let since = known.unwrap_or(now);
            self.ahead.insert(charge.clone(), since);
            (entry.settled, entry.open) = (since, None);
        } else {
            self.ahead.remove(charge);
        }
        entry
    }

    fn note(&mut self, policy: &str, kind: Kind, error: Option<Error>, now: Timestamp, failures: &mut Vec<Failure>) {
        let key = (policy.to_owned(), kind);
        match error {
            Some(error) => {
                self.failed.insert(key, now + REST);
                failures.push((policy.to_owned(), kind, error));
            }
            None => drop(self.failed.remove(&key)),
        }
    }

    /// Asks which VMs are selected, if policies or VMs have changed, and those who did not answer.
    async fn select(&mut self, generation: &Generation, vms: &[Vm], now: Timestamp) -> Vec<Failure> {
        let known = self.selected_from.as_ref();
        if known.is_none_or(|(number, _)| *number != generation.number) {
            self.failed.clear();
        }
        if known.is_none_or(|(number, known)| *number != generation.number || known != vms) {
            self.renew(generation, vms);
        }
        if self.unasked.is_empty() && self.failed.is_empty() {
            return Vec::new();
        }
        let (mut failures, mut lost) = (Vec::new(), Duration::ZERO);
        let facts: Vec<_> = vms.iter().map(|vm| vm.facts.clone()).collect();
        for policy in self.in_turn(generation, Kind::Select) {
            let failed = self.failed.contains_key(&(policy.name.clone(), Kind::Select));
            let open = failed || self.unasked.contains(&policy.name);
            if lost >= LOST || !open || !self.is_asked(&policy.name, Kind::Select, now) {
                continue;
            }
            let started = Instant::now();
            let answered = policy.select.select(&facts).await;
            lost += lost_to(&answered, started);
            self.unasked.remove(&policy.name);
            if let Ok(answers) = &answered {
                let chosen = facts.iter().zip(answers).filter(|(_, answer)| answer.selected);
                let chosen: HashSet<_> = chosen.map(|(vm, _)| vm.name.clone()).collect();
                let before = self.selected.insert(policy.name.clone(), chosen);
                self.news |= before.as_ref() != self.selected.get(&policy.name);
                tell(policy, &before.unwrap_or_default(), &facts, answers);
            }
            self.note(&policy.name, Kind::Select, answered.err(), now, &mut failures);
        }
        failures
    }

    /// Everybody is to be asked which VMs are selected, for policies or VMs are others now.
    fn renew(&mut self, generation: &Generation, vms: &[Vm]) {
        let there: HashSet<_> = generation.backups().map(|(policy, _)| policy.name.as_str()).collect();
        self.selected.retain(|name, _| there.contains(name.as_str()));
        self.answers.retain(|charge, _| there.contains(charge.policy.as_str()));
        self.ahead.retain(|charge, _| there.contains(charge.policy.as_str()));
        self.unasked = there.into_iter().map(str::to_owned).collect();
        self.selected_from = Some((generation.number, vms.to_vec()));
    }

    /// Asks when the next runs are due, where that is not known, or may have changed: one that would start now is asked
    /// about again, since it may have waited into a blackout.
    async fn ask(
        &mut self,
        generation: u64,
        policy: &BackupPolicy,
        charged: &[Charged<'_>],
        now: Timestamp,
    ) -> Result<(), Error> {
        let open = charged.iter().filter(|one| match self.answers.get(&one.charge) {
            Some(answer) if answer.generation == generation && answer.after == one.entry.after() => {
                answer.due.start.is_some_and(|start| one.entry.rested(start) <= now)
            }
            _ => true,
        });
        let (asked, questions): (Vec<_>, Vec<_>) = open
            .map(|one| {
                let question = Question {
                    vm: one.vm.facts.clone(),
                    now,
                    after: one.entry.after().min(now),
                    seed: seed(&one.charge),
                    runs: one.entry.runs.clone(),
                };
                ((&one.charge, one.entry.after()), question)
            })
            .unzip();
        if questions.is_empty() {
            return Ok(());
        }
        let answers = policy.schedule.next(&questions).await?;
        for ((charge, after), due) in asked.into_iter().zip(answers) {
            // What is past is as good as now: who waits is asked again and again.
            let at = |due: &Due| due.start.map(|start| start.max(now));
            let known = self.answers.get(charge).map(|known| (known.after, at(&known.due)));
            self.news |= known != Some((after, at(&due)));
            let by = Some([policy.schedule.digest(), policy.schedule.settings_hash()]);
            self.answers.insert(charge.clone(), Answer { generation, after, due, by });
        }
        Ok(())
    }
}

/// Those that a policy selected, and is not asked of any more: they have no more backups, and nobody decided that.
fn gone<'a>(before: &'a HashSet<VmName>, vms: &[VmFacts]) -> Vec<&'a VmName> {
    let there: HashSet<_> = vms.iter().map(|vm| &vm.name).collect();
    before.iter().filter(|vm| !there.contains(vm)).collect()
}

/// Says of each VM whose selection has changed what the policy said of it, or that it is gone: removed, or
/// as good as that, for its definition cannot be read.
fn tell(policy: &BackupPolicy, before: &HashSet<VmName>, vms: &[VmFacts], answers: &[Selection]) {
    for vm in gone(before, vms) {
        let (policy, vm) = (policy.name.as_str(), vm.as_str());
        tracing::info!(target: "remora::decision", policy, vm, "a VM that was selected is not found any more");
    }
    let (digest, settings) = (policy.select.digest(), policy.select.settings_hash());
    for (vm, answer) in vms.iter().zip(answers) {
        let what = match (before.contains(&vm.name), answer.selected) {
            (false, true) => "a VM is selected",
            (true, false) => "a VM is not selected any more",
            (false, false) | (true, true) => continue,
        };
        tracing::info!(
            target: "remora::decision",
            policy = policy.name,
            vm = vm.name.as_str(),
            %digest,
            %settings,
            reason = answer.reason,
            "{what}"
        );
    }
}

/// What was lost to a policy that hung.
fn lost_to<T>(answered: &Result<T, Error>, started: Instant) -> Duration {
    let hung = answered.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled);
    if hung { started.elapsed() } else { Duration::ZERO }
}

/// The same for a VM under a policy, on every host and in every version.
fn seed(charge: &Charge) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(charge.policy.as_bytes()).update(&[0]).update(charge.vm.as_str().as_bytes());
    let mut seed = [0; 8];
    hasher.finalize_xof().fill(&mut seed);
    u64::from_le_bytes(seed)
}

#[cfg(test)]
mod tests;
