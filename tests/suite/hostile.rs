//! Attacks on the whole product, through its command line: bad input, damage, full disks, kills and signals at many
//! instants. Whatever is done to it, earlier points restore byte for byte, the next backup is right, nothing stays
//! behind, and the message says what to do.

mod contract;
mod damage;
mod full;
mod input;
mod killed;
pub(crate) mod mounts;
mod movers;
mod names;
mod output;
mod put_back;
mod repair;
mod signals;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Domain, Format, Lab, MIB, Ran, Remora, wait_until};
use serde_json::Value;

/// How long anything may take that is only waited for.
const SOON: Duration = Duration::from_mins(5);

/// How long a watchdog may take to clean up: the job of a run that died just before it asked libvirt for it could still
/// appear, and is waited for during a whole minute.
const CLEANED_UP: Duration = Duration::from_mins(10);

/// What [`Protected::left_behind`] calls the folder for sockets.
const SOCKETS: &str = "a folder for sockets";

/// A point, and what it must hold.
#[derive(Clone, Debug)]
struct Kept {
    id: String,
    truth: PathBuf,
}

/// A VM without a guest, with one disk `vda`; its repository; and its points.
struct Protected<'lab> {
    domain: Domain<'lab>,
    remora: Remora,
    kept: Vec<Kept>,
}

impl Protected<'static> {
    /// A VM with `len` random bytes on a disk of that size, and no point yet.
    fn new(name: &str, len: u64) -> Self {
        let lab = Lab::shared();
        let raw = lab.scratch("content").join("raw");
        fs::write(&raw, random(name, len)).unwrap();
        let domain = lab.domain(name).disk(DiskSpec::holding("vda", Format::Qcow2, &raw)).paused();
        fs::remove_file(raw).unwrap();
        Self { domain, remora: Remora::init(lab), kept: Vec::new() }
    }
}

impl Protected<'_> {
    /// Makes a point, and keeps what it must hold.
    #[track_caller]
    fn back_up(&mut self, args: &[&str]) -> Value {
        let truth = self.domain.truth("vda");
        let report = self.remora.json(["backup", self.domain.name()].iter().chain(args));
        self.kept.push(Kept { id: report["point"].as_str().unwrap().to_owned(), truth });
        report
    }

    /// Exactly the points that are kept are listed.
    #[track_caller]
    fn assert_listed(&self) {
        let listed = ids(&self.remora.json(["points"]));
        assert_eq!(listed, self.kept.iter().map(|kept| kept.id.clone()).collect::<Vec<_>>());
    }

    #[track_caller]
    fn assert_restores(&self, kept: &Kept) {
        let to = self.domain.lab().scratch("restored").join("vda.raw");
        self.remora.ok(["restore", &kept.id, "--disk", "vda", "--to", to.to_str().unwrap()]);
        assert_same(&to, &kept.truth);
        fs::remove_file(to).unwrap();
    }

    #[track_caller]
    fn assert_all_restore(&self) {
        self.assert_listed();
        self.kept.iter().for_each(|kept| self.assert_restores(kept));
    }

    /// What runs left outside the repository.
    fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.domain.try_virsh("backup-dumpxml", &[]).status.success() {
            left.push("a backup job".to_owned());
        }
        if self.sockets().exists() {
            left.push(SOCKETS.to_owned());
        }
        left.extend(list(self.domain.dir()).into_iter().filter(|name| name.starts_with(".remora")));
        left
    }

    /// What costs or holds something. The folder for sockets, with nothing in it, waits for the next run.
    fn harmful_left(&self) -> Vec<String> {
        let mut left = self.left_behind();
        if list(&self.sockets()).is_empty() {
            left.retain(|what| what != SOCKETS);
        }
        left
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(self.left_behind(), [""; 0]);
    }

    fn sockets(&self) -> PathBuf {
        self.domain.lab().dir().join("remora").join(self.domain.uuid())
    }

    fn checkpoints(&self) -> BTreeSet<String> {
        let listed = self.domain.virsh("checkpoint-list", &["--name"]);
        listed.lines().map(str::trim).filter(|name| !name.is_empty()).map(Into::into).collect()
    }

    /// The objects of the repository that a reader needs, as paths from its root.
    fn objects(&self) -> BTreeSet<PathBuf> {
        objects(&self.remora.repository()).into_iter().filter(|path| !path.starts_with("doctor")).collect()
    }
}

/// The files below a folder, as paths from it.
fn objects(root: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    found
}

/// The names in a folder, if it is there.
fn list(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The points of a list.
fn ids(points: &Value) -> Vec<String> {
    points.as_array().unwrap().iter().map(|point| point["point"].as_str().unwrap().to_owned()).collect()
}

/// Bytes that do not shrink: the same for the same seed.
fn random(seed: &str, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Panics unless the command failed in the way that `docs/cli.md` promises: this exit code, a message with all of
/// `says`, an advice, no panic, and nothing on standard output.
#[track_caller]
fn assert_refused(ran: &Ran, code: i32, says: &[&str]) {
    assert_eq!(ran.code(), code, "{ran:?}");
    assert!(ran.stderr.contains("error: "), "{ran:?}");
    assert!(ran.stderr.contains("\n  → "), "no advice: {ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    assert!(ran.stdout.is_empty(), "{ran:?}");
    for word in says {
        assert!(ran.stderr.contains(word), "{word:?} is not in the message of {ran:?}");
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

fn signal(child: &Child, signal: Signal) {
    kill(pid(child), signal).unwrap();
}

/// The processes whose parent is this one.
pub(super) fn children(parent: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect::<Vec<_>>())
        .collect()
}

/// A process that is known by when it began, too: its number may be another one's once it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: Pid,
    began: String,
}

impl Process {
    /// The children of a process as they are now.
    fn children(parent: Pid) -> Vec<Self> {
        children(parent).into_iter().filter_map(|pid| Some(Self { pid, began: running_since(pid)? })).collect()
    }

    fn is_gone(&self) -> bool {
        running_since(self.pid).as_ref() != Some(&self.began)
    }
}

/// When a process began, in ticks since the host's start, if it runs. One that was killed stays until somebody waits for it:
/// that counts as gone.
fn running_since(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // What follows the name, which may have anything in it, begins with the third field.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let runs = fields.next()? != "Z";
    fields.nth(22 - 4).filter(|_| runs).map(str::to_owned)
}

#[track_caller]
fn wait_until_gone(processes: &[Process]) {
    wait_until(format_args!("{processes:?} stay"), SOON, || processes.iter().all(Process::is_gone));
}

/// Whether anything is mounted on or below a folder.
fn is_mounted(folder: &Path) -> bool {
    let below = format!(" {}", folder.display());
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&below)
}
