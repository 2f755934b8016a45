//! The ledger's file, so that a restarted agent neither forgets what it missed nor repeats what it did.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use remora_core::policy::Ending;
use remora_core::{Error, Result, VmName};
use remora_schedule::{Charge, Entry, Ledger};

/// The ledger, and where it is kept.
#[derive(Debug)]
pub(crate) struct LedgerFile {
    path: PathBuf,
    pub(crate) ledger: Ledger,
}

/// The file: by policy, then by VM.
type Stored = BTreeMap<String, BTreeMap<VmName, Entry>>;

impl LedgerFile {
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
        Ok(Self { ledger: stored.into_iter().flat_map(charge).collect(), path })
    }

    /// A run that began at `begun` has ended.
    pub(crate) fn note(&mut self, charge: &Charge, begun: Timestamp, ending: Ending) -> Result<()> {
        self.ledger.entry(charge, begun).note(begun, ending);
        self.save()
    }

    /// The newest point was verified.
    pub(crate) fn verified(&mut self, charge: &Charge, now: Timestamp) -> Result<()> {
        self.ledger.entry(charge, now).verified = now;
        self.save()
    }

    /// Writes it, in one step.
    pub(crate) fn save(&self) -> Result<()> {
        let mut stored = Stored::new();
        for (charge, entry) in self.ledger.iter() {
            stored.entry(charge.policy.clone()).or_default().insert(charge.vm.clone(), entry.clone());
        }
        let bytes = serde_json::to_vec(&stored).map_err(std::io::Error::from);
        let written = bytes.and_then(|bytes| replace(&self.path, &bytes));
        written.map_err(|e| Error::io(format!("writing the agent's ledger {}", self.path.display()), e))
    }
}

/// Writes a file in the place of the one that there is, in one step.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use remora_core::policy::PastRun;

    use super::*;

    #[test]
    fn a_restarted_agent_knows_what_was_done() {
        let folder = tempfile::tempdir().unwrap();
        let charge = Charge { policy: "nightly".into(), vm: VmName::new("db 1").unwrap() };
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut file = LedgerFile::open(folder.path()).unwrap();
        assert_eq!(file.ledger.entry(&charge, at).settled, at);
        let begun = at + Duration::from_hours(2);
        let run = PastRun { time: begun, changed: 1, size: 2, seconds: 3 };
        file.note(&charge, begun, Ending::Made(run)).unwrap();
        let mut again = LedgerFile::open(folder.path()).unwrap();
        let entry = again.ledger.entry(&charge, begun + Duration::from_hours(9)).clone();
        assert_eq!((entry.settled, entry.runs.len(), entry.verified), (begun, 1, at));
        std::fs::write(folder.path().join("ledger.json"), b"{").unwrap();
        assert_eq!(LedgerFile::open(folder.path()).unwrap_err().kind(), remora_core::ErrorKind::Damaged);
    }
}
