//! Scratch files: where QEMU keeps the old bytes of what the guest overwrites while a job runs. When their filesystem
//! fills up it is the *guest* that gets the error, so they are watched and the job is ended before that.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use remora_core::{CheckpointName, DiskName, Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::definition::{DiskDefinition, SourceKind};

/// Where scratch files of disks lie that are no files.
pub(crate) const DEFAULT_FOLDER: &str = "/var/lib/remora/scratch";

/// Less room than this is never enough, in bytes.
const LEAST_ROOM: u64 = 32 << 20;

/// The folder for a disk's scratch file: the chosen one, or the image's own (QEMU and libvirt reach that surely).
pub(crate) fn folder(chosen: Option<&Path>, disk: &DiskDefinition) -> PathBuf {
    match (chosen, disk.kind, disk.path.parent()) {
        (Some(chosen), _, _) => chosen.to_owned(),
        (None, SourceKind::File, Some(folder)) => folder.to_owned(),
        (None, _, _) => DEFAULT_FOLDER.into(),
    }
}

/// How the names of all scratch files of a VM begin; the next run knows a dead one's by it.
pub(crate) fn prefix(vm_uuid: &str) -> String {
    format!(".remora-scratch-{vm_uuid}-")
}

/// The name of one scratch file.
pub(crate) fn file_name(vm_uuid: &str, checkpoint: &CheckpointName, disk: &DiskName) -> String {
    let random = checkpoint.as_str().rsplit('-').next().unwrap_or_default();
    format!("{}{random}-{disk}", prefix(vm_uuid))
}

/// The scratch files of a job on one filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// A folder on it.
    pub(crate) folder: PathBuf,
    /// What was free before the job, in bytes.
    pub(crate) free_before: u64,
    /// The most that the files can grow to: their disks' sizes together.
    pub(crate) at_most: u64,
}

/// What a look at a volume says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Even scratch files as large as their disks fit.
    Ample,
    /// A guest that overwrites enough can fill it.
    Tight,
    /// Not worth a start.
    TooLittle,
}

impl Volume {
    /// Before the job starts.
    pub(crate) fn room(&self) -> Room {
        if self.free_before >= self.at_most {
            Room::Ample
        } else if self.free_before < LEAST_ROOM.max(self.at_most / 100).min(self.at_most) {
            Room::TooLittle
        } else {
            Room::Tight
        }
    }

    /// Whether the job must end now: 80 % of what was free is gone, and what is left could be filled by scratch files.
    pub(crate) fn must_stop(&self, free_now: u64) -> bool {
        free_now <= self.free_before / 5 && free_now < self.at_most
    }
}

/// Bytes free in `folder` for users that are not root.
pub(crate) fn free(folder: &Path) -> std::io::Result<u64> {
    let stat = statvfs(folder)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Groups files, given as (folder, size of the disk), by filesystem and looks at each.
pub(crate) fn volumes(files: &[(PathBuf, u64)]) -> Result<Vec<Volume>, Error> {
    let mut found: Vec<(u64, Volume)> = Vec::new();
    for (folder, size) in files {
        let failed = |source| {
            Error::io(format!("looking at the folder for scratch files {}", folder.display()), source)
                .advise("Name another folder with --scratch.")
        };
        let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(folder).map_err(failed)?);
        if let Some((_, volume)) = found.iter_mut().find(|(known, _)| *known == device) {
            volume.at_most = volume.at_most.saturating_add(*size);
        } else {
            let free_before = free(folder).map_err(failed)?;
            found.push((device, Volume { folder: folder.clone(), free_before, at_most: *size }));
        }
    }
    Ok(found.into_iter().map(|(_, volume)| volume).collect())
}

/// Refuses to start without room, and warns when it is tight.
pub(crate) fn check(volumes: &[Volume]) -> Result<(), Error> {
    for volume in volumes {
        let (folder, free, disks) = (volume.folder.display(), volume.free_before, volume.at_most);
        match volume.room() {
            Room::Ample => {}
            Room::Tight => tracing::warn!(
                %folder, free, disks,
                "there is less room for scratch files than the disks are large; the backup ends early if the guest overwrites too much meanwhile"
            ),
            Room::TooLittle => {
                return Err(Error::new(
                    ErrorKind::NoSpace,
                    format!(
                        "{folder} has {free} bytes free, too little for the scratch files of disks of {disks} bytes"
                    ),
                )
                .advise("Free some room there, or name a folder on a larger filesystem with --scratch."));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use remora_core::RepositoryId;

    use super::*;
    use crate::definition::Format;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn volume(free_before: u64, at_most: u64) -> Volume {
        Volume { folder: "/s".into(), free_before, at_most }
    }

    #[test]
    fn room_is_judged_before_the_start() {
        assert_eq!(volume(10 * GIB, 10 * GIB).room(), Room::Ample);
        assert_eq!(volume(9 * GIB, 10 * GIB).room(), Room::Tight);
        assert_eq!(volume(99 * MIB, 10 * GIB).room(), Room::TooLittle);
        assert_eq!(volume(31 * MIB, GIB).room(), Room::TooLittle);
        assert_eq!(volume(31 * MIB, 30 * MIB).room(), Room::Ample);
        assert!(check(&[volume(9 * GIB, 10 * GIB)]).is_ok());
        assert_eq!(check(&[volume(MIB, GIB)]).unwrap_err().kind(), ErrorKind::NoSpace);
    }

    #[test]
    fn the_job_stops_when_four_fifths_are_gone_and_never_when_all_fits() {
        let tight = volume(100 * MIB, GIB);
        assert!(!tight.must_stop(100 * MIB) && !tight.must_stop(20 * MIB + 1));
        assert!(tight.must_stop(20 * MIB) && tight.must_stop(0));
        let ample = volume(100 * GIB, GIB);
        assert!(!ample.must_stop(10 * GIB), "others filled it, and all scratch files still fit");
        assert!(ample.must_stop(GIB - 1));
    }

    #[test]
    fn disks_of_one_filesystem_share_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        let found = volumes(&[(a.clone(), 3), (b, 4)]).unwrap();
        assert_eq!((found.len(), found[0].at_most, &found[0].folder), (1, 7, &a));
        let missing = volumes(&[(dir.path().join("none"), 1)]).unwrap_err();
        assert!(missing.advice().unwrap().contains("--scratch"));
    }

    #[test]
    fn scratch_lies_beside_the_image_unless_told_otherwise() {
        let disk = |path: &str, kind| DiskDefinition {
            name: DiskName::new("vda").unwrap(),
            path: path.into(),
            kind,
            format: Format::Raw,
            index: None,
            data_file: None,
        };
        let file = disk("/images/a b.raw", SourceKind::File);
        assert_eq!(folder(None, &file), Path::new("/images"));
        assert_eq!(folder(None, &disk("/dev/vg/lv", SourceKind::Block)), Path::new(DEFAULT_FOLDER));
        assert_eq!(folder(Some(Path::new("/s")), &file), Path::new("/s"));
        let name = file_name("u-u", &CheckpointName::random(RepositoryId::random()), &file.name);
        assert!(name.starts_with(&prefix("u-u")) && name.ends_with("-vda"), "{name}");
    }
}
