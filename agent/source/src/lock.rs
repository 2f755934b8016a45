//! One run a VM: a file lock that the kernel gives back when its process ends, however that happens.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use remora_core::{Error, ErrorKind};

/// The lock on a VM, held until dropped: [`Flock`] unlocks it then, whoever has a copy of the file, as a program has that
/// another thread starts, until its exec. Its file stays: removing it could give two runs a lock each.
#[derive(Debug)]
pub(crate) struct VmLock(#[allow(dead_code)] Flock<File>);

/// What a try gave.
#[derive(Debug)]
pub(crate) enum Locked {
    /// The lock is ours.
    Ours(VmLock),
    /// Another process has it; its number, if it could be read.
    Theirs(Option<u32>),
}

/// Makes the folder for locks and sockets. Others may pass through it (QEMU needs its socket's folder) but not list it.
pub(crate) fn prepare_run_dir(run_dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o711).create(run_dir).map_err(|source| {
        Error::io(format!("making the folder {}", run_dir.display()), source)
            .advise("Run as root, or name a folder that this user may write to with --run-dir.")
    })
}

/// Tries to take the lock of a VM.
pub(crate) fn try_lock(run_dir: &Path, vm_uuid: &str) -> Result<Locked, Error> {
    let path = path(run_dir, vm_uuid);
    let failed = |source| Error::io(format!("opening the lock {}", path.display()), source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // Only for the message that another run shows.
            let noted =
                lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| write!(lock, "{}", std::process::id()));
            noted.map_err(failed)?;
            Ok(Locked::Ours(VmLock(lock)))
        }
        Err((held, Errno::EWOULDBLOCK)) => {
            file = held;
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed)?;
            Ok(Locked::Theirs(text.trim().parse().ok()))
        }
        Err((_, errno)) => Err(Error::new(ErrorKind::Failed, format!("locking {}", path.display())).because(errno)),
    }
}

fn path(run_dir: &Path, vm_uuid: &str) -> PathBuf {
    run_dir.join(format!("{vm_uuid}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("a/b");
        prepare_run_dir(&run).unwrap();
        let Locked::Ours(first) = try_lock(&run, "u").unwrap() else { panic!("nobody has it") };
        let Locked::Theirs(holder) = try_lock(&run, "u").unwrap() else { panic!("two have it") };
        assert_eq!(holder, Some(std::process::id()));
        assert!(matches!(try_lock(&run, "other").unwrap(), Locked::Ours(_)));
        // As a program has one that is just being started.
        let _copy = first.0.try_clone().unwrap();
        drop(first);
        assert!(matches!(try_lock(&run, "u").unwrap(), Locked::Ours(_)));
    }
}
