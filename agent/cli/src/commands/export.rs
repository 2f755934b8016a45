//! `remora export`

use std::io::IsTerminal;
use std::path::Path;

use remora_core::ports::Mover;
use remora_core::{Error, ErrorKind, Result};
use remora_engine::Existing;

use super::find_disk;
use super::image::Image;
use super::restore::{Disk, extension, text};
use crate::args;
use crate::context::Context;
use crate::output::print;

pub(super) async fn run(context: &Context, args: args::Export) -> Result<()> {
    let to_stdout = args.to == Path::new("-");
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(Error::new(ErrorKind::Invalid, "a disk's image is nothing for a terminal")
            .advise("Name a file with --to, or send standard output to a file or a program."));
    }
    let vault = context.vault().await?;
    let reader = vault.open(&args.point).await?;
    let disk = find_disk(reader.point(), &args.disk)?;
    let size = reader.point().disks[disk.0].size;
    let shown = context.progress("exporting");
    let image = Image { mover: &vault, reader, disk, progress: shown.port(), cancel: context.cancel.clone() };
    if to_stdout {
        return image.stream(args.format, tokio::io::stdout()).await;
    }
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let prepared = image.prepare(&args.to, args.format, existing).await?;
    image.write(prepared).await?.finish().await?;
    drop(shown);
    let told = Disk { name: args.disk, path: args.to, format: extension(args.format), size, missing: None };
    print(context.format(), &told, text)
}
