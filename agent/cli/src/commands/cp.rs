//! `remora cp`

use remora_core::ports::Mover;
use remora_core::{Error, ErrorKind, Result};
use remora_files::{Copied, CopyOptions, Existing};

use super::mount::while_mounted;
use crate::args;
use crate::context::Context;
use crate::output::{bytes, print, printable};

pub(super) async fn run(context: &Context, args: args::Cp) -> Result<()> {
    let reader = context.vault().await?.open(&args.from.point).await?;
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let shown = context.progress("copying");
    let copied = while_mounted(context, reader, async |mounted| {
        mounted.copy(&args.from.path, &args.to, CopyOptions { existing }, shown.port()).await
    });
    let copied = copied.await;
    drop(shown);
    let copied = copied?;
    for skipped in &copied.skipped {
        context.note(&format!("{} was not copied: {}", skipped.what, skipped.why));
    }
    print(context.format(), &copied, text)?;
    failures(&copied)
}

fn text(copied: &Copied) -> String {
    let to = printable(&copied.to.display().to_string());
    let Copied { files, folders, links, .. } = copied;
    format!("Copied {files} files, {folders} folders and {links} links, {}, to {to}", bytes(copied.bytes))
}

/// Files that are lost are damage, though the rest was copied.
fn failures(copied: &Copied) -> Result<()> {
    if copied.failed.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = copied.failed.iter().map(|failed| format!("{}: {}", failed.what, failed.why)).collect();
    let what = format!("{} files could not be read: {}", named.len(), named.join("; "));
    Err(Error::new(ErrorKind::Damaged, what).advise("Everything else was copied. `remora verify` tells what is lost."))
}
