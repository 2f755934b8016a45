//! What the child may ask of the kernel: memory, threads, the time, and to read and write what is open. Nothing opens, connects,
//! starts, or looks at anything; all else fails with EPERM, as a libc that tries something can bear.
//!
//! This holds where namespaces do not: in a pod nobody may make any, and the child would see the pod's files and network.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Of threads. `clone` is among them for threads alone, see below.
const THREADS: [libc::c_long; 14] = [
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
];

/// Of memory. Code is compiled here, so memory may become executable. `mmap` is among them for private memory alone, see below.
const MEMORY: [libc::c_long; 6] =
    [libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_membarrier];

/// Of what is open: the socket. It cannot be given to anybody, nor anything else taken in through it. `fcntl` is among them for a
/// few commands, see below.
const OPEN: [libc::c_long; 9] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_ppoll,
];

const TIME_AND_CHANCE: [libc::c_long; 4] =
    [libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_getrandom];

/// From now on, and for all threads that this one starts.
pub(super) fn forbid() -> io::Result<()> {
    // Of two answers the stricter one counts. The second filter allows none to be added.
    for filter in [old_clone(), allowed()] {
        let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
        apply_filter(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

type Filter = Result<SeccompFilter, seccompiler::BackendError>;

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, otherwise: SeccompAction, matching: SeccompAction) -> Filter {
    SeccompFilter::new(rules, otherwise, matching, std::env::consts::ARCH.try_into()?)
}

/// That an argument of a call is so.
fn only(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value)?])
}

/// Of the flags of `mmap`, those that say whether memory is shared (`MAP_TYPE` of the kernel).
const MAP_KIND: libc::c_int = 0x0f;

fn allowed() -> Filter {
    let all = THREADS.iter().chain(&MEMORY).chain(&OPEN).chain(&TIME_AND_CHANCE);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = all.map(|number| (*number, Vec::new())).collect();
    rules.insert(libc::SYS_clone3, Vec::new());
    // No process, and no namespace, for those are no thread's.
    let thread = u64::try_from(libc::CLONE_THREAD).unwrap_or_default();
    rules.insert(libc::SYS_clone, vec![only(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // Shared memory, and stacks that grow, the limit of memory does not count.
    let (kind, private) = (MAP_KIND | libc::MAP_GROWSDOWN, libc::MAP_PRIVATE);
    let (kind, private) = (u64::from(kind.unsigned_abs()), u64::from(private.unsigned_abs()));
    rules.insert(libc::SYS_mmap, vec![only(3, SeccompCmpOp::MaskedEq(kind), private)?]);
    // Others let the socket send signals to any process of this user.
    let harmless = [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_GETFL];
    let harmless = harmless.map(|command| only(1, SeccompCmpOp::Eq, u64::from(command.unsigned_abs())));
    rules.insert(libc::SYS_fcntl, harmless.into_iter().collect::<Result<_, _>>()?);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    filter(rules, refused, SeccompAction::Allow)
}

/// The arguments of `clone3` lie in memory, where no filter sees them: whoever is told that there is none takes `clone`.
fn old_clone() -> Filter {
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), SeccompAction::Allow, missing)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::Command;

    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::signal::kill;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use nix::unistd::getppid;

    use super::*;

    /// In a thread of its own, which alone is forbidden anything.
    fn forbidden<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                forbid().unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn nothing_is_opened_connected_started_or_looked_at() {
        let refused = Some(libc::EPERM);
        let parent = getppid();
        forbidden(move || {
            let code = |error: io::Error| error.raw_os_error();
            assert_eq!(code(std::fs::File::open("/etc/passwd").unwrap_err()), refused);
            assert_eq!(code(std::fs::read_dir("/").unwrap_err()), refused);
            assert_eq!(code(std::fs::write("/tmp/x", "x").unwrap_err()), refused);
            assert_eq!(code(std::fs::metadata("/etc/passwd").unwrap_err()), refused);
            assert_eq!(code(TcpStream::connect("127.0.0.1:1").unwrap_err()), refused);
            assert_eq!(code(UdpSocket::bind("127.0.0.1:0").unwrap_err()), refused);
            assert_eq!(code(UnixStream::connect(Path::new("/run/x")).unwrap_err()), refused);
            assert_eq!(code(UnixStream::pair().map(drop).unwrap_err()), refused);
            let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), None);
            assert_eq!(netlink.map(drop), Err(Errno::EPERM));
            assert_eq!(code(Command::new("/bin/true").spawn().map(drop).unwrap_err()), refused);
            assert_eq!(kill(parent, None), Err(Errno::EPERM));
            assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
            assert_eq!(nix::sys::prctl::set_dumpable(true), Err(Errno::EPERM));
        });
    }

    #[test]
    fn no_file_of_memory_is_made_and_no_signal_is_sent_by_the_socket() {
        let (one, _other) = UnixStream::pair().unwrap();
        forbidden(move || {
            assert_eq!(memfd_create(c"x", MFdFlags::empty()).map(drop), Err(Errno::EPERM));
            for command in [FcntlArg::F_SETFL(OFlag::O_ASYNC), FcntlArg::F_SETFD(FdFlag::empty()), FcntlArg::F_DUPFD(0)]
            {
                assert_eq!(fcntl(&one, command), Err(Errno::EPERM));
            }
            assert!(fcntl(&one, FcntlArg::F_GETFL).is_ok());
        });
    }

    #[test]
    fn what_a_component_needs_goes_on() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let said = forbidden(move || {
            use std::io::{Read, Write};
            let thread = std::thread::spawn(move || one.write_all(b"said"));
            let mut said = [0; 4];
            other.read_exact(&mut said).unwrap();
            thread.join().unwrap().unwrap();
            drop(other.try_clone().unwrap());
            // More than the allocator has at hand.
            let memory = vec![1_u8; 64 << 20];
            std::thread::sleep(std::time::Duration::from_millis(1));
            (said, memory.len())
        });
        assert_eq!(said, (*b"said", 64 << 20));
    }
}
