//! What a store can do, shown by trying it under a folder of its own.

use std::future::Future;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use remora_core::{Error, ErrorKind, Result};

use super::open::{self, Patience};
use super::{Locks, Store, is_taken};
use crate::keys::random;
use crate::location::Location;
use crate::names;

/// How many try to create one object at once.
const RACERS: u8 = 16;

/// The parts of a large object are at least this long with S3.
const PART: usize = 5 << 20;

/// Clocks that differ by more are worth a look; S3 refuses requests at a quarter of an hour.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// What is told of a bucket that stores in parts. The store's client cannot list uploads, so nobody here can abort one of
/// a process that was killed.
const UNFINISHED: &str = "works; the parts of an upload that is killed halfway stay until the bucket's lifecycle rule \
    (AbortIncompleteMultipartUpload) removes them: give it one. Only this trial stores in parts.";

/// How long Object Lock keeps the object that tries it.
const LOCKED_FOR: SignedDuration = SignedDuration::from_secs(60);

/// What was found of one ability.
#[derive(Debug)]
pub struct Finding {
    /// Of what.
    pub name: &'static str,
    /// Whether a repository can do without.
    pub need: Need,
    /// What was seen, or why it is not there and what is lost by that.
    pub outcome: Result<String>,
}

/// Whether a repository can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It cannot.
    Must,
    /// It can; something is lost.
    May,
}

/// Tries what the store at `location` can do. What cannot be reached at all is an error.
pub async fn examine(location: &Location) -> Result<Vec<Finding>> {
    let store = Store::open(location)?;
    let mut findings = store.examine().await?;
    if let Some(outcome) = checksum(location, &store).await {
        let lost = "What changes on its way to the store is noticed only when it is read: by `verify`, or a restore.";
        findings.push(Finding { name: "store: checksum", need: Need::May, outcome: told(outcome, lost) });
    }
    if store.locks().is_some() {
        let lost = "Whoever has the credentials can delete every backup at once.";
        let outcome = told(store.prove_locks().await, lost);
        findings.push(Finding { name: "store: Object Lock", need: Need::May, outcome });
    }
    Ok(findings)
}

impl Store {
    pub(super) async fn examine(&self) -> Result<Vec<Finding>> {
        // Whether it answers at all: a missing bucket, wrong credentials and so on are told once.
        self.get(&Path::from(names::DESCRIPTOR), u64::MAX).await?;
        let trial = Trial { store: self, folder: trial_folder() };
        let mut findings = Vec::new();
        let mut add =
            |name, need, lost: &str, outcome| findings.push(Finding { name, need, outcome: told(outcome, lost) });
        let lost =
            "Two backups at the same time could replace one another's points, so nothing is written to this store.";
        add("store: create-only PUT", Need::Must, lost, trial.create_only().await);
        let lost = "Nothing can be read out of a point there.";
        add("store: ranged GET", Need::Must, lost, trial.ranged_get().await);
        let lost = "A backup may not see the points before it.";
        add("store: list after write", Need::Must, lost, trial.list_after_write().await);
        let lost = "Times of objects cannot be compared with this host's, and S3 refuses a clock that is a quarter of an hour off.";
        add("store: clock", Need::Must, lost, trial.clock().await);
        let lost = "The vault does not need it; a mover that streams images into the store does.";
        add("store: multipart", Need::May, lost, trial.multipart().await);
        let lost = "Space of dropped points is never given back.";
        add("store: delete", Need::May, lost, trial.delete().await);
        Ok(findings)
    }
}

fn trial_folder() -> String {
    format!("{}/{}", names::TRIALS, hex::encode(random::<8>()))
}

/// An outcome whose advice says what is lost, too.
fn told(outcome: Result<String>, lost: &str) -> Result<String> {
    outcome.map_err(|error| {
        let advice = error.advice().map_or_else(|| lost.to_owned(), |advice| format!("{lost} {advice}"));
        error.advise(advice)
    })
}

fn lacks(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}

/// The folder that is filled, and emptied by [`Trial::delete`].
struct Trial<'a> {
    store: &'a Store,
    folder: String,
}

impl Trial<'_> {
    fn name(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.folder))
    }

    /// The result of a request, with words of ours.
    async fn ask<T>(
        &self,
        doing: &str,
        name: &Path,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        request.await.map_err(|e| self.store.error(doing, name, e))
    }

    async fn create_only(&self) -> Result<String> {
        self.store.prove_create_only().await?;
        let name = self.name("race");
        let payload = |n: u8| PutPayload::from(Bytes::from(vec![n; 1024]));
        let racers = (0..RACERS).map(|n| async move { (n, self.store.put_new(&self.name("race"), payload(n)).await) });
        let mut winners = Vec::new();
        for (n, ended) in futures::future::join_all(racers).await {
            match ended {
                Ok(()) => winners.push(n),
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(self.store.error("storing", &name, error)),
            }
        }
        let there = self.store.get(&name, 1 << 20).await?.unwrap_or_default();
        match winners[..] {
            [winner] if there == vec![winner; 1024] => Ok(format!("of {RACERS} at once one won")),
            [_] => Err(lacks(format!("of {RACERS} at once one won, but the bytes are another's"))),
            _ => Err(lacks(format!("of {RACERS} at once {} were told that they won", winners.len()))),
        }
    }

    async fn ranged_get(&self) -> Result<String> {
        let name = self.name("ranges");
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        self.ask("storing", &name, self.store.put_new(&name, Bytes::from(bytes.clone()).into())).await?;
        let ranges = [0..1, 777..50_001, 99_999..100_000];
        let found = self.store.ranges(&name, &ranges).await?;
        let tail = self.store.tail(&name, 10).await?;
        let right =
            ranges.iter().zip(&found).all(|(range, part)| part == &bytes[range.start as usize..range.end as usize]);
        if right && tail.bytes == bytes[99_990..] && tail.object_len == 100_000 {
            return Ok("exact".into());
        }
        Err(lacks("other bytes came than were asked for"))
    }

    async fn list_after_write(&self) -> Result<String> {
        for n in 0..5 {
            let name = self.name(&format!("list/{n}"));
            self.ask("storing", &name, self.store.put_new(&name, PutPayload::from_static(b"x"))).await?;
            let listed = self.store.children(&self.name("list")).await?;
            if !listed.contains(&n.to_string()) {
                return Err(lacks("an object was not in the listing right after it was stored"));
            }
        }
        Ok("at once".into())
    }

    async fn clock(&self) -> Result<String> {
        let name = self.name("clock");
        let before = Timestamp::now();
        self.ask("storing", &name, self.store.put_new(&name, PutPayload::from_static(b"x"))).await?;
        let meta = self.ask("looking at", &name, self.store.inner.head(&name)).await?;
        let after = Timestamp::now();
        let theirs = Timestamp::from_microsecond(meta.last_modified.timestamp_micros()).unwrap_or(Timestamp::MAX);
        // Stores tell whole seconds.
        let off = if theirs < before { before.duration_since(theirs) } else { theirs.duration_since(after) };
        let off = off.max(SignedDuration::ZERO);
        if off > SKEW {
            let way = if theirs < before { "behind" } else { "before" };
            return Err(lacks(format!("the store's clock says {theirs}, {} s {way} this host's", off.as_secs()))
                .advise("Set the wrong one of the two; let chrony or systemd-timesyncd keep this host's."));
        }
        Ok(format!("within {} s of this host's", off.as_secs() + 1))
    }

    async fn multipart(&self) -> Result<String> {
        let name = self.name("multipart");
        let parts = [Bytes::from(vec![1; PART]), Bytes::from(vec![2; 100])];
        let stored = async {
            let mut upload = self.store.inner.put_multipart(&name).await?;
            let stored = async {
                for part in &parts {
                    upload.put_part(part.clone().into()).await?;
                }
                upload.complete().await
            };
            let stored = stored.await;
            if stored.is_err() {
                // Else its parts would stay, and no listing shows them.
                upload.abort().await.ok();
            }
            stored
        };
        self.ask("storing in parts", &name, stored).await?;
        let meta = self.ask("looking at", &name, self.store.inner.head(&name)).await?;
        if meta.size != (PART + 100) as u64 {
            return Err(lacks("the parts do not make the whole"));
        }
        Ok(match self.store.shared.folder {
            Some(_) => "works".into(),
            None => UNFINISHED.into(),
        })
    }

    /// Removes all that was stored, also what a trial that failed left.
    async fn delete(&self) -> Result<String> {
        let folder = Path::from(self.folder.as_str());
        let mut names = vec![self.name("list")];
        names.push(folder);
        let mut removed = 0;
        for folder in names {
            for object in self.store.listed(&folder).await? {
                let name = folder.clone().join(object.name);
                self.store.remove(&name).await?;
                if self.store.exists(&name).await? {
                    return Err(lacks(format!("object {name} is still there after it was removed")));
                }
                removed += 1;
            }
            self.store.remove_empty(&folder);
        }
        Ok(format!("{removed} objects of the trials removed"))
    }
}

/// Of S3 only: tries to store an object that is another than its checksum says.
async fn checksum(location: &Location, store: &Store) -> Option<Result<String>> {
    let mistaken = match open::mistaken_client(location, Patience::USUAL)? {
        Ok(mistaken) => mistaken,
        Err(error) => return Some(Err(error)),
    };
    let name = Path::from(format!("{}/mistaken", trial_folder()));
    let refused = mistaken.put(&name, PutPayload::from_static(b"x")).await.is_err();
    Some(match store.exists(&name).await {
        Ok(false) if refused => Ok("what does not arrive as it was sent is refused".into()),
        Ok(_) => {
            let removed = store.remove(&name).await;
            removed.and(Err(lacks("an object was taken that is another than its checksum says")))
        }
        Err(error) => Err(error),
    })
}

impl Store {
    /// Tries whether the store keeps what it is asked to keep: an object that is kept for a minute is not removed by
    /// its version. A mark hides it then; a lifecycle rule for old versions removes it one day.
    pub(crate) async fn prove_locks(&self) -> Result<String> {
        let Some(locks) = self.locks() else {
            let what = format!("the store of repository {} has no Object Lock that remora can use", self.place());
            return Err(
                lacks(what).advise("Only S3 and what speaks its protocol has: make a bucket with Object Lock there.")
            );
        };
        let name = Path::from(format!("{}/locked", trial_folder()));
        let stored = locks.put_new(&name, PutPayload::from_static(b"x"), LOCKED_FOR).await;
        let tried = match stored {
            Ok(()) => self.try_to_remove(locks, &name).await,
            Err(error) => Err(self.error("locking", &name, error)),
        };
        // versitygw 1.8 keeps an object of which it refuses the lock.
        let removed = self.remove(&name).await;
        tried.and_then(|found| removed.map(|()| found))
    }

    async fn try_to_remove(&self, locks: &dyn Locks, name: &Path) -> Result<String> {
        let versions = self.versions_of(name).await?;
        let version = versions.first().ok_or_else(|| lacks("the bucket does not list the versions of an object"))?;
        if self.kept_until(version).await?.is_none() {
            return Err(lacks("the bucket took an object with a lock, and did not lock it"));
        }
        if locks.remove_version(name, &version.id).await.is_ok() {
            return Err(lacks("the bucket let a locked object be removed"));
        }
        Ok("the bucket keeps objects until their time".into())
    }
}

#[cfg(test)]
mod tests;
