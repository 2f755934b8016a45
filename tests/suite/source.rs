//! The libvirt source against real libvirt and QEMU: what it tells of a VM, what it reads, and what it leaves behind.

mod bitmaps;
mod breaks;
mod busy;
mod identity;
mod quiesce;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use remora_core::point::Quiesce;
use remora_core::ports::{
    Bitmaps, ClaimedVm, DiskState, DiskView, OpenDisk, OpenRequest, OpenVm, Outcome, Patience, Source, Tracking,
};
use remora_core::{CheckpointName, DiskName, Error, Extent, ExtentState, PIECE_SIZE, RepositoryId, VmName};
use remora_source::{LibvirtOptions, LibvirtSource};
use remora_tests::{Domain, Lab, wait_until};

/// Set for the process that is to be a watchdog.
const WATCHDOG: &str = "REMORA_TEST_IS_WATCHDOG";

/// This test binary, run as the watchdog of another test's backup: it has `remora_source` linked in already.
#[test]
fn watchdog_process() {
    if std::env::var_os(WATCHDOG).is_some() {
        remora_source::watchdog::main();
        // What the test harness would print now goes to nobody.
        std::process::exit(0);
    }
}

fn watchdog_command() -> Vec<OsString> {
    let own = std::env::current_exe().unwrap();
    let arguments = ["--exact", "source::watchdog_process", "--nocapture", "--quiet"].map(OsString::from);
    [OsString::from("env"), format!("{WATCHDOG}=1").into(), own.into()].into_iter().chain(arguments).collect()
}

/// Set for the process that is to be a run that will be killed: libvirt's URI, the run folder, the VM.
const VICTIM: &str = "REMORA_TEST_IS_VICTIM";

/// This test binary, run as a backup that opens a VM and stays so until it is killed.
#[test]
fn victim_process() {
    let Ok(text) = std::env::var(VICTIM) else { return };
    let (uri, run_dir, vm): (String, PathBuf, String) = serde_json::from_str(&text).unwrap();
    let bench = Bench::at(&uri, run_dir, None);
    wait_for(async {
        let claimed = bench.source.claim(&VmName::new(vm).unwrap(), Patience::None).await.unwrap();
        let _view = open_all(&*claimed, &bench.checkpoint()).await.unwrap();
        std::future::pending::<()>().await;
    });
}

/// Starts a [`victim_process`].
fn victim(bench: &Bench, domain: &Domain<'_>) -> Child {
    let what = (domain.lab().uri(), &bench.run_dir, domain.name());
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "source::victim_process", "--quiet"])
        .env(VICTIM, serde_json::to_string(&what).unwrap())
        .spawn()
        .unwrap()
}

/// A source with a run folder of its own.
struct Bench {
    source: LibvirtSource,
    run_dir: PathBuf,
    repository: RepositoryId,
}

impl Bench {
    fn new(lab: &Lab) -> Self {
        Self::with_scratch(lab, None)
    }

    fn with_scratch(lab: &Lab, scratch: Option<&Path>) -> Self {
        Self::at(lab.uri(), lab.scratch("run"), scratch)
    }

    fn at(uri: &str, run_dir: PathBuf, scratch: Option<&Path>) -> Self {
        let options = LibvirtOptions {
            connect: Some(uri.to_owned()),
            scratch: scratch.map(Into::into),
            run_dir: run_dir.clone(),
            ..LibvirtOptions::new(watchdog_command())
        };
        Self { source: LibvirtSource::new(options).unwrap(), run_dir, repository: RepositoryId::random() }
    }

    async fn claim(&self, domain: &Domain<'_>) -> Box<dyn ClaimedVm> {
        self.try_claim(domain, Patience::None).await.unwrap()
    }

    async fn try_claim(&self, domain: &Domain<'_>, patience: Patience) -> Result<Box<dyn ClaimedVm>, Error> {
        self.source.claim(&VmName::new(domain.name()).unwrap(), patience).await
    }

    fn checkpoint(&self) -> CheckpointName {
        CheckpointName::random(self.repository)
    }

    /// A point: opens all disks since the given checkpoints, reads them, closes.
    async fn point(&self, domain: &Domain<'_>, before: Option<&Taken>) -> Taken {
        let claimed = self.claim(domain).await;
        let since =
            |disk: &DiskState| before.filter(|b| b.checkpointed.contains(&disk.name)).map(|b| b.checkpoint.clone());
        let disks = claimed.state().disks.iter().map(|d| OpenDisk { name: d.name.clone(), since: since(d) }).collect();
        let request =
            OpenRequest { disks, checkpoint: self.checkpoint(), tracking: Tracking::Begins, quiesce: Quiesce::Never };
        let view = claimed.open(&request).await.unwrap();
        let mut taken = Taken { checkpoint: request.checkpoint, checkpointed: BTreeSet::new(), disks: Vec::new() };
        for disk in view.disks() {
            if disk.checkpointed() {
                taken.checkpointed.insert(disk.name().clone());
            }
            let old = before.and_then(|b| b.disks.iter().find(|d| d.name == *disk.name())).map(|d| d.bytes.as_slice());
            let (extents, bytes) = read_all(disk, old).await;
            taken.disks.push(TakenDisk { name: disk.name().clone(), extents, bytes });
        }
        view.confirm().await.unwrap();
        view.close(Outcome::Stored).await.unwrap();
        self.assert_nothing_left(domain);
        taken
    }

    /// No job, no socket, no scratch file.
    #[track_caller]
    fn assert_nothing_left(&self, domain: &Domain<'_>) {
        let left = self.left_behind(domain);
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    fn left_behind(&self, domain: &Domain<'_>) -> Vec<String> {
        let mut left = Vec::new();
        if domain.try_virsh("backup-dumpxml", &[]).status.success() {
            left.push("a backup job".to_owned());
        }
        for folder in [&self.run_dir, &self.run_dir.join(domain.uuid()), domain.dir()] {
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            let names = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
            left.extend(names.filter(|n| {
                n.starts_with(".remora") || *folder == self.run_dir.join(domain.uuid()) || n == domain.uuid()
            }));
        }
        left
    }

    /// Waits for a watchdog. The folder for sockets, with nothing in it, waits for the next run.
    #[track_caller]
    fn wait_for_the_watchdog(&self, domain: &Domain<'_>) {
        wait_until("the watchdog does not clean up", Duration::from_mins(5), || {
            self.left_behind(domain).iter().all(|left| left == domain.uuid())
        });
    }
}

/// What a backup would have stored.
struct Taken {
    checkpoint: CheckpointName,
    checkpointed: BTreeSet<DiskName>,
    disks: Vec<TakenDisk>,
}

struct TakenDisk {
    name: DiskName,
    extents: Vec<Extent>,
    bytes: Vec<u8>,
}

impl Taken {
    fn disk(&self, name: &str) -> &TakenDisk {
        self.disks.iter().find(|d| d.name.as_str() == name).unwrap()
    }

    #[track_caller]
    fn assert_is(&self, disk: &str, truth: &Path) {
        assert!(self.disk(disk).bytes == std::fs::read(truth).unwrap(), "{disk} is not what QEMU held");
    }
}

impl TakenDisk {
    /// The ranges that are not unchanged, as (start, end). (Which of their bytes are data and which zero depends on
    /// how QEMU happened to allocate them.)
    fn changed(&self) -> Vec<(u64, u64)> {
        let mut changed: Vec<(u64, u64)> = Vec::new();
        for extent in self.extents.iter().filter(|e| e.state != ExtentState::Unchanged) {
            match changed.last_mut() {
                Some(last) if last.1 == extent.range.start => last.1 = extent.range.end,
                _ => changed.push((extent.range.start, extent.range.end)),
            }
        }
        changed
    }

    /// The ranges of one state, as (start, end).
    fn ranges(&self, state: ExtentState) -> Vec<(u64, u64)> {
        self.extents.iter().filter(|e| e.state == state).map(|e| (e.range.start, e.range.end)).collect()
    }
}

/// Reads a disk as a backup does: data from the view, the rest from what is known.
async fn read_all(disk: &Arc<dyn DiskView>, old: Option<&[u8]>) -> (Vec<Extent>, Vec<u8>) {
    let extents: Vec<Extent> = disk.extents().try_collect().await.unwrap();
    let (mut bytes, mut at) = (vec![0; disk.size() as usize], 0);
    for extent in &extents {
        assert_eq!(extent.range.start, at, "extents have no gaps");
        at = extent.range.end;
        let place = extent.range.start as usize..extent.range.end as usize;
        match extent.state {
            ExtentState::Zero => {}
            ExtentState::Unchanged => bytes[place.clone()].copy_from_slice(&old.expect("an increment")[place]),
            ExtentState::Data => {
                for piece in extent.range.split(PIECE_SIZE) {
                    let read = disk.read(piece).await.unwrap();
                    bytes[piece.start as usize..piece.end as usize].copy_from_slice(&read);
                }
            }
        }
    }
    assert_eq!(at, disk.size(), "extents cover the disk");
    (extents, bytes)
}

/// Opens all disks in full.
async fn open_all(claimed: &dyn ClaimedVm, checkpoint: &CheckpointName) -> Result<Box<dyn OpenVm>, Error> {
    let disks = claimed.state().disks.iter().map(|d| OpenDisk { name: d.name.clone(), since: None }).collect();
    claimed
        .open(&OpenRequest {
            disks,
            checkpoint: checkpoint.clone(),
            tracking: Tracking::Begins,
            quiesce: Quiesce::Never,
        })
        .await
}

/// Our checkpoints on a disk: those that are usable, and the reasons of those that are not.
fn bitmaps(claimed: &dyn ClaimedVm, disk: &str) -> (Vec<CheckpointName>, Vec<String>) {
    let disk = claimed.state().disks.iter().find(|d| d.name.as_str() == disk).unwrap();
    match &disk.bitmaps {
        Bitmaps::Able { usable, broken } => {
            (usable.iter().cloned().collect(), broken.iter().map(|(_, why)| why.clone()).collect())
        }
        Bitmaps::Unable(why) => panic!("{why}"),
    }
}

#[test]
fn this_host_is_found_fit_and_its_vms_are_listed() {
    let lab = Lab::shared();
    let domain = lab.domain("listed ü").disk(remora_tests::DiskSpec::qcow2("vda", remora_tests::MIB)).define();
    let bench = Bench::new(lab);
    wait_for(async {
        let checks = bench.source.doctor().await;
        assert!(checks.len() == 4 && checks.iter().all(|c| c.ok), "{checks:?}");
        let vms = bench.source.vms().await.unwrap();
        assert!(vms.iter().any(|vm| vm.as_str() == domain.name()), "{vms:?}");
    });
}

/// The names of the domain's checkpoints, as libvirt lists them.
fn checkpoints(domain: &Domain<'_>) -> BTreeSet<String> {
    domain.virsh("checkpoint-list", &["--name"]).lines().map(str::to_owned).filter(|l| !l.is_empty()).collect()
}

/// Runs a test's future. Threads, for libvirt and the lab block.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}
