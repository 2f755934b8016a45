//! `remora key`

use std::path::PathBuf;

use remora_core::Result;
use remora_vault::{Keyring, Secret, SlotId, SlotInfo, SlotKind};
use serde::Serialize;

use crate::args::KeyCommand;
use crate::context::Context;
use crate::output::{print, printable, table};
use crate::secret::{self, Ask, SecretFrom};

#[derive(Serialize)]
struct Changed {
    /// The slot that was added.
    added: Option<SlotId>,
    /// The slot that is gone.
    removed: Option<SlotId>,
}

pub(super) async fn run(context: &Context, command: KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Generate { file } => {
            secret::generate_key_file(&file)?;
            let path = file.display().to_string();
            print(context.format(), &serde_json::json!({ "path": path }), |_| {
                format!("Made the key file {}. Keep a copy of it away from this host.", printable(&path))
            })
        }
        KeyCommand::List => {
            let slots = keyring(context).await?.slots().await?;
            print(context.format(), &slots, |slots| text(slots))
        }
        KeyCommand::Add { new_passphrase_file, new_key_file } => {
            let keyring = keyring(context).await?;
            let added = keyring.add(&new_secret(context, new_passphrase_file, new_key_file)?).await?;
            tell(context, &Changed { added: Some(added), removed: None })
        }
        KeyCommand::Remove { slot } => {
            keyring(context).await?.remove(slot).await?;
            tell(context, &Changed { added: None, removed: Some(slot) })
        }
        KeyCommand::ChangePassphrase { new_passphrase_file } => {
            let keyring = keyring(context).await?;
            let removed = keyring.opened_by();
            let added = keyring.change_passphrase(secret::new_passphrase(new_passphrase_file)?).await?;
            tell(context, &Changed { added: Some(added), removed: Some(removed) })
        }
    }
}

async fn keyring(context: &Context) -> Result<Keyring> {
    let location = context.location()?;
    Keyring::open(&location, &context.secret(Ask::Once)?).await
}

fn new_secret(context: &Context, passphrase: Option<PathBuf>, key_file: Option<PathBuf>) -> Result<Secret> {
    match key_file {
        Some(file) => secret::get(&SecretFrom::KeyFile(file), &context.environment, Ask::New),
        None => secret::new_passphrase(passphrase).map(Secret::Passphrase),
    }
}

fn tell(context: &Context, changed: &Changed) -> Result<()> {
    print(context.format(), changed, |Changed { added, removed }| {
        let line =
            |verb: &str, id: &Option<SlotId>| id.map_or_else(String::new, |id| format!("{verb} key slot {id}.\n"));
        line("Added", added) + &line("Removed", removed)
    })
}

fn text(slots: &[SlotInfo]) -> String {
    let mut rows = vec![["", "SLOT", "OPENS BY", "CREATED"].map(String::from)];
    rows.extend(slots.iter().map(|slot| {
        let kind = match (&slot.unusable, slot.kind) {
            (Some(why), _) => format!("nothing: {}", printable(why)),
            (None, Some(SlotKind::KeyFile)) => "key file".into(),
            (None, _) => "passphrase".into(),
        };
        let created = slot.created.map_or_else(String::new, |time| time.to_string());
        [if slot.current { "*".into() } else { String::new() }, slot.id.to_string(), kind, created]
    }));
    table(&rows)
}
