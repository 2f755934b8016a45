//! Gives up every right, before a byte of the component is looked at.
//!
//! What root can do that others cannot goes for good (an unprivileged user, no capability, no new privileges), and so does what
//! everybody can: the network, files, other processes' names, most memory, and nearly all system calls. It is done by the
//! child itself, with one thread, and nothing of what matters is believed to have worked: it is looked at afterwards.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chdir, chroot, close, geteuid, getppid, setgroups, setresgid, setresuid};

use super::syscalls;

/// The user and group that own nothing: `nobody` and `nogroup` everywhere.
const NOBODY: u32 = 65_534;

/// A socket, and what wasmtime opens for a moment.
const FILES: u64 = 64;

/// Gives up everything but the socket, and so many bytes of memory, which all instances share.
pub(super) fn lock_down(socket: &UnixStream, memory: u64) -> io::Result<()> {
    let parent = getppid();
    close_all_but(socket.as_raw_fd())?;
    // Shows this process, also once its root is elsewhere.
    let mut status = fs::File::open("/proc/self/status")?;
    if geteuid().is_root() {
        leave_the_machine();
        let (nobody, nogroup) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setgroups(&[])?;
        setresgid(nogroup, nogroup, nogroup)?;
        // This empties the sets of capabilities too.
        setresuid(nobody, nobody, nobody)?;
    }
    prctl::set_no_new_privs()?;
    // No other process of this user reads its memory.
    prctl::set_dumpable(false)?;
    for (resource, most) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_DATA, memory),
        (Resource::RLIMIT_NOFILE, FILES),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ] {
        setrlimit(resource, most, most)?;
    }
    // After the change of users, which forgets it. The thread that started this one waits for its end, so it lives as long.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(io::Error::other("the host is gone"));
    }
    syscalls::forbid()?;
    check(&mut status)
}

/// Namespaces without a network, other processes' memory to share, and files. Of what a kernel or a container does not allow,
/// the rest is done: the host trusts nothing that the child says or has anyway.
fn leave_the_machine() {
    const NONE: Option<&str> = None;
    for what in [CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWIPC, CloneFlags::CLONE_NEWUTS] {
        unshare(what).ok();
    }
    let empty = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        // Any folder that is on every machine; this namespace alone sees it covered.
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
        mount(Some("none"), "/tmp", Some("tmpfs"), flags, Some("size=4k,mode=0555"))?;
        chroot("/tmp")?;
        chdir("/")
    };
    empty().ok();
}

/// Closes what was inherited: the programs that start this one link libraries that open files as they like.
fn close_all_but(socket: RawFd) -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && *fd != socket)
        .collect();
    for fd in open {
        // The one that listed them is closed already.
        close(fd).ok();
    }
    Ok(())
}

/// Whether the kernel agrees.
fn check(status: &mut fs::File) -> io::Result<()> {
    let mut text = String::new();
    status.rewind()?;
    status.read_to_string(&mut text)?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        if !value(set).trim_start_matches('0').is_empty() {
            return Err(io::Error::other(format!("{set} is {}", value(set))));
        }
    }
    if value("Uid").split_whitespace().any(|uid| uid == "0") {
        return Err(io::Error::other(format!("its users are {}", value("Uid"))));
    }
    // 2: a filter of system calls.
    for (name, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        if value(name) != wanted {
            return Err(io::Error::other(format!("{name} is {:?}", value(name))));
        }
    }
    Ok(())
}
