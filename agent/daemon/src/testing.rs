//! Policies for tests.

use jiff::Timestamp;
use remora_plugins::set::{Generation, Snapshot};
use remora_plugins::{Host, HostOptions};

/// A generation of one file, which is no policy.
pub(crate) fn one_file() -> Generation {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broken.yaml"), "kind: BackupPolicy\n").unwrap();
    let host = Host::new(&HostOptions::default()).unwrap();
    Generation::default().next(&host, &Snapshot::read(folder.path()).unwrap(), Timestamp::now())
}
