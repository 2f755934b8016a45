//! Which libvirt, and where a run may put its files.

use std::ffi::OsString;
use std::path::PathBuf;

use remora_core::{Error, ErrorKind, Result};

/// Where locks and sockets lie unless told otherwise.
const DEFAULT_RUN_DIR: &str = "/run/remora";

/// How to reach libvirt, and where a run may put its files.
#[derive(Clone, Debug)]
pub struct LibvirtOptions {
    /// The URI of a libvirt on this host; else `LIBVIRT_DEFAULT_URI` as virsh reads it, else `qemu:///system`.
    pub connect: Option<String>,
    /// The folder for scratch files, where QEMU keeps the old bytes of what the guest overwrites during a backup. It
    /// should have as much room as the disks are large, and QEMU's user must be able to reach it. Without it they lie
    /// beside each disk's image, and for disks that are block devices in `/var/lib/remora/scratch`.
    pub scratch: Option<PathBuf>,
    /// The folder for locks and sockets; `/run/remora` by default. QEMU's user must be able to pass through it: it is
    /// made with mode 0711, and in it for each VM a folder of mode 0700 that belongs to the user that its QEMU runs as.
    /// Where `AppArmor` confines QEMU, `/etc/apparmor.d/local/abstractions/libvirt-qemu` must allow it:
    /// `/run/remora/** rwk,`. The path must be short: a unix socket's has at most 107 bytes.
    pub run_dir: PathBuf,
    /// The command that runs [`crate::watchdog::main`], such as `/proc/self/exe watchdog`.
    pub watchdog: Vec<OsString>,
}

impl LibvirtOptions {
    /// The usual places, with `watchdog` as the watchdog's command.
    pub fn new(watchdog: Vec<OsString>) -> Self {
        Self { connect: None, scratch: None, run_dir: DEFAULT_RUN_DIR.into(), watchdog }
    }

    /// The usual places, in a program of which the subcommand `watchdog` runs [`crate::watchdog::main`].
    pub fn of_this_program() -> Self {
        Self::new(vec!["/proc/self/exe".into(), "watchdog".into()])
    }

    /// libvirt's schema takes no path with a line break, a tab or the like, and its own words for that help nobody.
    pub(crate) fn check_paths(&self) -> Result<()> {
        for (folder, what) in [(self.scratch.as_ref(), "scratch folder"), (Some(&self.run_dir), "run folder")] {
            let Some(folder) = folder else { continue };
            if folder.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_control) {
                let named =
                    format!("libvirt cannot use the {what} {}: its name has control characters", folder.display());
                return Err(
                    Error::new(ErrorKind::Invalid, named).advise("Choose a folder whose path is one line of text.")
                );
            }
        }
        Ok(())
    }

    pub(crate) fn uri(&self) -> String {
        let environment = || std::env::var("LIBVIRT_DEFAULT_URI").ok();
        let given = self.connect.clone().into_iter().chain(environment());
        given.into_iter().find(|uri| !uri.is_empty()).unwrap_or_else(|| "qemu:///system".into())
    }
}
