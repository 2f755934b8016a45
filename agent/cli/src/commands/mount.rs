//! `remora mount`

use std::path::PathBuf;
use std::sync::Arc;

use remora_core::ports::{Mover, PointReader};
use remora_core::{Error, ErrorKind, Result};
use remora_engine::or_cancelled;
use remora_files::{Ended, Files, MountOptions, Mounted};
use serde::Serialize;

use crate::args::{self, OutputFormat};
use crate::context::Context;
use crate::output::print_line;

/// Told once everything serves.
#[derive(Serialize)]
struct Serving {
    ready: bool,
    disks: PathBuf,
    files: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: args::Mount) -> Result<()> {
    let reader = context.vault().await?.open(&args.point).await?;
    let files = if args.disks_only { Files::DisksOnly } else { Files::Served };
    let options = MountOptions { files, ..MountOptions::default() };
    let start = remora_files::Mount::start(reader, &args.dir, &options);
    let mut mounted = or_cancelled(&context.cancel, start).await?;
    for skipped in mounted.skipped() {
        context.note(&format!("{} is not shown: {}", skipped.what, skipped.why));
    }
    let told = tell_ready(context.format(), &mounted, files);
    let ended = match told {
        Ok(()) => until_the_end(context, &mut mounted).await,
        Err(error) => Err(error),
    };
    let stopped = mounted.stop().await;
    ended.and(stopped)
}

fn tell_ready(format: OutputFormat, mounted: &Mounted, files: Files) -> Result<()> {
    let serving = Serving {
        ready: true,
        disks: mounted.folder().join("disks"),
        files: (files == Files::Served).then(|| mounted.files()),
    };
    print_line(format, &serving, "ready")
}

/// A signal is the normal end.
async fn until_the_end(context: &Context, mounted: &mut Mounted) -> Result<()> {
    tokio::select! {
        () = context.cancel.cancelled() => Ok(()),
        ended = mounted.wait() => match ended {
            Ended::Disks => {
                context.note("somebody unmounted the disks");
                Ok(())
            }
            Ended::Files(why) => Err(Error::new(ErrorKind::Unavailable, "the guest's files are not served any more")
                .because(why)
                .advise("Mount the point again.")),
        },
    }
}

/// Mounts a point on a folder of its own for as long as `work` takes, for one command's use.
pub(super) async fn while_mounted<T>(
    context: &Context,
    reader: Arc<dyn PointReader>,
    work: impl AsyncFnOnce(&Mounted) -> Result<T>,
) -> Result<T> {
    let folder = tempfile::Builder::new().prefix("remora-").tempdir();
    let folder = folder.map_err(|e| Error::io("making a folder to mount the point on", e))?;
    let options = MountOptions::default();
    let start = remora_files::Mount::start(reader, folder.path(), &options);
    let mounted = or_cancelled(&context.cancel, start).await?;
    let worked = or_cancelled(&context.cancel, work(&mounted)).await;
    let stopped = mounted.stop().await;
    if stopped.is_err() {
        // Never remove what may still be mounted: not even a read-only guest.
        tracing::warn!("{} may still be mounted", folder.keep().display());
    }
    worked.and_then(|worked| stopped.map(|()| worked))
}
