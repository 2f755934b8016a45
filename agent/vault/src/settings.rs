//! What is set for a whole repository: how long what is stored cannot be deleted.
//!
//! Sealed objects by number, of which the highest counts; each entry of a VM's sequence names the one that its writer
//! knew. So a store that hides the newest one, to have the next points unprotected, is noticed by the next writer.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use remora_core::{Error, ErrorKind, RepositoryId, Result};
use serde::{Deserialize, Serialize};

use crate::keys::Key;
use crate::names::{self, Folder};
use crate::repository::Repository;
use crate::seal::{Kind, Place};
use crate::sealed_json::Form;
use crate::sequence::Sequence;
use crate::store::{Created, Store};

const FORM: Form = Form { magic: b"remoraP1", kind: Kind::Settings, what: "object of settings" };

/// The most that an object of settings may be.
const LIMIT: u64 = 64 * 1024;

/// The longest time that S3 takes for a bucket.
const MOST_DAYS: i64 = 36_500;

/// How long nobody can delete what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Immutable {
    seconds: i64,
}

impl Immutable {
    /// Not only of whole days: tests have less time.
    #[cfg(test)]
    pub(crate) const fn for_seconds(seconds: i64) -> Self {
        Self { seconds }
    }

    pub(crate) const fn time(self) -> SignedDuration {
        SignedDuration::from_secs(self.seconds)
    }

    /// In days.
    pub const fn days(self) -> i64 {
        self.seconds / 86_400
    }
}

impl FromStr for Immutable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("a number of days from 1d to {MOST_DAYS}d is wanted, such as 30d");
        let days: i64 = text.strip_suffix('d').and_then(|days| days.parse().ok()).ok_or_else(wanted)?;
        if (1..=MOST_DAYS).contains(&days) { Ok(Self { seconds: days * 86_400 }) } else { Err(wanted()) }
    }
}

impl fmt::Display for Immutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} days", self.days())
    }
}

/// Settings as they are stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// When, by the writer's clock: for people.
    written: Timestamp,
    /// Seconds; null for none.
    immutable: Option<Immutable>,
}

/// The settings that a process knows.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    key: Key,
    /// 0 if nothing was ever set.
    pub(crate) number: u64,
    pub(crate) immutable: Option<Immutable>,
    /// Why there may be newer ones: an object cannot be read.
    doubt: Option<Arc<Error>>,
}

fn place(repository: RepositoryId, number: u64) -> Place {
    Place { repository: *repository.as_bytes(), tenant: [0; 8], object: [0; 16], number }
}

impl Settings {
    /// None yet.
    pub(crate) const fn new(key: Key) -> Self {
        Self { key, number: 0, immutable: None, doubt: None }
    }

    /// Those of a repository. What cannot be read is passed over; then nothing is written.
    pub(crate) async fn read(store: &Store, key: Key, repository: RepositoryId) -> Result<Self> {
        let mut settings = Self::new(key);
        let listed = store.children(&names::settings(repository)).await?;
        let mut numbers: Vec<u64> = listed.iter().filter_map(|name| names::sequence(name)).collect();
        numbers.sort_unstable();
        while let Some(number) = numbers.pop() {
            match settings.one(store, repository, number).await {
                Ok(stored) => {
                    (settings.number, settings.immutable) = (number, stored.immutable);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(error = error.chain(), "the repository's settings cannot be read");
                    settings.doubt.get_or_insert(Arc::new(error));
                }
                Err(error) => return Err(error),
            }
        }
        store.keep_new_for(settings.immutable.map(Immutable::time));
        Ok(settings)
    }

    async fn one(&self, store: &Store, repository: RepositoryId, number: u64) -> Result<Stored> {
        let name = names::setting(repository, number);
        let object = store.get(&name, LIMIT).await?.ok_or_else(|| store.damaged(&name, "it is missing"))?;
        FORM.open(&self.key, &place(repository, number), &object).map_err(|e| store.damaged(&name, e))
    }

    /// Stores settings under a number; kept as they say themselves. Of two who do that at once one is told to try again.
    pub(crate) async fn store(
        key: Key,
        store: &Store,
        repository: RepositoryId,
        number: u64,
        immutable: Option<Immutable>,
    ) -> Result<()> {
        store.keep_new_for(immutable.map(Immutable::time));
        let stored = Stored { written: Timestamp::now(), immutable };
        let object = FORM.seal(&key, &place(repository, number), &stored)?;
        match store.create(&names::setting(repository, number), object.into()).await? {
            Created::Yes => Ok(()),
            Created::NameTaken => Err(changed_meanwhile()),
        }
    }
}

fn changed_meanwhile() -> Error {
    Error::new(ErrorKind::Busy, "the repository's settings were changed meanwhile").advise("Run this again.")
}

impl Repository {
    /// Whether the store keeps versions of objects, and may have locked some: it is, or once was, immutable.
    pub(crate) const fn keeps_versions(&self) -> bool {
        self.settings.number > 0
    }

    /// An error unless the settings that this process knows are those that the writers of a VM's entries knew, or newer
    /// ones: to be asked before anything is written.
    pub(crate) async fn trust_settings(&self, vm: Folder, sequence: &Sequence) -> Result<()> {
        let known = &self.settings;
        if let Some(doubt) = &known.doubt {
            let what = format!("the settings of repository {} are uncertain", self.store.place());
            return Err(Error::new(ErrorKind::Damaged, what).because(Arc::clone(doubt)).advise(SET_AGAIN));
        }
        if sequence.settings < known.number && !sequence.listed.is_empty() {
            // What was stored under other settings is kept for another time than the record says.
            self.store.remove(&names::kept(self.tenant, vm)).await?;
        }
        if sequence.settings <= known.number {
            return Ok(());
        }
        let now = Settings::read(&self.store, known.key.clone(), self.descriptor.id).await?;
        if sequence.settings <= now.number {
            return Err(changed_meanwhile());
        }
        let name = names::setting(self.descriptor.id, sequence.settings);
        let missing = self.store.damaged(&name, "it is missing, and with it how long what is stored is to be kept");
        Err(missing.advise(SET_AGAIN))
    }

    /// The number for new settings: above all that there are and that any writer knew.
    pub(crate) async fn next_settings(&self) -> Result<u64> {
        let mut highest = Settings::read(&self.store, self.settings.key.clone(), self.descriptor.id).await?.number;
        let listed = self.store.children(&names::settings(self.descriptor.id)).await?;
        highest = listed.iter().filter_map(|name| names::sequence(name)).fold(highest, u64::max);
        for vm in self.vms().await? {
            highest = highest.max(self.sequence(vm).await?.settings);
        }
        Ok(highest + 1)
    }

    /// Sets how long what is stored is kept, from now on.
    pub(crate) async fn set_immutable(&self, immutable: Option<Immutable>) -> Result<()> {
        if immutable.is_some() {
            prove(&self.store).await?;
        }
        let number = self.next_settings().await?;
        Settings::store(self.settings.key.clone(), &self.store, self.descriptor.id, number, immutable).await
    }
}

const SET_AGAIN: &str = "Whoever has the store may have removed it to have new points unprotected. `remora repo undelete` brings it back \
     where the bucket still has it; else say it again with `remora repo set`. Points restore nevertheless.";

/// Refuses a store that does not keep what it is asked to keep.
pub(crate) async fn prove(store: &Store) -> Result<()> {
    store.prove_locks().await.map(drop).map_err(|error| {
        let kind = if error.kind() == ErrorKind::Unavailable { ErrorKind::Unavailable } else { ErrorKind::Unsupported };
        let advice = error.advice().unwrap_or_default().to_owned();
        let what = format!("repository {} cannot be immutable", store.place());
        Error::new(kind, what).because(error.chain()).advise(
            format!(
                "{advice} A bucket with Object Lock is needed, chosen when the bucket is made; `remora doctor` tells."
            )
            .trim_start(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_neither_none_nor_for_ever() {
        assert_eq!("30d".parse::<Immutable>().unwrap().days(), 30);
        for bad in ["", "d", "0d", "-1d", "30", "36501d", "1h", "1.5d", "99999999999999999999d"] {
            assert!(bad.parse::<Immutable>().is_err(), "{bad}");
        }
    }
}
