//! `files/`: the guest's filesystems through one real appliance, and its end, however it comes.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_core::ErrorKind;
use remora_files::{ApplianceOptions, Ended, Mount, MountOptions, Mounted};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::guest::{GUEST, big, mounts_below, processes_with};
use crate::reader::FileReader;
use crate::{outside, until};

/// A mount of the guest in a folder with an awkward name, and a scratch folder of its own by which its processes are
/// known.
pub(crate) struct Served {
    pub(crate) folder: TempDir,
    pub(crate) mounted: Mounted,
    _turn: SemaphorePermit<'static>,
}

/// An appliance takes a core and half a GiB: few at a time.
static TURNS: Semaphore = Semaphore::const_new(2);

async fn turn() -> SemaphorePermit<'static> {
    TURNS.acquire().await.unwrap()
}

pub(crate) fn options(folder: &Path) -> MountOptions {
    let scratch = Some(folder.join("scratch"));
    // For each step, as an emulated one needs it on a busy machine.
    let patience = Duration::from_mins(20);
    let appliance = ApplianceOptions { scratch, patience, ..ApplianceOptions::default() };
    MountOptions { appliance, ..MountOptions::default() }
}

impl Served {
    /// One of all disks.
    pub(crate) async fn new() -> Self {
        Self::of(|| GUEST.disks()).await
    }

    /// One of a single disk: its appliance boots a third sooner.
    async fn small() -> Self {
        Self::of(|| vec![("vdd", GUEST.path("vdd"))]).await
    }

    async fn of(disks: fn() -> Vec<(&'static str, PathBuf)>) -> Self {
        let turn = turn().await;
        let disks = outside(disks).await;
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("scratch")).unwrap();
        let reader = Arc::new(FileReader::new(&disks));
        let at = folder.path().join("a point,of:vm1");
        let mounted = Mount::start(reader as _, &at, &options(folder.path())).await.unwrap();
        Self { folder, mounted, _turn: turn }
    }

    fn qemu(&self) -> i32 {
        qemu_of(&self.folder.path().join("scratch").display().to_string()).expect("the appliance's QEMU runs")
    }

    fn guestfish(&self) -> i32 {
        let all = processes_with(&self.mounted.folder().display().to_string());
        let parent = fs::read_to_string(format!("/proc/{}/stat", self.qemu())).unwrap();
        let parent = parent.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(all.contains(&parent));
        parent
    }

    /// Stops, and finds nothing left: no mount, no process, no file.
    pub(crate) async fn stop(self) {
        let at = self.mounted.folder().to_owned();
        self.mounted.stop().await.unwrap();
        assert!(!at.exists());
        assert_nothing_left(self.folder.path());
    }
}

/// Where libguestfs has the appliance's socket.
fn sockets(qemu: i32) -> PathBuf {
    let line = fs::read_to_string(format!("/proc/{qemu}/cmdline")).unwrap();
    let path = line.split(['\0', ',']).find_map(|option| option.strip_prefix("path=")).unwrap();
    let folder = Path::new(path).parent().unwrap().to_owned();
    assert!(folder.exists());
    folder
}

fn qemu_of(scratch: &str) -> Option<i32> {
    let qemu = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|n| n.contains("qemu-system"));
    processes_with(scratch).into_iter().find(qemu)
}

fn assert_nothing_left(folder: &Path) {
    assert_eq!(mounts_below(folder), Vec::<String>::new());
    assert_eq!(processes_with(folder.to_str().unwrap()), Vec::<i32>::new());
    let scratch: Vec<_> = fs::read_dir(folder.join("scratch")).unwrap().collect();
    assert!(scratch.is_empty(), "{scratch:?}");
}

fn killed(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filesystem_of_every_disk_is_served() {
    let served = Served::new().await;
    let mut filesystems = served.mounted.filesystems().to_vec();
    filesystems.sort();
    assert_eq!(filesystems, ["root", "vda/1", "vda/2", "vdd", "vg-0/da-ta"]);
    let skipped: Vec<_> = served.mounted.skipped().iter().map(|s| s.what.as_str()).collect();
    assert_eq!(skipped, ["vda/3", "root/link", "root/gone"]);
    let files = served.mounted.files();
    outside(move || {
        let read = |path: &str| fs::read_to_string(files.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(read("vda/1/hello.txt"), "vfat\n");
        assert_eq!(read("vda/2/etc/hostname"), "labvm\n");
        assert_eq!(read("vg-0/da-ta/hello"), "across two disks\n");
        assert_eq!(read("vdd/hello"), "the whole disk\n");
        assert_eq!(read("root/etc/hostname"), "labvm\n");
        assert_eq!(read("root/data/hello"), "across two disks\n");
        assert!(fs::read(files.join("root/data/big")).unwrap() == big(&GUEST));
        // The link that fstab would have had us mount on is what it was.
        assert!(files.join("root/link").is_symlink());
        assert!(!files.join("vda/3").exists());
        let mut top: Vec<_> = fs::read_dir(&files).unwrap().map(|e| e.unwrap().file_name()).collect();
        top.sort();
        assert_eq!(top, ["root", "vda", "vdd", "vg-0"]);
        let refused = fs::write(files.join("vda/2/new"), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::EROFS));
    })
    .await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_qemu_takes_the_files_and_not_the_disks() {
    let mut served = Served::small().await;
    let sockets = sockets(served.qemu());
    killed(served.qemu());
    let ended = tokio::time::timeout(Duration::from_mins(5), served.mounted.wait()).await.unwrap();
    assert!(matches!(&ended, Ended::Files(why) if why.contains("QEMU")), "{ended:?}");
    assert!(!sockets.exists());
    assert_disks_serve(&served).await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guestfish_takes_the_files_and_not_the_disks() {
    let mut served = Served::small().await;
    let sockets = sockets(served.qemu());
    killed(served.guestfish());
    let ended = tokio::time::timeout(Duration::from_mins(5), served.mounted.wait()).await.unwrap();
    assert!(matches!(&ended, Ended::Files(why) if why.contains("signal: 9")), "{ended:?}");
    assert!(!sockets.exists());
    assert_disks_serve(&served).await;
    served.stop().await;
}

async fn assert_disks_serve(served: &Served) {
    let (folder, files) = (served.mounted.folder().to_owned(), served.mounted.files());
    assert_eq!(mounts_below(&files), Vec::<String>::new());
    let truth = fs::read(GUEST.path("vdd")).unwrap();
    outside(move || assert!(fs::read(folder.join("disks/vdd.raw")).unwrap() == truth)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_works_while_files_are_in_use_here_and_in_another_mount_namespace() {
    let served = Served::new().await;
    // A container that starts now takes copies of our mounts along.
    let mut other = Command::new("unshare").args(["-m", "sleep", "1000"]).spawn().unwrap();
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    until("the namespace is made", || namespace(other.id()) != namespace(std::process::id())).await;
    let path = served.mounted.files().join("root/data/big");
    let open = outside(move || fs::File::open(path).unwrap()).await;
    let mut inside =
        Command::new("sleep").arg("1000").current_dir(served.mounted.files().join("root")).spawn().unwrap();
    served.stop().await;
    assert!(outside(move || open.read_exact_at(&mut [0; 10], 5_000_000)).await.is_err());
    for child in [&mut other, &mut inside] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_dropped_leaves_nothing() {
    let _turn = turn().await;
    let disks = outside(|| GUEST.disks()).await;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("scratch")).unwrap();
    let reader = Arc::new(FileReader::new(&disks));
    let (at, options) = (folder.path().join("m"), options(folder.path()));
    let booting = Mount::start(Arc::clone(&reader) as _, &at, &options);
    let scratch = folder.path().join("scratch").display().to_string();
    // As Ctrl-C would do it: once QEMU reads our disks.
    tokio::select! {
        _ = booting => panic!("it started before it was dropped"),
        () = until("the appliance boots", || qemu_of(&scratch).is_some()) => {}
    }
    until("the processes end", || processes_with(&scratch).is_empty()).await;
    assert_nothing_left(folder.path());
    assert!(!at.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_that_cannot_start_says_so_and_leaves_nothing() {
    let _turn = turn().await;
    let disks = outside(|| GUEST.disks()).await;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("scratch")).unwrap();
    let mut options = options(folder.path());
    options.appliance.patience = Duration::from_millis(300);
    let at = folder.path().join("m");
    let error = Mount::start(Arc::new(FileReader::new(&disks)) as _, &at, &options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    until("the processes end", || processes_with(folder.path().to_str().unwrap()).is_empty()).await;
    assert_nothing_left(folder.path());
    assert!(!at.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_without_filesystems_mounts_its_disks() {
    let _turn = turn().await;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("scratch")).unwrap();
    let blank = folder.path().join("blank");
    crate::reader::raw_image(&blank, 4 << 20, &[]);
    let reader = Arc::new(FileReader::new(&[("vda", blank)]));
    let mounted = Mount::start(reader as _, &folder.path().join("m"), &options(folder.path())).await.unwrap();
    assert!(mounted.filesystems().is_empty());
    let at = mounted.folder().to_owned();
    outside(move || assert_eq!(fs::read_dir(at.join("files")).unwrap().count(), 0)).await;
    mounted.stop().await.unwrap();
    assert_nothing_left(folder.path());
}

/// The process that the next test kills: this test binary once more, told by its environment what to mount.
#[tokio::test(flavor = "multi_thread")]
async fn helper_that_mounts_and_waits() {
    let Some(folder) = std::env::var_os("REMORA_TEST_FOLDER").map(PathBuf::from) else { return };
    let disk = PathBuf::from(std::env::var_os("REMORA_TEST_DISK").unwrap());
    let reader = Arc::new(FileReader::new(&[("vdd", disk)]));
    let mut mounted = Mount::start(reader as _, &folder.join("m"), &options(&folder)).await.unwrap();
    fs::write(folder.join("ready"), "").unwrap();
    mounted.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_our_own_kill_the_appliance_dies_and_the_next_mount_cleans_up() {
    let _turn = turn().await;
    let disk = outside(|| GUEST.path("vdd")).await;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("scratch")).unwrap();
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "appliance::helper_that_mounts_and_waits"])
        .env("REMORA_TEST_FOLDER", folder.path())
        .env("REMORA_TEST_DISK", &disk)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(40);
    while !folder.path().join("ready").exists() {
        assert!(Instant::now() < deadline && helper.try_wait().unwrap().is_none(), "the helper does not get ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sockets = sockets(qemu_of(&folder.path().join("scratch").display().to_string()).unwrap());
    helper.kill().unwrap();
    helper.wait().unwrap();
    let text = folder.path().to_str().unwrap().to_owned();
    until("guestfish and QEMU die with us", || processes_with(&text).is_empty()).await;
    assert_eq!(mounts_below(folder.path()).len(), 2, "dead mounts stay; who would unmount them");

    let reader = Arc::new(FileReader::new(&[("vdd", disk)]));
    let at = folder.path().join("m");
    let mounted = Mount::start(reader as _, &at, &options(folder.path())).await.unwrap();
    assert_eq!(mounted.filesystems(), ["vdd"]);
    assert!(!sockets.exists());
    let hello = mounted.files().join("vdd/hello");
    outside(move || assert_eq!(fs::read_to_string(hello).unwrap(), "the whole disk\n")).await;
    mounted.stop().await.unwrap();
    assert_nothing_left(folder.path());
}
