//! `remora restore`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use remora_core::ports::{DiskIndex, PointReader};
use remora_core::{DiskName, Error, ErrorKind, PointId, Result};
use remora_engine::Existing;
use remora_vault::Salvage;
use serde::Serialize;

use super::find_disk;
use super::image::{Image, Prepared};
use super::lost::{Lost, LostFile};
use crate::args::{self, ImageFormat};
use crate::context::{Context, Repository};
use crate::output::{bytes, print};
use crate::progress::Shown;

#[derive(Serialize)]
struct Restored {
    point: PointId,
    disks: Vec<Disk>,
    seconds: f64,
}

/// Also what an export tells.
#[derive(Serialize)]
pub(super) struct Disk {
    pub(super) name: DiskName,
    pub(super) path: PathBuf,
    pub(super) format: &'static str,
    pub(super) size: u64,
    /// Only if damage was allowed.
    #[serde(flatten)]
    pub(super) missing: Option<Missing>,
}

#[derive(Serialize)]
pub(super) struct Missing {
    /// What reads as zeros because it is lost.
    lost: Vec<Lost>,
    /// The file that tells so; null if nothing is lost.
    lost_file: Option<PathBuf>,
}

impl Missing {
    /// Removes the file: there is no image that it speaks of.
    fn forget(&self) {
        if let Some(Err(error)) = self.lost_file.as_ref().map(std::fs::remove_file) {
            tracing::warn!(%error, "the list of what is lost stays without its image");
        }
    }
}

/// A disk whose target was checked and opened, and what is told of it.
struct Chosen<'a> {
    image: Image<'a>,
    prepared: Prepared,
    disk: DiskIndex,
    told: Disk,
}

pub(super) async fn run(context: &Context, args: args::Restore) -> Result<()> {
    let began = Instant::now();
    let repository = context.points().await?;
    let reader = Reader::open(&repository, &args).await?;
    let shown = context.progress("restoring");
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let chosen = prepare(context, &repository, &reader, &shown, &args, existing).await?;
    let disks = write(&reader, &args.point, existing, chosen).await?;
    drop(shown);
    let seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    let restored = Restored { point: args.point, disks, seconds };
    print(context.format(), &restored, |restored| restored.disks.iter().map(text).collect())?;
    incomplete(&restored)
}

/// Checks every target, before the first one is written.
async fn prepare<'a>(
    context: &Context,
    repository: &'a Repository,
    reader: &Reader,
    shown: &Shown,
    args: &args::Restore,
    existing: Existing,
) -> Result<Vec<Chosen<'a>>> {
    let port = reader.port();
    let point = port.point();
    let disks = match &args.disk {
        Some(name) => vec![find_disk(point, name)?],
        None => (0..point.disks.len()).map(DiskIndex).collect(),
    };
    let into_folder = args.disk.is_none() || args.to.is_dir();
    if into_folder {
        make_folder(&args.to)?;
    }
    let mut all = Vec::new();
    for disk in disks {
        let stored = &point.disks[disk.0];
        let path = if into_folder {
            args.to.join(format!("{}.{}", stored.name, extension(args.format)))
        } else {
            args.to.clone()
        };
        let image = Image {
            mover: repository.port(),
            reader: Arc::clone(&port),
            disk,
            progress: shown.port(),
            cancel: context.cancel.clone(),
        };
        let prepared = image.prepare(&path, args.format, existing).await?;
        if args.allow_damaged {
            LostFile::beside(&path, &args.point, &stored.name).check(existing)?;
        }
        let format = extension(args.format);
        let told = Disk { name: stored.name.clone(), path, format, size: stored.size, missing: None };
        all.push(Chosen { image, prepared, disk, told });
    }
    Ok(all)
}

async fn write(reader: &Reader, point: &PointId, existing: Existing, chosen: Vec<Chosen<'_>>) -> Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for Chosen { image, prepared, disk, told } in chosen {
        let written = image.write(prepared).await?;
        // First the list, then the image: whoever finds an image with zeros for what is lost finds the list beside it. So that of
        // an image that is to be replaced stays until now.
        let missing = reader.missing(point, disk, &told, existing)?;
        if let Err(error) = written.finish().await {
            missing.iter().for_each(Missing::forget);
            return Err(error);
        }
        if existing == Existing::Replace && missing.as_ref().is_none_or(|missing| missing.lost_file.is_none()) {
            LostFile::beside(&told.path, point, &told.name).remove()?;
        }
        disks.push(Disk { missing, ..told });
    }
    Ok(disks)
}

/// Reads a point, with or without the damage in it.
enum Reader {
    Whole(Arc<dyn PointReader>),
    Damaged(Arc<Salvage>),
}

impl Reader {
    async fn open(repository: &Repository, args: &args::Restore) -> Result<Self> {
        Ok(match repository.vault() {
            Some(vault) if args.allow_damaged => Self::Damaged(Arc::new(vault.salvage(&args.point).await?)),
            None if args.allow_damaged => {
                return Err(Error::new(ErrorKind::Unsupported, "what a mover keeps in its own form is restored whole")
                    .advise("Leave --allow-damaged out."));
            }
            _ => Self::Whole(repository.port().open(&args.point).await?),
        })
    }

    fn port(&self) -> Arc<dyn PointReader> {
        match self {
            Self::Whole(reader) => Arc::clone(reader),
            Self::Damaged(salvage) => Arc::clone(salvage) as Arc<dyn PointReader>,
        }
    }

    /// What was lost of a disk that was restored, which goes into a file too.
    fn missing(&self, point: &PointId, disk: DiskIndex, told: &Disk, existing: Existing) -> Result<Option<Missing>> {
        let Self::Damaged(salvage) = self else { return Ok(None) };
        let lost: Vec<Lost> = salvage.lost(disk).into_iter().map(Lost::from).collect();
        if lost.is_empty() {
            return Ok(Some(Missing { lost, lost_file: None }));
        }
        let file = LostFile::beside(&told.path, point, &told.name);
        if existing == Existing::Replace {
            file.remove()?;
        }
        file.write(point, &told.path, &lost)?;
        Ok(Some(Missing { lost, lost_file: Some(file.path().into()) }))
    }
}

/// An error that names the files, if anything is missing from what was restored.
fn incomplete(restored: &Restored) -> Result<()> {
    let missing = restored.disks.iter().filter_map(|disk| disk.missing.as_ref());
    let files: Vec<_> = missing.filter_map(|m| m.lost_file.as_ref().map(|file| file.display().to_string())).collect();
    if files.is_empty() {
        return Ok(());
    }
    let what = format!("point {} is damaged: what is lost of it was restored as zeros", restored.point);
    Err(Error::new(ErrorKind::Incomplete, what).advise(format!("See which ranges in {}.", files.join(", "))))
}

pub(super) const fn extension(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
    }
}

fn make_folder(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(there) if !there.is_dir() => {
            Err(Error::new(ErrorKind::Invalid, format!("{} is not a folder", path.display()))
                .advise("Give a folder for all disks, or choose one disk with --disk."))
        }
        Ok(_) => Ok(()),
        Err(_) => {
            std::fs::create_dir_all(path).map_err(|e| Error::io(format!("making the folder {}", path.display()), e))
        }
    }
}

pub(super) fn text(disk: &Disk) -> String {
    let path = crate::output::printable(&disk.path.display().to_string());
    let missing = match &disk.missing {
        Some(Missing { lost, lost_file: Some(file) }) => {
            let zeros = lost.iter().map(|lost| lost.end - lost.start).sum();
            let file = crate::output::printable(&file.display().to_string());
            format!(", {} of it LOST and zero: see {file}", bytes(zeros))
        }
        _ => String::new(),
    };
    format!("{}: {} as {} in {path}{missing}\n", disk.name, bytes(disk.size), disk.format)
}
