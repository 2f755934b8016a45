//! `remora restore`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use remora_core::ports::{DiskIndex, Mover};
use remora_core::{DiskName, Error, ErrorKind, PointId, Result};
use remora_engine::Existing;
use serde::Serialize;

use super::find_disk;
use super::image::Image;
use crate::args::{self, ImageFormat};
use crate::context::Context;
use crate::output::{bytes, print};

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
}

pub(super) async fn run(context: &Context, args: args::Restore) -> Result<()> {
    let began = Instant::now();
    let vault = context.vault().await?;
    let reader = vault.open(&args.point).await?;
    let point = reader.point();
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let chosen = match &args.disk {
        Some(name) => vec![find_disk(point, name)?],
        None => (0..point.disks.len()).map(DiskIndex).collect(),
    };
    let into_folder = args.disk.is_none() || args.to.is_dir();
    if into_folder {
        make_folder(&args.to)?;
    }
    let shown = context.progress("restoring");
    let mut all = Vec::new();
    // Every target is checked before the first one is written.
    for disk in chosen {
        let stored = &point.disks[disk.0];
        let path = if into_folder {
            args.to.join(format!("{}.{}", stored.name, extension(args.format)))
        } else {
            args.to.clone()
        };
        let image = Image {
            mover: &vault,
            reader: Arc::clone(&reader),
            disk,
            progress: shown.port(),
            cancel: context.cancel.clone(),
        };
        let prepared = image.prepare(&path, args.format, existing).await?;
        let told = Disk { name: stored.name.clone(), path, format: extension(args.format), size: stored.size };
        all.push((image, prepared, told));
    }
    let mut disks = Vec::new();
    for (image, prepared, told) in all {
        image.write(prepared).await?;
        disks.push(told);
    }
    drop(shown);
    let seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    print(context.format(), &Restored { point: args.point, disks, seconds }, |restored| {
        restored.disks.iter().map(text).collect()
    })
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
    format!("{}: {} as {} in {path}\n", disk.name, bytes(disk.size), disk.format)
}
