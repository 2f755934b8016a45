//! The commands, a file each, and what several of them share: `image.rs`, `lost.rs` and `renew.rs`.

mod backup;
mod copy;
mod cp;
mod diff;
mod doctor;
mod export;
mod gc;
mod hold;
mod image;
mod key;
mod lost;
mod mount;
mod plugin;
mod points;
mod policy;
mod prune;
mod renew;
mod repo;
mod restore;
mod show;
mod verify;

use remora_core::ports::DiskIndex;
use remora_core::{DiskName, Error, ErrorKind, Result, point::Point};

use crate::args::Command;
use crate::context::Context;

/// Runs one.
pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Doctor { repo } => doctor::run(context, repo).await,
        Command::Repo { command } => repo::run(context, command).await,
        Command::Key { command } => key::run(context, command).await,
        Command::Backup(args) => backup::run(context, args).await,
        Command::Points { vm } => points::run(context, vm).await,
        Command::Show { point } => show::run(context, point).await,
        Command::Diff(args) => diff::run(context, args).await,
        Command::Restore(args) => restore::run(context, args).await,
        Command::Export(args) => export::run(context, args).await,
        Command::Mount(args) => mount::run(context, args).await,
        Command::Cp(args) => cp::run(context, args).await,
        Command::Copy(args) => copy::run(context, args).await,
        Command::Verify(args) => verify::run(context, args).await,
        Command::Prune(args) => prune::run(context, args).await,
        Command::Gc { vm, dry_run } => gc::run(context, vm, gc::mode(dry_run)).await,
        Command::Policy { command } => policy::run(context, command).await,
        Command::Plugin { command } => plugin::run(context, command).await,
        Command::Hold(args) => hold::run(context, args).await,
        Command::Completions { .. } | Command::Crds | Command::Watchdog => {
            Err(Error::new(ErrorKind::Failed, "this command needs no runtime and is run before there is one"))
        }
    }
}

/// The disk of that name, or `NotFound` with the names that there are.
fn find_disk(point: &Point, name: &DiskName) -> Result<DiskIndex> {
    if let Some((index, _)) = point.disk(name) {
        return Ok(DiskIndex(index));
    }
    let names: Vec<_> = point.disks.iter().map(|disk| disk.name.as_str()).collect();
    Err(Error::new(ErrorKind::NotFound, format!("point {} has no disk {name}", point.id))
        .advise(format!("Its disks are: {}.", names.join(", "))))
}
