//! What the agent remembers of each VM under each policy: since when it is selected, which run was the last. Kept in a file,
//! so that a restarted agent neither forgets what it missed nor repeats what it did.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use remora_core::policy::PastRun;
use remora_core::{Error, Result, VmName};
use serde::{Deserialize, Serialize};

/// So many runs are remembered.
const RUNS: usize = 32;

/// After a failure a run is tried again so much later, and twice as much later each time.
const FIRST_RETRY: Duration = Duration::from_mins(5);

/// But never later than this.
const LAST_RETRY: Duration = Duration::from_hours(1);

/// A VM under a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Charge {
    pub(crate) policy: String,
    pub(crate) vm: VmName,
}

/// What is remembered of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The end of what is settled: when the last run that was due began, or since when the VM is selected.
    pub(crate) settled: Timestamp,
    /// How often it has failed since it last succeeded.
    #[serde(default)]
    pub(crate) failures: u32,
    /// When a failed run is tried again.
    #[serde(default)]
    pub(crate) retry: Option<Timestamp>,
    /// The newest runs, newest first.
    #[serde(default)]
    pub(crate) runs: Vec<PastRun>,
    /// When the newest point was last verified, or the VM first selected.
    pub(crate) verified: Timestamp,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    entries: BTreeMap<Charge, Entry>,
}

/// The file: by policy, then by VM.
type Stored = BTreeMap<String, BTreeMap<VmName, Entry>>;

impl Ledger {
    /// Reads it, if it is there.
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let path = state.join("ledger.json");
        let named = || format!("the agent's ledger {}", path.display());
        std::fs::create_dir_all(state).map_err(|e| Error::io(named(), e))?;
        let stored: Stored = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::new(remora_core::ErrorKind::Damaged, named())
                    .because(e)
                    .advise("Remove it: then each VM is backed up at its policy's next occasion.")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Stored::new(),
            Err(error) => return Err(Error::io(named(), error)),
        };
        let charge = |(policy, vms): (String, BTreeMap<VmName, Entry>)| {
            vms.into_iter().map(move |(vm, entry)| (Charge { policy: policy.clone(), vm }, entry))
        };
        Ok(Self { entries: stored.into_iter().flat_map(charge).collect(), path })
    }

    /// What is remembered of a VM, or what is known of a new one.
    pub(crate) fn entry(&mut self, charge: &Charge, now: Timestamp) -> &Entry {
        let new = || Entry { settled: now, failures: 0, retry: None, runs: Vec::new(), verified: now };
        self.entries.entry(charge.clone()).or_insert_with(new)
    }

    /// A run that began at `begun` made a point.
    pub(crate) fn succeeded(&mut self, charge: &Charge, begun: Timestamp, run: PastRun) -> Result<()> {
        if let Some(entry) = self.entries.get_mut(charge) {
            (entry.settled, entry.failures, entry.retry) = (begun, 0, None);
            entry.runs.insert(0, run);
            entry.runs.truncate(RUNS);
        }
        self.save()
    }

    /// A run that began at `begun` failed.
    pub(crate) fn failed(&mut self, charge: &Charge, begun: Timestamp, now: Timestamp) -> Result<()> {
        if let Some(entry) = self.entries.get_mut(charge) {
            let pause = FIRST_RETRY.saturating_mul(1 << entry.failures.min(10)).min(LAST_RETRY);
            (entry.settled, entry.failures, entry.retry) = (begun, entry.failures + 1, Some(now + pause));
        }
        self.save()
    }

    /// The newest point was verified.
    pub(crate) fn verified(&mut self, charge: &Charge, now: Timestamp) -> Result<()> {
        if let Some(entry) = self.entries.get_mut(charge) {
            entry.verified = now;
        }
        self.save()
    }

    /// Writes it, in one step.
    pub(crate) fn save(&self) -> Result<()> {
        let mut stored = Stored::new();
        for (charge, entry) in &self.entries {
            stored.entry(charge.policy.clone()).or_default().insert(charge.vm.clone(), entry.clone());
        }
        let write = || -> std::io::Result<()> {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec(&stored)?)?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(|e| Error::io(format!("writing the agent's ledger {}", self.path.display()), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge() -> Charge {
        Charge { policy: "nightly".into(), vm: VmName::new("db 1").unwrap() }
    }

    #[test]
    fn a_restarted_agent_knows_what_was_done() {
        let folder = tempfile::tempdir().unwrap();
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut ledger = Ledger::open(folder.path()).unwrap();
        assert_eq!(ledger.entry(&charge(), at).settled, at);
        let begun = at + Duration::from_hours(2);
        ledger.succeeded(&charge(), begun, PastRun { time: begun, changed: 1, size: 2, seconds: 3 }).unwrap();
        let mut again = Ledger::open(folder.path()).unwrap();
        let entry = again.entry(&charge(), begun + Duration::from_hours(9)).clone();
        assert_eq!((entry.settled, entry.runs.len(), entry.verified), (begun, 1, at));
        std::fs::write(folder.path().join("ledger.json"), b"{").unwrap();
        assert_eq!(Ledger::open(folder.path()).unwrap_err().kind(), remora_core::ErrorKind::Damaged);
    }

    #[test]
    fn failures_are_tried_again_later_and_later_up_to_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut ledger = Ledger::open(folder.path()).unwrap();
        ledger.entry(&charge(), at);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            ledger.failed(&charge(), at, at).unwrap();
            pauses.push(ledger.entry(&charge(), at).retry.unwrap().duration_since(at).as_mins());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        ledger.succeeded(&charge(), at, PastRun { time: at, changed: 0, size: 0, seconds: 0 }).unwrap();
        assert_eq!(ledger.entry(&charge(), at).retry, None);
    }
}
