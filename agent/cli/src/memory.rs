//! How the process uses memory.
#![allow(unsafe_code)]

use nix::libc;

/// Keeps glibc from holding on to freed pieces: by default each thread gets an arena of its own, and none of them gives
/// back what another one needs.
pub(crate) fn tune_allocator() {
    // SAFETY: `mallopt` takes two integers and only changes the allocator's own parameters; no thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 * 1024 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 8 * 1024 * 1024);
    }
}
