//! A mount namespace of the lab's own, and the process that ends everything in it when the test process is gone.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process::Must;

/// Waits for the end of its input (closed by us, or by the kernel when the test process is gone, however it ended),
/// then kills every other process of its mount namespace, which is the lab's alone, and removes the lab's folder.
/// A process of its own because libvirt's QEMUs are nobody's children, and a shell because the tests of any package can
/// start one.
const REAPER: &str = r#"
read -r _
own=$(readlink /proc/$$/ns/mnt)
found=yes
while [ "$found" ]; do
    found=
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        [ "$pid" != $$ ] && [ "$(readlink "$process/ns/mnt" 2>&1)" = "$own" ] && kill -9 "$pid" 2>&1 && found=yes
    done
done >/dev/null
[ "$2" = keep ] || rm -rf --one-file-system -- "$1"
"#;

/// A mount namespace that lives until this is dropped or the process ends; all processes in it end with it.
pub(crate) struct Namespace {
    handle: File,
    reaper: Child,
    input: Option<ChildStdin>,
}

impl Namespace {
    /// A copy of the caller's namespace in which each `(source, target)` folder is bound over the host's. `dir` is
    /// removed with it unless `REMORA_TEST_KEEP` is set.
    pub(crate) fn new(dir: &Path, binds: &[(&Path, &Path)]) -> Self {
        let mut reaper = in_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS).must("make a mount namespace (the lab needs root)");
            separate(binds);
            Command::new("sh")
                .args(["-c", REAPER, "reaper"])
                .arg(dir)
                .arg(if std::env::var_os("REMORA_TEST_KEEP").is_some() { "keep" } else { "remove" })
                .current_dir("/")
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0) // A Ctrl-C is not for it.
                .spawn()
                .must("start the lab's reaper")
        });
        let handle = File::open(format!("/proc/{}/ns/mnt", reaper.id())).must("open the lab's mount namespace");
        let input = reaper.stdin.take();
        Self { handle, reaper, input }
    }

    /// Runs `work`, and what it spawns, in the namespace.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_new_thread(|| {
            // The kernel lets a thread change its namespace only if it shares no working directory with others.
            unshare(CloneFlags::CLONE_FS).must("leave the process's file system context");
            setns(&self.handle, CloneFlags::CLONE_NEWNS).must("enter the lab's mount namespace");
            work()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.reaper.wait() {
            eprintln!("the lab's reaper: {error}");
        }
    }
}

/// Makes the thread's new namespace the lab's.
fn separate(binds: &[(&Path, &Path)]) {
    const NONE: Option<&str> = None;
    // A slave: what the host mounts later is seen (a restored disk on FUSE), what happens here is not seen outside.
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE).must("separate the lab's mounts from the host's");
    for (source, target) in binds {
        std::fs::create_dir_all(target).must(format_args!("make {}", target.display()));
        mount(Some(*source), *target, NONE, MsFlags::MS_BIND, NONE).must(format_args!(
            "bind {} over {}",
            source.display(),
            target.display()
        ));
    }
    // Without these libvirt asks nobody (systemd-machined, cgroups of the host) to look after its machines, whose
    // names would collide with those of other labs. Where they are not mounted there is nothing to hide.
    for hidden in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
        umount2(hidden, MntFlags::MNT_DETACH).ok();
    }
    if Path::new("/run/dbus").exists() {
        mount(Some("none"), "/run/dbus", Some("tmpfs"), MsFlags::empty(), NONE).must("hide the host's D-Bus");
    }
}

/// Runs `work` in a thread of its own, which ends before this returns: a namespace entered there leaks nowhere.
fn in_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match thread::scope(|scope| scope.spawn(work).join()) {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
