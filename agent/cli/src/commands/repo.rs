//! `remora repo`

use remora_core::{RepositoryId, Result};
use remora_vault::{Immutable, Location, Secret, Status, Undeleted, Vault, undelete};
use serde::Serialize;

use super::gc;
use crate::args::RepoCommand;
use crate::context::Context;
use crate::output::{bytes, print, printable};
use crate::secret::Ask;

#[derive(Serialize)]
struct Made {
    id: RepositoryId,
    repo: String,
    immutable_days: Option<i64>,
}

#[derive(Serialize)]
struct NowSet {
    immutable_days: Option<i64>,
}

pub(super) async fn run(context: &Context, command: RepoCommand) -> Result<()> {
    match command {
        RepoCommand::Init { immutable } => {
            let location = context.location()?;
            let secret = context.secret(Ask::Twice)?;
            let id = Vault::init(&location, &secret, immutable).await?;
            let noun = if matches!(secret, Secret::KeyFile(_)) { "key file" } else { "passphrase" };
            let immutable_days = immutable.map(Immutable::days);
            let made = Made { id, repo: location.to_string(), immutable_days };
            print(context.format(), &made, |made| {
                format!(
                    "Made repository {} at {}.\nKeep the {noun} safe: without it nothing in the repository can be read.",
                    made.id, made.repo
                )
            })
        }
        RepoCommand::Status => {
            let location = context.location()?;
            let status = context.vault().await?.status().await?;
            print(context.format(), &status, |status| text(&location, status))
        }
        RepoCommand::Set(set) => {
            context.vault().await?.set_immutable(set.immutable).await?;
            print(context.format(), &NowSet { immutable_days: set.immutable.map(Immutable::days) }, |_| {
                match set.immutable {
                    Some(time) => format!(
                        "Nobody can delete what is stored from now on for {time}. What is stored already is locked by the next \
                     backup of its VM, or by `remora gc`."
                    ),
                    None => "What is stored from now on can be deleted at any time.".into(),
                }
            })
        }
        RepoCommand::Undelete { dry_run } => {
            let undeleted = undelete(&context.location()?, gc::mode(dry_run)).await?;
            print(context.format(), &undeleted, |undeleted| back(undeleted, dry_run))
        }
    }
}

fn back(undeleted: &Undeleted, dry_run: bool) -> String {
    let Undeleted { deleted, replaced } = undeleted;
    if deleted.is_empty() && replaced.is_empty() {
        return "Nothing was deleted or replaced that is still there.".into();
    }
    let verb = if dry_run { "would come back" } else { "is back" };
    let line = |what: &'static str| move |name: &String| format!("{}: {what}, {verb}\n", printable(name));
    deleted.iter().map(line("was deleted")).chain(replaced.iter().map(line("was replaced"))).collect()
}

fn text(location: &Location, status: &Status) -> String {
    format!(
        "repository  {location}\nid          {}\nformat      {}\ncreated     {}\nkey slots   {}\nVMs         {}\npoints      {}\n\
         objects     {}\nsize        {}\nimmutable   {}\n",
        status.id,
        status.format,
        status.created,
        status.key_slots,
        status.vms,
        status.points,
        status.objects,
        bytes(status.bytes),
        match (status.immutable_days, status.locked_until) {
            (None, _) => "no".into(),
            (Some(days), None) => format!("{days} days; not all of it is locked yet: run `remora gc`"),
            (Some(days), Some(until)) => format!("{days} days; all that points need until {until:.0} at least"),
        }
    )
}
