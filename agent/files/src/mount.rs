//! A mounted point: started, watched, and always cleaned up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use remora_core::ports::{PointReader, Progress};
use remora_core::{Error, ErrorKind, Result};
use tokio::time::{interval, timeout};

use crate::appliance::{Appliance, ApplianceOptions, Boot};
use crate::copy::{self, Copied, CopyOptions};
use crate::disk_fs::file_name;
use crate::disk_mount::DiskMount;
use crate::mountpoint::{self, Folder};
use crate::skipped::Skipped;

/// What to mount, and how.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Whether the guest's files are wanted.
    pub files: Files,
    /// How to run the appliance that serves them.
    pub appliance: ApplianceOptions,
}

/// Whether the guest's files are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Files {
    /// Boot an appliance that serves them; takes seconds.
    #[default]
    Served,
    /// The raw disks alone; at once.
    DisksOnly,
}

/// Starts mounts.
#[derive(Clone, Copy, Debug)]
pub struct Mount;

/// A mounted point. Dropping it unmounts by force; [`Mounted::stop`] does so in order.
pub struct Mounted {
    // In the order in which they must go: the appliance reads the disks, both lie in the folder.
    appliance: Option<Appliance>,
    disks: Option<DiskMount>,
    filesystems: Vec<String>,
    skipped: Vec<Skipped>,
    folder: Folder,
}

/// What ended without being told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The appliance, and with it `files/`, which is unmounted now. The disks are still served.
    Files(String),
    /// Somebody unmounted `disks/`. Nothing is served any more.
    Disks,
}

impl Mount {
    /// Mounts the point on `folder`, which is empty or will be made: `disks/<disk>.raw` and, unless only disks are
    /// wanted, `files/…`. When it returns, both serve. Needs root. May be dropped while it runs; nothing stays.
    ///
    /// # Errors
    /// `Invalid`, `Exists` or `Busy` for a folder that cannot be used; `Unavailable` if the appliance does not start.
    pub async fn start(reader: Arc<dyn PointReader>, folder: &Path, options: &MountOptions) -> Result<Mounted> {
        let folder = prepare(folder).await?;
        let names: Vec<_> = reader.point().disks.iter().map(|disk| disk.name.clone()).collect();
        let mut mounted =
            Mounted { appliance: None, disks: None, filesystems: Vec::new(), skipped: Vec::new(), folder };
        mounted.disks = Some(DiskMount::start(reader, mounted.folder.disks()).await?);
        if options.files == Files::Served {
            let disks = mounted.folder.disks();
            let images = names.iter().map(|name| disks.join(file_name(name.as_str()))).collect();
            let boot = Boot { disks: &names, images, folder: mounted.folder.path(), options: &options.appliance };
            let served = match Appliance::boot(boot).await {
                Ok(served) => served,
                Err(error) => {
                    let _ = mounted.stop().await;
                    return Err(error);
                }
            };
            mounted.appliance = served.appliance;
            mounted.filesystems = served.filesystems;
            mounted.skipped = served.skipped;
        }
        Ok(mounted)
    }
}

async fn prepare(folder: &Path) -> Result<Folder> {
    let path = folder.to_owned();
    let prepared = tokio::task::spawn_blocking(move || Folder::prepare(&path));
    let Ok(prepared) = timeout(Duration::from_secs(30), prepared).await else {
        let what = format!("what is mounted on {} does not answer", folder.display());
        return Err(Error::new(ErrorKind::Busy, what).advise("Stop that mount, or name another folder."));
    };
    prepared.map_err(|e| Error::new(ErrorKind::Failed, "preparing the mount").because(e))?
}

impl Mounted {
    /// The folder, as an absolute path.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the guest's files are.
    pub fn files(&self) -> PathBuf {
        self.folder.files()
    }

    /// The folders below `files/` that filesystems are shown in, such as `vda/1`, `vg0/data` and `root`.
    pub fn filesystems(&self) -> &[String] {
        &self.filesystems
    }

    /// What could not be shown, and why.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Waits until something ends that was not told to. May be dropped and called again; after [`Ended::Files`] it
    /// waits for the disks.
    pub async fn wait(&mut self) -> Ended {
        let mut look = interval(Duration::from_millis(250));
        loop {
            look.tick().await;
            if self.disks.as_ref().is_none_or(DiskMount::ended) {
                return Ended::Disks;
            }
            let Some(why) = self.appliance.as_ref().and_then(Appliance::failure) else {
                continue;
            };
            tracing::warn!("the guest's files are not served any more: {why}");
            if let Err(error) = self.stop_files().await {
                tracing::warn!("{}", error.chain());
            }
            return Ended::Files(why);
        }
    }

    /// Copies a file or a tree out of the guest's filesystems: `from` is a path below `files/`, with or without a slash
    /// in front. See [`copy_out`](crate::copy_out).
    pub async fn copy(
        &self,
        from: &Path,
        dest: &Path,
        options: CopyOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Copied> {
        let (files, path, dest) = (self.files(), from.to_owned(), dest.to_owned());
        let copied =
            tokio::task::spawn_blocking(move || copy::copy_out(&files, &path, &dest, options, progress.as_ref()))
                .await
                .map_err(|e| Error::new(ErrorKind::Failed, "copying").because(e))?;
        copied.map_err(|error| match (error.kind(), error.advice()) {
            (ErrorKind::NotFound, None) => error.advise(self.advice()),
            _ => error,
        })
    }

    fn advice(&self) -> String {
        let mut text = if self.filesystems.is_empty() {
            "The point has no filesystem that can be shown.".to_owned()
        } else {
            format!("Paths begin with the filesystem; there are: /{}.", self.filesystems.join(", /"))
        };
        for Skipped { what, why } in &self.skipped {
            use std::fmt::Write as _;
            let _ = write!(text, " {what} is not shown: {why}.");
        }
        text
    }

    /// Unmounts both, lazily where somebody still uses them, waits until the appliance's processes are gone, and
    /// removes the folders that were made. All of it is tried, the first error returned.
    pub async fn stop(mut self) -> Result<()> {
        let files = self.stop_files().await;
        let disks = match self.disks.take() {
            Some(disks) => disks.stop().await,
            None => Ok(()),
        };
        files.and(disks)
    }

    async fn stop_files(&mut self) -> Result<()> {
        let Some(appliance) = self.appliance.take() else { return Ok(()) };
        let path = self.folder.files();
        // Unmounting is what makes guestfish end by itself.
        let first = mountpoint::unmount(&path);
        let ended = appliance.end().await;
        let second = if mountpoint::is_mounted(&path) { mountpoint::unmount(&path) } else { first };
        second.and(ended)
    }
}
