//! What of a point is lost: in reports, and as the file beside a restored disk.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use remora_core::ports::{Damage, Effect};
use remora_core::{DiskName, Error, ErrorKind, PointId, Result};
use remora_engine::Existing;
use serde::Serialize;

/// A stretch of a disk that rests on a damaged object.
#[derive(Serialize)]
pub(super) struct Lost {
    pub(super) disk: DiskName,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) effect: Effect,
    pub(super) object: String,
    pub(super) why: String,
}

impl From<Damage> for Lost {
    fn from(damage: Damage) -> Self {
        let Damage { disk, range, effect, object, why } = damage;
        Self { disk, start: range.start, end: range.end, effect, object, why }
    }
}

/// The file that tells what is missing from a restored disk.
pub(super) struct LostFile(PathBuf);

#[derive(Serialize)]
struct Map<'a> {
    point: &'a PointId,
    target: &'a Path,
    /// All of these read as zeros.
    lost: &'a [Lost],
}

impl LostFile {
    /// Beside `target`; for a device, which has no place beside it, in the folder that one stands in.
    pub(super) fn beside(target: &Path, point: &PointId, disk: &DiskName) -> Self {
        if target.metadata().is_ok_and(|meta| meta.file_type().is_block_device()) {
            return Self(format!("{point}-{disk}.lost.json").into());
        }
        let mut name = target.as_os_str().to_owned();
        name.push(".lost.json");
        Self(name.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Refuses to replace one of before, unless that is wanted.
    pub(super) fn check(&self, existing: Existing) -> Result<()> {
        if existing == Existing::Refuse && self.0.symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::Exists, format!("{} exists already", self.0.display()))
                .advise("Choose another target, or replace both with --force."));
        }
        Ok(())
    }

    /// Removes one of before, if there is one: it tells of other bytes.
    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", self.0.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Writes it, synced, its name too.
    pub(super) fn write(&self, point: &PointId, target: &Path, lost: &[Lost]) -> Result<()> {
        let failed = |e| Error::io(format!("writing {}", self.0.display()), e);
        let mut text = serde_json::to_vec_pretty(&Map { point, target, lost }).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
        let mut file = File::create_new(&self.0).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}
