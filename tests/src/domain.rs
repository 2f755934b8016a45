//! Domains of the lab: defined, started, written to, killed.

mod builder;
mod guest_like;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use builder::DomainBuilder;
pub use guest_like::{WRITE_FILE, Writes};

use crate::guest::{Guest, Host, LOCKED};
use crate::image::{DiskSpec, Image};
use crate::lab::Lab;
use crate::process::{Must, Ran, run_until_heard, wait_until};
use crate::truth;

/// How long a domain may take to change its state when nothing of a guest is involved.
const STATE_CHANGE: Duration = Duration::from_mins(5);

/// How long what is done with a domain may take before something else can be, where the disk is slow.
const FREE: Duration = Duration::from_mins(10);

/// A domain of the lab. Dropping it destroys and undefines it and removes its images.
pub struct Domain<'lab> {
    lab: &'lab Lab,
    name: String,
    uuid: String,
    dir: PathBuf,
    images: Mutex<Vec<Image>>,
    copies: AtomicU32,
}

impl<'lab> Domain<'lab> {
    /// Its lab.
    pub fn lab(&self) -> &'lab Lab {
        self.lab
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UUID, which `virsh` and libvirt take wherever they take a name.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The folder of its images.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image of one of its disks.
    #[track_caller]
    pub fn image(&self, target: &str) -> Image {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.iter().find(|image| image.target == target).cloned().must(format_args!("find a disk {target}"))
    }

    /// Runs `virsh COMMAND DOMAIN ARGS…`; a failure is left to the caller.
    pub fn try_virsh(&self, command: &str, args: &[&str]) -> Ran {
        let mut all = vec![command, &self.uuid];
        all.extend(args);
        self.lab.try_virsh(&all)
    }

    /// Runs `virsh COMMAND DOMAIN ARGS…` and gives what it printed.
    #[track_caller]
    pub fn virsh(&self, command: &str, args: &[&str]) -> String {
        self.virsh_once_free(command, args).ok().text().to_owned()
    }

    /// Runs `virsh COMMAND DOMAIN ARGS…`, which may fail, but not because something else is just done with the domain.
    #[track_caller]
    fn virsh_once_free(&self, command: &str, args: &[&str]) -> Ran {
        let what = format_args!("{:?} is never free for {command}", self.name);
        run_until_heard(what, FREE, || self.try_virsh(command, args), |said| said.contains(LOCKED))
    }

    /// The guest that it was booted with.
    pub fn guest(&self) -> Guest<'_> {
        Guest::new(self)
    }

    // ------------------------------------------------------------------------------------------------------- states

    /// Its state in virsh's words: "running", "paused", "shut off".
    #[track_caller]
    pub fn state(&self) -> String {
        self.virsh("domstate", &[])
    }

    /// Starts it and lets its processors run. A guest is up only after [`Guest::wait`].
    #[track_caller]
    pub fn start(&self) {
        std::fs::remove_file(console(&self.dir)).ok(); // What an earlier start said says nothing of this one.
        self.virsh("start", &[]);
    }

    /// Starts it with its processors stopped: its disks are open, nothing of a guest runs.
    #[track_caller]
    pub fn start_paused(&self) {
        self.virsh("start", &["--paused"]);
    }

    /// Stops its processors.
    #[track_caller]
    pub fn pause(&self) {
        self.virsh("suspend", &[]);
    }

    /// Lets its processors run again.
    #[track_caller]
    pub fn resume(&self) {
        self.virsh("resume", &[]);
    }

    /// Ends it in QEMU's orderly way (its images are closed), without asking the guest.
    #[track_caller]
    pub fn destroy(&self) {
        let ran = self.virsh_once_free("destroy", &["--graceful"]);
        // libvirt gives it some seconds, in which a slow disk does not have all that it wrote. Told to end, it ends all the same.
        if ran.stderr.contains("Failed to terminate process") {
            self.wait_for("shut off");
        } else {
            ran.ok();
        }
    }

    /// Asks its guest (through the agent) to shut down and waits for it.
    #[track_caller]
    pub fn shutdown(&self) {
        self.guest().ask("shutdown", &["--mode", "agent"]).ok();
        self.wait_for("shut off");
    }

    /// Kills its QEMU, as the kernel's OOM killer would, and waits until libvirt knows.
    #[track_caller]
    pub fn sigkill_qemu(&self) {
        kill(self.qemu(), Signal::SIGKILL).must("kill QEMU");
        self.wait_for("shut off");
    }

    /// The process id of its QEMU.
    #[track_caller]
    pub fn qemu(&self) -> Pid {
        // Not the `.pid` file: libvirt escapes its name as if it were XML.
        let file = self.lab.run_dir().join("qemu").join(format!("{}.xml", self.name));
        let text = std::fs::read_to_string(&file).must(format_args!("read {}", file.display()));
        let pid = text.split_once(" pid='").and_then(|(_, rest)| rest.split_once('\'')).map(|(pid, _)| pid);
        Pid::from_raw(
            pid.and_then(|pid| pid.parse().ok()).must(format_args!("find the process id in {}", file.display())),
        )
    }

    /// Waits for a state (in virsh's words).
    #[track_caller]
    pub fn wait_for(&self, state: &str) {
        wait_until(format_args!("{:?} does not become {state:?}", self.name), STATE_CHANGE, || self.state() == state);
    }

    // -------------------------------------------------------------------------------------------------------- disks

    /// Adds a disk: at once if it is active, and to its definition. A guest must run to notice it.
    #[track_caller]
    pub fn attach(&self, spec: &DiskSpec) -> Image {
        let image = spec.create(&self.dir);
        let file = self.dir.join(format!("{}.xml", spec.target()));
        std::fs::write(&file, builder::disk_xml(&image)).must("write a disk's definition");
        self.virsh("attach-device", &[&file.to_string_lossy(), "--persistent"]);
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.retain(|other| other.target != image.target);
        images.push(image.clone());
        image
    }

    /// Removes a disk; its image stays. If the domain is active, its guest must run to let it go.
    #[track_caller]
    pub fn detach(&self, target: &str) {
        self.virsh("detach-disk", &[target, "--persistent"]);
        let listed =
            || self.virsh("domblklist", &[]).lines().any(|line| line.split_whitespace().next() == Some(target));
        wait_until(format_args!("the guest does not let {target} go"), STATE_CHANGE, || !listed());
        self.images.lock().unwrap_or_else(PoisonError::into_inner).retain(|image| image.target != target);
    }

    /// Gives a disk of the active domain another size in bytes.
    #[track_caller]
    pub fn resize(&self, target: &str, size: u64) {
        self.virsh("blockresize", &[target, &format!("{size}B")]);
    }

    // -------------------------------------------------------------------------------------------------------- truth

    /// What a disk holds now, as a new raw file that lives as long as the domain. A running domain is paused meanwhile.
    #[track_caller]
    pub fn truth(&self, target: &str) -> PathBuf {
        self.truths(&[target]).remove(0)
    }

    /// What several disks hold at one instant.
    #[track_caller]
    pub fn truths(&self, targets: &[&str]) -> Vec<PathBuf> {
        let state = self.state();
        if state == "running" {
            self.pause();
        }
        if state != "shut off" {
            // A domain that was started paused was never stopped, so that nothing flushed what QEMU caches of qcow2.
            for target in targets {
                self.flush(target);
            }
        }
        let copies = targets.iter().map(|target| self.copy_disk(target)).collect();
        if state == "running" {
            self.resume();
        }
        copies
    }

    fn copy_disk(&self, target: &str) -> PathBuf {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let into = self.dir.join(format!("truth-{number}-{target}.raw"));
        truth::copy(&self.image(target), &into);
        into
    }
}

/// Where the console of a domain with its files in `dir` goes.
fn console(dir: &Path) -> PathBuf {
    dir.join("console")
}

impl Host for Domain<'_> {
    fn try_virsh(&self, command: &str, args: &[&str]) -> Ran {
        Domain::try_virsh(self, command, args)
    }

    fn console(&self) -> Option<PathBuf> {
        Some(console(&self.dir))
    }
}

impl Drop for Domain<'_> {
    fn drop(&mut self) {
        // Already off, or gone: as well.
        self.try_virsh("destroy", &[]);
        let undefined = self.try_virsh("undefine", &["--checkpoints-metadata", "--nvram"]);
        if !undefined.status.success() && !std::thread::panicking() {
            eprintln!("a domain is left behind: {undefined:?}");
        }
        if std::env::var_os("REMORA_TEST_KEEP").is_none() {
            std::fs::remove_dir_all(&self.dir).ok();
        }
    }
}
