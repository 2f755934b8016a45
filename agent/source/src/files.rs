//! The files that a run makes outside its repository: a socket and scratch files. All are removed with the run, or by
//! the watchdog, or by the next run.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use remora_core::{CheckpointName, Error, ErrorKind};

use crate::scratch;

/// The longest path that a unix socket can have on Linux (`sun_path` without its NUL).
const SOCKET_PATH_LIMIT: usize = 107;

/// The folder for the sockets of a VM's jobs.
fn socket_folder(run_dir: &Path, vm_uuid: &str) -> PathBuf {
    run_dir.join(vm_uuid)
}

/// Makes the folder for a job's socket, for QEMU's user alone (and root), and says where in it the socket will be.
pub(crate) fn prepare_socket(
    run_dir: &Path,
    vm_uuid: &str,
    checkpoint: &CheckpointName,
    qemu_owner: Option<(u32, u32)>,
) -> Result<PathBuf, Error> {
    let folder = socket_folder(run_dir, vm_uuid);
    let random = checkpoint.as_str().rsplit('-').next().unwrap_or_default();
    // Half of it, for the path must be short.
    let socket = folder.join(&random[..random.len() / 2]);
    if socket.as_os_str().len() > SOCKET_PATH_LIMIT {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is too long for a socket's path", socket.display()))
            .advise("Name a shorter folder with --run-dir."));
    }
    let failed = |source| Error::io(format!("making the folder {}", folder.display()), source);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() == IoKind::AlreadyExists => {}
        result => result.map_err(failed)?,
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    if let Some((user, group)) = qemu_owner {
        chown(&folder, Some(user), Some(group)).map_err(failed)?;
    }
    Ok(socket)
}

/// Removes files of a job that has ended; what is gone already is fine.
pub(crate) fn remove(files: &[PathBuf]) {
    for file in files {
        match fs::remove_file(file) {
            Err(error) if error.kind() != IoKind::NotFound => {
                tracing::warn!(file = %file.display(), %error, "cannot remove a file of the run");
            }
            _ => {}
        }
    }
}

/// Removes the folder for the sockets of a VM's jobs, if nothing is in it. The caller holds the VM's lock: the next run's
/// folder is the same, and is empty from when that run has made it until QEMU listens there.
pub(crate) fn remove_socket_folder(run_dir: &Path, vm_uuid: &str) {
    fs::remove_dir(socket_folder(run_dir, vm_uuid)).ok();
}

/// Removes what dead runs of a VM left in its socket folder and in the folders for scratch files. The caller holds the
/// VM's lock and has ended such runs' jobs.
pub(crate) fn remove_left_behind(run_dir: &Path, vm_uuid: &str, scratch_folders: &[PathBuf]) {
    let sockets = socket_folder(run_dir, vm_uuid);
    let mut left = entries(&sockets, "");
    let prefix = scratch::prefix(vm_uuid);
    for folder in scratch_folders {
        left.extend(entries(folder, &prefix));
    }
    for file in &left {
        tracing::info!(file = %file.display(), "removing a file that a dead run left");
    }
    remove(&left);
    remove_socket_folder(run_dir, vm_uuid);
}

fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let named = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(prefix.as_bytes());
    entries.filter_map(Result::ok).filter(|e| named(&e.file_name())).map(|e| e.path()).collect()
}

#[cfg(test)]
mod tests {
    use remora_core::RepositoryId;

    use super::*;

    #[test]
    fn only_what_is_ours_and_this_vms_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = CheckpointName::random(RepositoryId::random());
        let socket = prepare_socket(dir.path(), "vm-a", &checkpoint, None).unwrap();
        let mode = fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let images = dir.path().join("images");
        fs::create_dir(&images).unwrap();
        let (ours, other, image) =
            (images.join(".remora-scratch-vm-a-1-vda"), images.join(".remora-scratch-vm-b-1-vda"), images.join("vda"));
        for file in [&socket, &ours, &other, &image] {
            fs::write(file, "").unwrap();
        }
        remove_left_behind(dir.path(), "vm-a", &[images]);
        assert!(!socket.exists() && !ours.exists() && !dir.path().join("vm-a").exists());
        assert!(other.exists() && image.exists());
    }

    #[test]
    fn who_does_not_hold_the_lock_leaves_the_next_runs_folder() {
        let dir = tempfile::tempdir().unwrap();
        let [dead, next] = [(); 2].map(|()| CheckpointName::random(RepositoryId::random()));
        let socket = prepare_socket(dir.path(), "vm", &dead, None).unwrap();
        fs::write(&socket, "").unwrap();
        let next = prepare_socket(dir.path(), "vm", &next, None).unwrap();
        remove(std::slice::from_ref(&socket));
        assert!(!socket.exists());
        fs::write(&next, "").unwrap();
        remove_socket_folder(dir.path(), "vm");
        assert!(next.exists(), "nor does anybody remove one that is in use");
        remove(&[next]);
        remove_socket_folder(dir.path(), "vm");
        assert!(!dir.path().join("vm").exists());
    }

    #[test]
    fn a_folder_too_long_for_a_socket_is_refused_with_advice() {
        let checkpoint = CheckpointName::random(RepositoryId::random());
        let error = prepare_socket(Path::new(&format!("/{}", "x".repeat(100))), "vm", &checkpoint, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.advice().unwrap().contains("--run-dir"));
    }
}
