//! The calls of libvirt that the `virt` crate lacks, or whose wrappers there ignore failure and then read memory that
//! was never written (`Domain::block_info`, `Domain::state` of virt); and two of the kernel. The only `unsafe` of this crate.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use nix::libc;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

type Result<T> = std::result::Result<T, Error>;

/// A checkpoint as libvirt knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawCheckpoint {
    /// Its name.
    pub(crate) name: String,
    /// Its definition, without the domain's.
    pub(crate) xml: String,
}

/// How much of a checkpoint to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delete {
    /// Its bitmaps and what libvirt knows of it.
    Whole,
    /// Only what libvirt knows of it.
    MetadataOnly,
}

/// Ends this process at once, as it is; what is to be seen of it must have been flushed. Threads may still be inside
/// libvirt (one that hangs is left to itself, a connection is closed in the background), and an ordinary exit lets the C
/// libraries clean up what those threads use.
pub fn leave(code: u8) -> ! {
    // SAFETY: it takes a number and does not return; nothing of this process is used any more.
    unsafe { libc::_exit(code.into()) }
}

/// Gives up all capabilities of this thread, which those that it starts then lack too.
pub(crate) fn drop_capabilities() -> std::io::Result<()> {
    // capget(2): version 3, of this thread; of each set (effective, permitted, inheritable) two words.
    let mut header: [u32; 2] = [0x2008_0522, 0];
    let none = [[0_u32; 3]; 2];
    // SAFETY: both are laid out as the call takes them and outlive it; of the header it may change the version.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), none.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A text for libvirt. Names and XML hold no NUL byte; should one, libvirt's last error stands for it, or an unknown one.
fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::last_error())
}

/// Starts a backup job, and creates a checkpoint at the same instant if its XML is given.
pub(crate) fn backup_begin(domain: &Domain, backup: &str, checkpoint: Option<&str>) -> Result<()> {
    let backup = c_string(backup)?;
    let checkpoint = checkpoint.map(c_string).transpose()?;
    let checkpoint = checkpoint.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    // SAFETY: `domain` holds a reference for the whole call; both texts end with NUL and outlive it.
    done(unsafe { sys::virDomainBackupBegin(domain.as_ptr(), backup.as_ptr(), checkpoint, 0) })
}

/// The XML of the running backup job; the error `NoDomainBackup` if there is none.
pub(crate) fn backup_xml(domain: &Domain) -> Result<String> {
    // SAFETY: `domain` holds a reference; the text is ours to free.
    unsafe { owned_text(sys::virDomainBackupGetXMLDesc(domain.as_ptr(), 0)) }
}

/// Ends the domain's job, whosever it is.
pub(crate) fn abort_job(domain: &Domain) -> Result<()> {
    // SAFETY: `domain` holds a reference.
    done(unsafe { sys::virDomainAbortJob(domain.as_ptr()) })
}

/// All checkpoints of the domain.
pub(crate) fn checkpoints(domain: &Domain) -> Result<Vec<RawCheckpoint>> {
    let mut list: *mut sys::virDomainCheckpointPtr = ptr::null_mut();
    // SAFETY: `domain` holds a reference; libvirt stores an array of its own there.
    let count = unsafe { sys::virDomainListAllCheckpoints(domain.as_ptr(), &raw mut list, 0) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    // SAFETY: libvirt filled `count` entries, each with a reference that is ours now.
    let all: Vec<_> = (0..count).map(|n| CheckpointRef(unsafe { *list.add(n) })).collect();
    // SAFETY: the array was made by libvirt's allocator, which is malloc.
    unsafe { libc::free(list.cast::<c_void>()) };
    all.iter().map(CheckpointRef::describe).collect()
}

/// Deletes a checkpoint.
pub(crate) fn delete_checkpoint(domain: &Domain, name: &str, delete: Delete) -> Result<()> {
    let name = c_string(name)?;
    // SAFETY: `domain` holds a reference; the name outlives the call.
    let checkpoint = unsafe { sys::virDomainCheckpointLookupByName(domain.as_ptr(), name.as_ptr(), 0) };
    if checkpoint.is_null() {
        return Err(Error::last_error());
    }
    let checkpoint = CheckpointRef(checkpoint);
    let flags = match delete {
        Delete::Whole => 0,
        Delete::MetadataOnly => sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY,
    };
    // SAFETY: the reference lives until `checkpoint` is dropped.
    done(unsafe { sys::virDomainCheckpointDelete(checkpoint.0, flags) })
}

/// Freezes all filesystems of the guest; returns how many there were.
pub(crate) fn freeze(domain: &Domain) -> Result<u32> {
    // SAFETY: `domain` holds a reference; no list of mount points means all.
    let count = unsafe { sys::virDomainFSFreeze(domain.as_ptr(), ptr::null_mut(), 0, 0) };
    u32::try_from(count).map_err(|_| Error::last_error())
}

/// Thaws all filesystems of the guest; returns how many were frozen.
pub(crate) fn thaw(domain: &Domain) -> Result<u32> {
    // SAFETY: `domain` holds a reference; no list of mount points means all.
    let count = unsafe { sys::virDomainFSThaw(domain.as_ptr(), ptr::null_mut(), 0, 0) };
    u32::try_from(count).map_err(|_| Error::last_error())
}

/// How long libvirt waits for an answer of the guest agent, in seconds; `None` is libvirt's default, for ever.
pub(crate) fn set_agent_timeout(domain: &Domain, seconds: Option<u16>) -> Result<()> {
    let seconds = seconds.map_or(sys::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, i32::from);
    // SAFETY: `domain` holds a reference.
    done(unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) })
}

/// The size of a disk in bytes, as the guest sees it.
pub(crate) fn disk_size(domain: &Domain, target: &str) -> Result<u64> {
    let target = c_string(target)?;
    let mut info = MaybeUninit::<sys::virDomainBlockInfo>::zeroed();
    // SAFETY: `domain` holds a reference, the name outlives the call, `info` has the type that libvirt fills.
    done(unsafe { sys::virDomainGetBlockInfo(domain.as_ptr(), target.as_ptr(), info.as_mut_ptr(), 0) })?;
    // SAFETY: three integers, for which all zeroes is valid too.
    Ok(unsafe { info.assume_init() }.capacity)
}

/// What the domain does, one of libvirt's `VIR_DOMAIN_*` states.
pub(crate) fn state(domain: &Domain) -> Result<sys::virDomainState> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: `domain` holds a reference; both integers outlive the call.
    done(unsafe { sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) })?;
    Ok(sys::virDomainState::try_from(state).unwrap_or(sys::VIR_DOMAIN_NOSTATE))
}

/// A reference to a checkpoint, given back when dropped.
struct CheckpointRef(sys::virDomainCheckpointPtr);

impl CheckpointRef {
    fn describe(&self) -> Result<RawCheckpoint> {
        // SAFETY: the reference is alive; the name belongs to it and is copied at once.
        let name = unsafe { sys::virDomainCheckpointGetName(self.0) };
        if name.is_null() {
            return Err(Error::last_error());
        }
        // SAFETY: not null, ends with NUL, lives as long as the checkpoint.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let flags = sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN;
        // SAFETY: the reference is alive; the text is ours to free.
        let xml = unsafe { owned_text(sys::virDomainCheckpointGetXMLDesc(self.0, flags)) }?;
        Ok(RawCheckpoint { name, xml })
    }
}

impl Drop for CheckpointRef {
    fn drop(&mut self) {
        // SAFETY: the one reference that was given to us.
        unsafe { sys::virDomainCheckpointFree(self.0) };
    }
}

fn done(code: i32) -> Result<()> {
    if code < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Copies and frees a text that libvirt made for its caller.
///
/// # Safety
/// `text` is null or a NUL-terminated text of libvirt's allocator that nobody else frees.
unsafe fn owned_text(text: *mut c_char) -> Result<String> {
    if text.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: the caller's promise.
    let copy = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: the caller's promise; libvirt's allocator is malloc.
    unsafe { libc::free(text.cast::<c_void>()) };
    Ok(copy)
}
