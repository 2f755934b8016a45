//! A backup that is held up in its middle.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use nix::unistd::Pid;
use remora_tests::{DiskSpec, Domain, Format, Holding, Lab, MIB, Ran, Remora, content, wait_until};

use super::Protected;

/// How much of the disks has been read at least when a backup is held up: less than a segment, so that there is nothing
/// for the repository's filesystem to sync before it can hold.
const READ: u64 = MIB;

/// The size of a disk that takes long enough to read: more than a backup has in flight.
const SIZE: u64 = 256 * MIB;

/// A VM whose disk takes long enough to read to be held up in its middle, and a repository that can be held.
pub(super) struct Holdable<'lab> {
    pub(super) vm: Protected<'lab>,
    repository: Holding,
}

impl<'lab> Holdable<'lab> {
    /// With a disk `vda` of noise.
    #[track_caller]
    pub(super) fn new(lab: &'lab Lab, name: &str) -> Self {
        // Room for some broken-off backups of the whole disk, too, and the points.
        let repository = Holding::new(2048);
        let disk = DiskSpec::holding("vda", Format::Qcow2, &noise_disk(lab));
        let remora = Remora::new(lab, repository.path().join("repo"));
        remora.ok(["repo", "init"]);
        Self { vm: Protected { domain: lab.domain(name).disk(disk).paused(), remora }, repository }
    }

    /// Starts a backup, and holds up what it stores once it has begun to read. It goes on to take QEMU's replies.
    #[track_caller]
    pub(super) fn hold_backup(&self, remora: &Remora) -> Held<'_> {
        let backup = reading(&self.vm.domain, remora, "8MiB");
        self.repository.hold();
        let held = Held { backup: Some(backup), repository: &self.repository };
        let job = self.vm.domain.try_virsh("backup-dumpxml", &[]);
        assert!(job.status.success(), "the backup was over before it could be held up: {job:?}");
        held
    }
}

/// A `remora backup` that cannot store what it reads.
pub(super) struct Held<'a> {
    backup: Option<Child>,
    repository: &'a Holding,
}

impl Held<'_> {
    /// Lets it go on to its end.
    #[track_caller]
    pub(super) fn goes_on(mut self) -> Ran {
        self.repository.release();
        ended(self.backup.take().unwrap())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Not to be waited for before: what waits for its filesystem cannot be killed.
        self.repository.release();
        if let Some(mut backup) = self.backup.take() {
            backup.kill().ok();
            backup.wait().ok();
        }
    }
}

/// A backup that has begun to read a domain's disks, and stores no more than `upload` each second: with `8MiB` it takes half
/// a minute for all of [`SIZE`], however quick the machine is with it while a test gets no processor.
#[track_caller]
pub(super) fn reading(domain: &Domain<'_>, remora: &Remora, upload: &str) -> Child {
    // What remora reads, QEMU must read before.
    let (qemu, before) = (domain.qemu(), bytes_read(domain.qemu()));
    let backup = remora.spawn(["backup", domain.name(), "--quiesce=never", "-o", "json", "--limit-upload", upload]);
    wait_until("the backup does not read", Duration::from_mins(5), || bytes_read(qemu) > before + READ);
    backup
}

/// What a backup said until its end.
#[track_caller]
pub(super) fn ended(backup: Child) -> Ran {
    let output = backup.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Ran { command: "remora backup, held up".into(), status: output.status, stdout: output.stdout, stderr }
}

/// What a process has read from files so far.
fn bytes_read(pid: Pid) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// A raw file of [`SIZE`] bytes that cannot be compressed, so that storing it takes a while.
pub(super) fn noise_disk(lab: &Lab) -> PathBuf {
    let path = lab.scratch("noise").join("disk.raw");
    fs::write(&path, noise(0)).unwrap();
    path
}

/// What such a disk can hold, determined by `number`.
pub(super) fn noise(number: u64) -> Vec<u8> {
    content::noise(number, SIZE as usize)
}
