//! What the process that removes checkpoints gives up before libvirt's client says a word.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use nix::sys::prctl;
use nix::unistd::close;

use crate::raw;

/// Gives up, for good, what speaking through one socket does not take: every capability, the hope of another, and what was
/// inherited open, but for the three standard streams. Of this thread and those that it starts, so it comes first.
pub(super) fn give_up() -> io::Result<()> {
    close_inherited()?;
    prctl::set_no_new_privs()?;
    raw::drop_capabilities()
}

/// Rust's files are closed by themselves; libraries open files as they like.
fn close_inherited() -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The one that listed them is closed already.
        close(fd).ok();
    }
    Ok(())
}
