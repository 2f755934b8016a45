//! The job of our backup, and whether it still is the VM's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use remora_core::ports::Outcome;
use remora_core::{BackupName, Error, ErrorKind, Result};
use tokio::sync::Mutex;

use super::attempt::Started;
use super::cluster::{Cluster, JobFacts};
use super::source::Vm;
use crate::disk::JobWatch;
use crate::state::{Broken, JobState};

/// How often the API server is asked, after a connection broke off, whether it knows by now that the job ended.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// The job of our backup.
#[derive(Debug)]
pub(super) struct KubevirtJob {
    cluster: Arc<dyn Cluster>,
    backup: BackupName,
    checkpoint: String,
    /// The VMI's UID.
    instance: String,
    state: JobState,
    /// Many reads fail at once, and one asks for all.
    asking: Mutex<()>,
}

impl KubevirtJob {
    pub(super) fn new(vm: &Vm, started: &Started) -> Self {
        Self {
            cluster: Arc::clone(&vm.cluster),
            backup: started.backup.clone(),
            checkpoint: started.checkpoint.to_string(),
            instance: vm.instance.uid.clone(),
            state: JobState::default(),
            asking: Mutex::default(),
        }
    }

    /// Ends it for a reason of ours.
    pub(super) async fn break_off(&self, broken: Broken) {
        self.state.break_off(broken);
        self.end(Outcome::Abandoned).await.unwrap_or_else(|error| {
            tracing::warn!(backup = %self.backup, error = error.chain(), "cannot end the backup of KubeVirt");
        });
    }

    /// Ends it; from here on its end is ours to tell.
    pub(super) async fn end(&self, outcome: Outcome) -> Result<()> {
        self.state.break_off(Broken {
            kind: ErrorKind::Cancelled,
            what: "the backup was closed".into(),
            advice: "Open the VM again.",
        });
        self.cluster.end(&self.backup, outcome).await
    }

    /// What of the facts says that the VM's job is not ours any more.
    fn differs(&self, facts: &JobFacts) -> Option<(String, &'static str)> {
        let again = "Back up again.";
        if facts.instance.as_ref() != Some(&self.instance) {
            return Some(("the VM was stopped or restarted during the backup".into(), again));
        }
        match &facts.backup {
            Some(backup) if *backup == *self.backup.as_str() => {}
            Some(other) => {
                let what = format!("the VM's job is that of another backup, {other:?}");
                return Some((what, "Find out who makes backups of this VM beside remora, and back up again."));
            }
            None => {
                return Some((
                    "the backup job was ended by somebody else".into(),
                    "Find out who deletes VirtualMachineBackups, and back up again.",
                ));
            }
        }
        if let Some(how) = &facts.ended {
            return Some((format!("the backup job ended: {how}"), again));
        }
        match &facts.checkpoint {
            None => Some(("the VM's job names no checkpoint any more".into(), again)),
            Some(checkpoint) if *checkpoint != self.checkpoint => Some((
                format!("the VM's job made the checkpoint {checkpoint:?} instead of {:?}", self.checkpoint),
                again,
            )),
            Some(_) => None,
        }
    }
}

#[async_trait]
impl JobWatch for KubevirtJob {
    async fn why_broken(&self) -> Result<Option<Error>> {
        let _one = self.asking.lock().await;
        if let Some(error) = self.state.error() {
            return Ok(Some(error));
        }
        let facts = self.cluster.job().await?;
        if let Some((what, advice)) = self.differs(&facts) {
            self.state.break_off(Broken { kind: ErrorKind::Unavailable, what, advice });
        }
        Ok(self.state.error())
    }

    fn ask_every(&self) -> Duration {
        ASK_EVERY
    }
}
