//! What can happen to a VM between and during backups, through the command line: each time the decision and its reason,
//! what is said, that every point restores exactly what the hypervisor held, and that the next backup is right again.

mod busy;
mod checkpoints;
mod held;
mod identity;
mod incremental;
mod midway;
pub(crate) mod quiesce;
mod stopped;
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use remora_tests::truth::assert_same;
use remora_tests::{Domain, Lab, Remora};
use serde_json::Value;

/// A disk, its decision, and words that the reason must hold.
type Wanted<'a> = (&'a str, &'a str, &'a str);

const FIRST: &str = "first point of this VM in this repository";
const CONSISTENT: &str = "the newest point's checkpoint is present and consistent";

/// A domain and a repository that protects it.
struct Protected<'lab> {
    domain: Domain<'lab>,
    remora: Remora,
}

/// A point, and what the hypervisor held when it was made.
struct Taken {
    /// What `remora backup -o json` told.
    report: Value,
    /// What `remora show -o json` tells.
    shown: Value,
    truths: Vec<(String, PathBuf)>,
}

impl<'lab> Protected<'lab> {
    /// With a new repository.
    fn new(domain: Domain<'lab>) -> Self {
        Self { remora: Remora::init(domain.lab()), domain }
    }

    fn lab(&self) -> &'lab Lab {
        self.domain.lab()
    }

    /// Backs up, and checks what was decided for each disk, why, and that nothing of the run stays.
    #[track_caller]
    fn backup(&self, wanted: &[Wanted<'_>]) -> Taken {
        backup(&self.domain, &self.remora, wanted)
    }

    #[track_caller]
    fn assert_restores(&self, taken: &Taken) {
        assert_restores(self.lab(), &self.remora, taken);
    }

    /// The checkpoints of the domain, as libvirt lists them.
    fn checkpoints(&self) -> BTreeSet<String> {
        let listed = self.domain.virsh("checkpoint-list", &["--name"]);
        listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_nothing_left(&self.domain);
    }
}

impl Taken {
    fn point(&self) -> &str {
        text(&self.report["point"])
    }

    /// What `remora show` tells of a disk.
    fn disk(&self, name: &str) -> &Value {
        self.shown["disks"].as_array().unwrap().iter().find(|disk| disk["name"] == name).unwrap()
    }

    fn checkpoint(&self, disk: &str) -> String {
        text(&self.disk(disk)["checkpoint"]).to_owned()
    }

    /// The bytes that were read of a disk.
    fn read(&self, disk: &str) -> u64 {
        self.disk(disk)["read"].as_u64().unwrap()
    }

    /// The bytes that the point added for a disk.
    fn stored(&self, disk: &str) -> u64 {
        self.disk(disk)["stored"].as_u64().unwrap()
    }
}

#[track_caller]
fn backup(domain: &Domain<'_>, remora: &Remora, wanted: &[Wanted<'_>]) -> Taken {
    let names: Vec<_> = wanted.iter().map(|(disk, ..)| *disk).collect();
    let truths = domain.truths(&names);
    let report = remora.json(["backup", domain.name(), "--quiesce", "never"]);
    let taken = taken(domain, remora, report, names.iter().map(|name| (*name).to_owned()).zip(truths).collect());
    check(&taken, domain, wanted);
    taken
}

/// What was made, from what `remora backup` told; and nothing else is left of it.
#[track_caller]
fn taken(domain: &Domain<'_>, remora: &Remora, report: Value, truths: Vec<(String, PathBuf)>) -> Taken {
    let shown = remora.json(["show", text(&report["point"])]);
    assert_nothing_left(domain);
    Taken { report, shown, truths }
}

/// `backup` and `show` tell the same, and it is what was wanted.
#[track_caller]
fn check(taken: &Taken, domain: &Domain<'_>, wanted: &[Wanted<'_>]) {
    let Taken { report, shown, .. } = taken;
    assert_eq!(report["vm"], domain.name());
    for field in ["decision", "reason"] {
        assert_eq!(report[field], shown[field], "{report:#} {shown:#}");
    }
    let disks = (report["disks"].as_array().unwrap(), shown["disks"].as_array().unwrap());
    assert_eq!((disks.0.len(), disks.1.len()), (wanted.len(), wanted.len()), "{report:#}");
    for ((told, shown), (name, decision, reason)) in disks.0.iter().zip(disks.1).zip(wanted) {
        for field in ["name", "size", "decision", "read", "stored"] {
            assert_eq!(told[field], shown[field], "{report:#} {shown:#}");
        }
        assert_eq!((&told["name"], &told["decision"]), (&Value::from(*name), &Value::from(*decision)), "{shown:#}");
        assert!(text(&shown["reason"]).contains(reason), "{reason:?} is not in {shown:#}");
    }
    // The point's own are those of its costliest disk.
    let cost = |decision: &str| ["incremental", "reread", "full"].iter().position(|one| *one == decision);
    let (_, decision, reason) = wanted.iter().rev().max_by_key(|(_, decision, _)| cost(decision)).unwrap();
    assert_eq!(report["decision"], *decision);
    assert!(text(&report["reason"]).contains(reason), "{reason:?} is not in {report:#}");
}

/// A point restores to exactly what the hypervisor held.
#[track_caller]
fn assert_restores(lab: &Lab, remora: &Remora, taken: &Taken) {
    let folder = lab.scratch("restored");
    let to = folder.join("disks");
    remora.ok(["restore".as_ref(), taken.point().as_ref(), "--to".as_ref(), to.as_os_str()]);
    for (disk, truth) in &taken.truths {
        assert_same(&to.join(format!("{disk}.raw")), truth);
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), taken.truths.len(), "only the point's disks");
    fs::remove_dir_all(folder).unwrap();
}

/// Of a run that is over there is no job, no socket and no scratch file.
#[track_caller]
fn assert_nothing_left(domain: &Domain<'_>) {
    let job = domain.try_virsh("backup-dumpxml", &[]);
    assert!(!job.status.success(), "a backup job is left behind: {job:?}");
    let sockets = sockets(domain);
    assert!(!sockets.exists(), "{} is left behind", sockets.display());
    let files = fs::read_dir(domain.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let scratch: Vec<_> = files.filter(|name| name.to_string_lossy().starts_with(".remora")).collect();
    assert!(scratch.is_empty(), "left behind: {scratch:?}");
}

/// The folder of the sockets that a domain's backup is read from.
fn sockets(domain: &Domain<'_>) -> PathBuf {
    domain.lab().dir().join("remora").join(domain.uuid())
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
