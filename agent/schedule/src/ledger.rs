//! What is remembered of each VM under each policy: since when it is selected, which run was the last. Who plans with it
//! neither forgets what was missed nor repeats what was done.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use remora_core::VmName;
use remora_core::policy::{Ending, PastRun};
use serde::{Deserialize, Serialize};

/// So many runs are remembered.
const RUNS: usize = 32;

/// After a failure a run is tried again so much later, and twice as much later each time.
const FIRST_RETRY: Duration = Duration::from_mins(5);

/// But never later than this.
pub(crate) const LAST_RETRY: Duration = Duration::from_hours(1);

/// A VM under a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Charge {
    /// The policy's name.
    pub policy: String,
    /// The VM.
    pub vm: VmName,
}

/// What is remembered of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When the last run that was due began, or since when the VM is selected.
    pub settled: Timestamp,
    /// What the first of the runs followed that failed since the last one that did not: its occasion is still open.
    #[serde(default)]
    pub open: Option<Timestamp>,
    /// How often it has failed since it last succeeded.
    #[serde(default)]
    pub failures: u32,
    /// Before this a failed run is not tried again.
    #[serde(default)]
    pub retry: Option<Timestamp>,
    /// The newest runs, newest first.
    #[serde(default)]
    pub runs: Vec<PastRun>,
    /// When the newest point was last verified, or the VM first selected.
    pub verified: Timestamp,
}

impl Entry {
    /// That of a VM which is selected since then.
    pub fn new(since: Timestamp) -> Self {
        Self { settled: since, open: None, failures: 0, retry: None, runs: Vec::new(), verified: since }
    }

    /// The end of what is settled, after which policies are asked for the next occasion: a run that failed settles nothing.
    pub fn after(&self) -> Timestamp {
        self.open.unwrap_or(self.settled)
    }

    /// When a run starts that a policy wants at `start`: a failed one rests first.
    pub(crate) fn rested(&self, start: Timestamp) -> Timestamp {
        self.retry.map_or(start, |retry| start.max(retry))
    }

    /// A run began at `begun`; they are told in the order of that.
    pub fn note(&mut self, begun: Timestamp, ending: Ending) {
        self.open = matches!(ending, Ending::Failed(_)).then_some(self.after());
        self.settled = begun;
        match ending {
            Ending::Made(run) => {
                (self.failures, self.retry) = (0, None);
                self.runs.insert(0, run);
                self.runs.truncate(RUNS);
            }
            Ending::Failed(at) => {
                let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(10)).min(LAST_RETRY);
                (self.failures, self.retry) = (self.failures + 1, Some(at + pause));
            }
            Ending::Settled => self.retry = None,
        }
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    entries: BTreeMap<Charge, Entry>,
}

impl Ledger {
    /// What is remembered of a VM, or what is known of a new one.
    pub fn entry(&mut self, charge: &Charge, now: Timestamp) -> &mut Entry {
        self.entries.entry(charge.clone()).or_insert_with(|| Entry::new(now))
    }

    /// What is remembered of a VM, if anything is.
    pub fn get(&self, charge: &Charge) -> Option<&Entry> {
        self.entries.get(charge)
    }

    /// Remembers this of a VM.
    pub fn put(&mut self, charge: Charge, entry: Entry) {
        self.entries.insert(charge, entry);
    }

    /// All that is remembered, by policy and then by VM.
    pub fn iter(&self) -> impl Iterator<Item = (&Charge, &Entry)> {
        self.entries.iter()
    }

    /// Forgets all but this.
    pub fn retain(&mut self, keep: impl Fn(&Charge) -> bool) {
        self.entries.retain(|charge, _| keep(charge));
    }
}

impl FromIterator<(Charge, Entry)> for Ledger {
    fn from_iter<T: IntoIterator<Item = (Charge, Entry)>>(entries: T) -> Self {
        Self { entries: entries.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("an instant")
    }

    fn made(time: Timestamp) -> Ending {
        Ending::Made(PastRun { time, changed: 0, size: 0, seconds: 0 })
    }

    #[test]
    fn failures_are_tried_again_later_and_later_up_to_an_hour() {
        let at = at("2026-01-01T00:00:00Z");
        let mut entry = Entry::new(at);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            entry.note(at, Ending::Failed(at));
            pauses.push(entry.retry.map(|retry| retry.duration_since(at).as_mins()));
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60].map(Some));
        entry.note(at, made(at));
        assert_eq!((entry.retry, entry.failures), (None, 0));
    }

    #[test]
    fn a_run_that_nobody_wants_any_more_is_not_tried_again_and_forgives_no_failure() {
        let (first, second) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T01:00:00Z"));
        let mut entry = Entry::new(first);
        entry.note(first, Ending::Failed(first));
        entry.note(second, Ending::Settled);
        assert_eq!((entry.settled, entry.retry, entry.failures), (second, None, 1));
        assert_eq!(entry.after(), second);
    }

    #[test]
    fn the_occasion_of_a_failed_run_is_open_until_one_succeeds() {
        let [since, first, second, third] = [0, 1, 2, 3].map(|hour| at(&format!("2026-01-01T0{hour}:00:00Z")));
        let mut entry = Entry::new(since);
        entry.note(first, Ending::Failed(first));
        entry.note(second, Ending::Failed(second));
        assert_eq!((entry.after(), entry.settled), (since, second));
        entry.note(third, made(third));
        assert_eq!((entry.after(), entry.settled), (third, third));
    }
}
