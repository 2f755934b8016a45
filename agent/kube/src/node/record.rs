//! Writing the status of a run: always all that the agent says, and only if the run is still as it was last seen, so that
//! an agent whose claim was taken over cannot write over its successor's.

use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use remora_core::BackupName;
use serde_json::{Value, json};

use super::Me;
use super::status::{Said, Words};
use crate::resources::Run;

/// Who owns the fields.
pub(crate) const MANAGER: &str = "remora-agent";

/// A request that takes longer has failed.
pub(super) const REQUEST: Duration = Duration::from_secs(15);

/// Somebody else writes between reading and writing; who writes as often as that is at fault.
const TRIES: usize = 8;

/// What is written of one run, and its last known version.
#[derive(Debug)]
pub(super) struct Record<S: Words> {
    api: Api<S::Run>,
    me: String,
    name: String,
    uid: String,
    version: String,
    pub(super) said: S,
}

/// A run that is this agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ours {
    /// It has ended, or was given back, by a write whose answer was lost.
    AsSaid,
    /// It goes on.
    Otherwise,
}

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwritten {
    /// It never will be.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// It can be tried again.
    #[error("the status of the run cannot be written")]
    Later(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Unwritten {
    /// Notes in the log that it is tried again.
    pub(super) fn note(&self, run: &str) {
        let why = std::error::Error::source(self).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(run, why, "{self}; it is tried again");
    }
}

/// Why the run is no longer this agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    /// It was deleted.
    #[error("the run was deleted")]
    Gone,
    /// Another agent has claimed it.
    #[error("another agent has claimed the run")]
    Taken,
    /// The controller has ended it.
    #[error("the controller has ended the run")]
    Over,
}

impl Record<Said> {
    /// The name of the attempt that this agent, or the one before, has begun last.
    pub(super) fn attempt(&self) -> Option<BackupName> {
        self.said.status.attempt.as_ref()?.backup.parse().ok()
    }
}

impl<S: Words> Record<S> {
    pub(super) fn new(client: Client, run: &S::Run, me: &Me, said: S) -> Self {
        let namespace = run.namespace().unwrap_or_default();
        Self {
            api: Api::namespaced(client, &namespace),
            me: me.uid.clone(),
            name: run.name_any(),
            uid: run.uid().unwrap_or_default(),
            version: run.resource_version().unwrap_or_default(),
            said,
        }
    }

    /// Writes what claims the run, if nobody has written to it since it was seen. Says whether it is ours now.
    pub(super) async fn claim(&mut self) -> Result<bool, Unwritten> {
        match self.patch().await {
            Ok(run) => {
                self.version = run.resource_version().unwrap_or_default();
                Ok(true)
            }
            Err(Refused::Conflict | Refused::NotFound) => Ok(false),
            Err(Refused::Other(error)) => Err(Unwritten::Later(error)),
        }
    }

    /// Writes what is said, as long as the run is ours.
    pub(super) async fn write(&mut self) -> Result<(), Unwritten> {
        for _ in 0..TRIES {
            match self.patch().await {
                Ok(run) => {
                    self.version = run.resource_version().unwrap_or_default();
                    return Ok(());
                }
                Err(Refused::Conflict) => match self.look().await? {
                    Ours::AsSaid => return Ok(()),
                    Ours::Otherwise => {}
                },
                Err(Refused::NotFound) => return Err(Lost::Gone.into()),
                Err(Refused::Other(error)) => return Err(Unwritten::Later(error)),
            }
        }
        Err(Unwritten::Later("somebody else writes to it all the time".into()))
    }

    /// Notes a version that the watch has shown.
    pub(super) fn saw(&mut self, run: &S::Run) -> Result<(), Lost> {
        if run.uid().as_deref() != Some(&self.uid) {
            return Err(Lost::Gone);
        }
        // The watch is behind what was written last, and may show the time before the claim.
        if let Some(agent) = run.agent().filter(|agent| *agent != self.me)
            && newer(run, &self.version)
        {
            tracing::warn!(run = self.name, agent, "another agent has claimed the run");
            return Err(Lost::Taken);
        }
        if newer(run, &self.version) {
            if S::is_over(run) {
                return Err(Lost::Over);
            }
            self.version = run.resource_version().unwrap_or_default();
        }
        Ok(())
    }

    /// Reads the run again: whether it is still ours, and its version.
    pub(super) async fn look(&mut self) -> Result<Ours, Unwritten> {
        let run = tokio::time::timeout(REQUEST, self.api.get_opt(&self.name)).await;
        let run = run.map_err(|late| Unwritten::Later(late.into()))?.map_err(|e| Unwritten::Later(e.into()))?;
        let run = run.filter(|run| run.uid().as_deref() == Some(&self.uid)).ok_or(Lost::Gone)?;
        self.version = run.resource_version().unwrap_or_default();
        let (ours, over) = (run.agent() == Some(&self.me), S::is_over(&run));
        match (ours, over) {
            (true, false) => Ok(Ours::Otherwise),
            // By a write of ours whose answer was lost.
            _ if self.said.said_by(&run) => Ok(Ours::AsSaid),
            (_, true) => Err(Lost::Over.into()),
            (false, false) => Err(Lost::Taken.into()),
        }
    }

    async fn patch(&self) -> Result<S::Run, Refused> {
        let params = PatchParams::apply(MANAGER).force();
        let body = self.body();
        let patch = Patch::Apply(&body);
        let request = self.api.patch_status(&self.name, &params, &patch);
        match tokio::time::timeout(REQUEST, request).await {
            Err(late) => Err(Refused::Other(late.into())),
            Ok(Ok(run)) => Ok(run),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(Refused::Conflict),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Refused::NotFound),
            Ok(Err(error)) => Err(Refused::Other(error.into())),
        }
    }

    fn body(&self) -> Value {
        json!({
            "apiVersion": "remora.dev/v1alpha1",
            "kind": S::Run::kind(&()),
            "metadata": {"name": self.name, "uid": self.uid, "resourceVersion": self.version},
            "status": self.said.status(),
        })
    }
}

enum Refused {
    Conflict,
    NotFound,
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// Whether what was seen is later than a version. Versions of one kind are numbers that grow (KEP-5504).
fn newer(run: &impl Run, version: &str) -> bool {
    let number = |text: &str| text.parse::<u128>().ok();
    match (run.resource_version().as_deref().and_then(number), number(version)) {
        (Some(seen), Some(known)) => seen > known,
        _ => true,
    }
}
