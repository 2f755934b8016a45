//! Mounts [`DiskFs`] and serves it until it is unmounted.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use nix::mount::{MsFlags, mount};
use remora_core::ports::PointReader;
use remora_core::{Error, ErrorKind, PIECE_SIZE, Result};
use tokio::time::{Instant, sleep};

use crate::disk_fs::{DiskFs, Tasks};
use crate::mountpoint;

/// A mounted folder of disks.
pub(crate) struct DiskMount {
    at: PathBuf,
    tasks: Tasks,
    session: Option<BackgroundSession>,
}

impl DiskMount {
    /// Mounts the disks of a point on the folder `at`. Needs root, for it calls mount(2) itself: so we know what was
    /// mounted and can unmount it whatever state it is in, which fusermount cannot.
    pub(crate) async fn start(reader: Arc<dyn PointReader>, at: PathBuf) -> Result<Self> {
        let filesystem = DiskFs::new(reader);
        let tasks = filesystem.tasks();
        tokio::task::spawn_blocking(move || {
            let device = mount_fuse(&at)?;
            // From here on, dropping unmounts.
            let mut mounted = Self { at, tasks, session: None };
            let failed = |source| Error::io(format!("serving {}", mounted.at.display()), source);
            let session = Session::from_fd(filesystem, device.into(), SessionACL::Owner, Config::default());
            mounted.session = Some(session.and_then(Session::spawn).map_err(failed)?);
            widen_kernel_read_ahead(&mounted.at);
            Ok(mounted)
        })
        .await
        .map_err(|e| Error::new(ErrorKind::Failed, "mounting the disks").because(e))?
    }

    /// Whether the mount is gone, because somebody unmounted it.
    pub(crate) fn ended(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// Unmounts; whoever still reads gets an error.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let unmounted = mountpoint::unmount(&self.at);
        self.tasks.end().await;
        if let Some(session) = self.session.take() {
            let deadline = Instant::now() + Duration::from_secs(2);
            while !session.guard.is_finished() && Instant::now() < deadline {
                sleep(Duration::from_millis(5)).await;
            }
            if session.guard.is_finished() {
                let _ = session.join();
            } else {
                // Somebody still has a file open. Its thread answers with errors until that is closed or we exit.
                tracing::debug!(at = %self.at.display(), "the unmounted disks are still in use");
            }
        }
        unmounted
    }
}

/// Whoever forgets a mount does not leave it behind.
impl Drop for DiskMount {
    fn drop(&mut self) {
        if self.session.as_ref().is_some_and(|session| !session.guard.is_finished()) {
            let _ = mountpoint::unmount(&self.at);
            self.tasks.cancel();
        }
    }
}

fn mount_fuse(at: &Path) -> Result<File> {
    let open = || OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let device = open().map_err(|source| {
        Error::io("opening /dev/fuse", source).advise("Load the kernel's fuse module, and run as root.")
    })?;
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let options = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions,max_read={PIECE_SIZE}",
        device.as_raw_fd()
    );
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    mount(Some("remora"), at, Some("fuse.remora"), flags, Some(options.as_str())).map_err(|errno| {
        Error::io(format!("mounting on {}", at.display()), errno.into()).advise("Mounting needs root.")
    })?;
    Ok(device)
}

/// The kernel reads 128 KiB ahead on FUSE, whatever a filesystem asks for, unless its device is told. Only speed
/// depends on it.
///
/// Looks the device up without touching the mount: a thread that waits for a filesystem of its own process cannot be
/// killed, for the kernel waits for an answer that only this process could give (seen: such a process stays for ever).
fn widen_kernel_read_ahead(at: &Path) {
    let Some(device) = mountpoint::device(at) else { return };
    let device = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&device, (PIECE_SIZE / 1024).to_string()) {
        tracing::debug!(%device, "the kernel's read-ahead stays as it is: {error}");
    }
}
