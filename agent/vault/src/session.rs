//! Sessions: what keeps a collection from removing what a writer is about to need.
//!
//! A writer publishes its session before anything else. It then looks whether its parent was dropped meanwhile, stores
//! its segments, commits, and ends the session. A collection (`collect.rs`) removes nothing that the parent of a live
//! session reaches, and no segment of unknown origin while a session lives. A session whose writer is dead is ended by
//! a tombstone at the first free number of the sequence.
//!
//! *A writer that was ended never commits.* When a session is published, all numbers from [`Planned::number`] on are
//! free (the writer looked before), and numbers are never free again. The tombstone that ends it is written after its
//! session was seen, so at one of these numbers. The writer tries them in order and reads what stands at each one that
//! is taken: it meets the tombstone before it meets a free number, however long it slept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use remora_core::{Error, ErrorKind, Result, VmName};
use remora_process::Process;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::Instrument;

use crate::keys::random;
use crate::manifest::{Entry, Manifest};
use crate::names::{self, Folder, SessionId};
use crate::repository::{Number, Repository};
use crate::seal::{Kind, Place};
use crate::sealed_json::Form;
use crate::sequence::Appended;

/// How often a live writer stores its session again.
const BEAT: Duration = Duration::from_mins(1);

/// The longest that the end of a session takes. Whoever ends it may have been told to stop, and hold a VM's disks open; a store
/// that is away is waited for longer.
pub(crate) const ENDING: Duration = Duration::from_secs(15);

const FORM: Form = Form { magic: b"remoraW1", kind: Kind::Session, what: "session" };

/// The most that a session may be.
const LIMIT: u64 = 64 * 1024;

/// A session as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) vm: VmName,
    /// The number of the point that the new one follows.
    pub(crate) parent: Option<u64>,
    /// The number that the writer means to commit at.
    pub(crate) number: u64,
    /// When it began, by the writer's clock: for people.
    pub(crate) began: Timestamp,
    /// How often it was stored.
    pub(crate) beat: u64,
    /// Whose it is; none if the writer's host does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<Process>,
}

impl Session {
    /// Whether its writer was a process of this host that is no more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_gone)
    }

    #[cfg(test)]
    pub(crate) async fn store_again(&self, vault: &Repository, id: SessionId) -> Result<()> {
        let name = names::session(vault.tenant, vault.folder(&self.vm), id);
        vault.store.replace(&name, self.seal(vault, id)?.into()).await
    }

    fn seal(&self, vault: &Repository, id: SessionId) -> Result<Bytes> {
        FORM.seal(&vault.keys.manifests, &place(vault, id), self)
    }
}

fn place(vault: &Repository, id: SessionId) -> Place {
    Place { repository: *vault.descriptor.id.as_bytes(), tenant: vault.tenant.0, object: id.0, number: 0 }
}

impl Repository {
    /// A session of a VM; none if it has ended. Heartbeats replace it, also while it is read: a client that asks for its size
    /// first, as that of a mover, then has it cut off. So one that is damaged is read once more.
    pub(crate) async fn session(&self, vm: Folder, id: SessionId) -> Result<Option<Session>> {
        match self.session_at_once(vm, id).await {
            Err(error) if error.kind() == ErrorKind::Damaged => self.session_at_once(vm, id).await,
            read => read,
        }
    }

    async fn session_at_once(&self, vm: Folder, id: SessionId) -> Result<Option<Session>> {
        let name = names::session(self.tenant, vm, id);
        let Some(object) = self.store.get(&name, LIMIT).await? else { return Ok(None) };
        let session = FORM.open::<Session>(&self.keys.manifests, &place(self, id), &object);
        let session = session.map_err(|e| self.store.damaged(&name, e))?;
        if self.folder(&session.vm) != vm {
            return Err(self.store.damaged(&name, "it is another VM's"));
        }
        Ok(Some(session))
    }
}

/// A session of this process: beats until it is ended or dropped. A dropped one stays in the store until a collection
/// finds it dead.
pub(crate) struct LiveSession {
    vault: Arc<Repository>,
    vm: Folder,
    id: SessionId,
    /// Dropped to stop the beats.
    stop: oneshot::Sender<()>,
    beats: JoinHandle<()>,
}

impl LiveSession {
    /// Publishes a session.
    pub(crate) async fn publish(vault: Arc<Repository>, session: Session) -> Result<Self> {
        let (vm, id) = (vault.folder(&session.vm), SessionId(random()));
        // A taken name is our own PUT, repeated by the store's client after a lost reply.
        vault.store.create_passing(&names::session(vault.tenant, vm, id), session.seal(&vault, id)?.into()).await?;
        let (stop, stopped) = oneshot::channel();
        let beats = tokio::spawn(beat(Arc::clone(&vault), vm, id, session, stopped).in_current_span());
        Ok(Self { vault, vm, id, stop, beats })
    }

    pub(crate) const fn id(&self) -> SessionId {
        self.id
    }

    /// Ends it: its writer has committed, or will not. What fails here, or takes too long, only delays a collection.
    pub(crate) async fn end(self) {
        let Self { vault, vm, id, stop, mut beats } = self;
        drop(stop);
        let ended = async {
            // A beat that is under way would bring the object back.
            let stopped = (&mut beats).await.map_err(|e| e.to_string());
            let removed = vault.store.remove(&names::session(vault.tenant, vm, id)).await;
            stopped.and(removed.map_err(|e| e.chain()))
        };
        let ended = timeout(ENDING, ended).await.unwrap_or_else(|_| Err("the store does not answer".into()));
        beats.abort();
        if let Err(error) = ended {
            tracing::warn!(error, "a session stays until a collection finds that it is dead");
        }
    }
}

async fn beat(
    vault: Arc<Repository>,
    vm: Folder,
    id: SessionId,
    mut session: Session,
    mut stopped: oneshot::Receiver<()>,
) {
    let name = names::session(vault.tenant, vm, id);
    // Until the sender is dropped.
    while timeout(BEAT, &mut stopped).await.is_err() {
        session.beat += 1;
        let stored = match session.seal(&vault, id) {
            Ok(object) => vault.store.replace(&name, object.into()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            tracing::warn!(error = error.chain(), "a session's heartbeat failed");
        }
    }
}

/// The place in its VM's sequence that a writer means to take.
pub(crate) struct Planned {
    pub(crate) session: SessionId,
    pub(crate) parent: Option<u64>,
    /// The first number that may be free.
    pub(crate) number: u64,
    /// The newest tombstone below it.
    pub(crate) tombstone: u64,
}

impl Planned {
    /// Goes past the entries that came meanwhile, or fails if one of them means that this writer must not commit.
    pub(crate) async fn pass(&mut self, vault: &Repository, vm: &VmName) -> Result<()> {
        loop {
            match vault.number(vault.folder(vm), self.number).await? {
                Number::Free => return Ok(()),
                Number::Taken(stored) => self.judge(&stored.manifest)?,
                Number::Emptied => return Err(busy(vm, "got another point meanwhile")),
            }
            self.number += 1;
        }
    }

    /// Commits what `entry` makes for a number at the first free one.
    pub(crate) async fn commit(
        &mut self,
        vault: &Repository,
        vm: &VmName,
        entry: impl Fn(u64) -> Result<Entry> + Send,
    ) -> Result<()> {
        loop {
            let manifest = Manifest {
                vm: vm.clone(),
                written: Timestamp::now(),
                session: self.session,
                tombstone: self.tombstone,
                settings: vault.settings.number,
                entry: entry(self.number)?,
            };
            if vault.append(vault.folder(vm), self.number, &manifest).await? == Appended::Yes {
                return Ok(());
            }
            self.pass(vault, vm).await?;
        }
    }

    fn judge(&mut self, there: &Manifest) -> Result<()> {
        let busy = |what| busy(&there.vm, what);
        #[cfg(test)]
        if crate::simulation::has(crate::simulation::Bug::EndedWriterCommits)
            && matches!(&there.entry, Entry::Tombstone(tombstone) if tombstone.ended.contains(&self.session))
        {
            self.tombstone = self.number;
            return Ok(());
        }
        match &there.entry {
            Entry::Point(_) => Err(busy("got another point meanwhile")),
            Entry::Break(_) => Err(busy("had a disk restored over meanwhile")),
            Entry::Lost(_) => Err(busy("was found to have lost data meanwhile")),
            Entry::Tombstone(tombstone) if tombstone.ended.contains(&self.session) => {
                Err(busy("was held to have no backup running: this one was not heard of for too long"))
            }
            Entry::Tombstone(tombstone) if self.parent.is_some_and(|parent| tombstone.dropped.contains(parent)) => {
                Err(busy("lost the point that this one was to follow: it was pruned meanwhile"))
            }
            Entry::Tombstone(_) => {
                self.tombstone = self.number;
                Ok(())
            }
        }
    }
}

pub(crate) fn busy(vm: &VmName, what: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("VM {:?} {what}", vm.as_str()))
        .advise("Nothing was lost: run the backup again.")
}
