//! `remora repo`

use remora_core::{RepositoryId, Result};
use remora_vault::{Location, Secret, Status, Vault};
use serde::Serialize;

use crate::args::RepoCommand;
use crate::context::Context;
use crate::output::{bytes, print};
use crate::secret::Ask;

#[derive(Serialize)]
struct Made {
    id: RepositoryId,
    repo: String,
}

pub(super) async fn run(context: &Context, command: RepoCommand) -> Result<()> {
    match command {
        RepoCommand::Init => {
            let location = context.location()?;
            let secret = context.secret(Ask::Twice)?;
            let id = Vault::init(&location, &secret).await?;
            let noun = if matches!(secret, Secret::KeyFile(_)) { "key file" } else { "passphrase" };
            let made = Made { id, repo: location.to_string() };
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
    }
}

fn text(location: &Location, status: &Status) -> String {
    format!(
        "repository  {location}\nid          {}\nformat      {}\ncreated     {}\nkey slots   {}\nVMs         {}\npoints      {}\n\
         objects     {}\nsize        {}\n",
        status.id,
        status.format,
        status.created,
        status.key_slots,
        status.vms,
        status.points,
        status.objects,
        bytes(status.bytes)
    )
}
