//! What a worker says of a disk that it cannot open, read or write.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;

/// What a pod needs that is not root.
const DEVICES: &str = "A pod that is not root has a device only where the runtime gives it one: set \
                       device_ownership_from_security_context = true in the configuration of the node's containerd or CRI-O";

/// The error, and of a device that is another user's what to do about it.
pub(crate) fn explained(path: &Path, error: &io::Error) -> String {
    let what = format!("{}: {error}", path.display());
    let is_device = || path.metadata().is_ok_and(|is| is.file_type().is_block_device());
    let is_anothers = error.raw_os_error() == Some(Errno::EACCES as i32) && is_device();
    if is_anothers { format!("{what}. {DEVICES}") } else { what }
}
