//! What the source of KubeVirt asks of the cluster, for one run.
//!
//! What a run wants of KubeVirt is written into its status, and the controller makes it; the rest is read. Objects of
//! KubeVirt may be a tenant's: a backup counts only if the API server knows this run as its owner.

mod followed;
mod look;
mod progress;
mod scratch;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use kube::api::Api;
use remora_core::ports::Outcome;
use remora_core::{BackupName, Error, ErrorKind, RepositoryId, Result};
use remora_source::kubevirt::{BackupProgress, BackupWish, Cluster, Depth, Freeze, JobFacts, Unattached, VmFacts};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::followed::Followed;
use self::progress::{Shown, job_facts, progress};
use super::Desk;
use super::again::Backoff;
use super::desk::{Change, Wish};
use crate::api_server::{is_refusal, is_unknown};
use crate::kubevirt::{VirtualMachineBackup, VirtualMachineBackupTracker, VirtualMachineInstance, tracker_name};
use crate::resources::{Attempt, AttemptState};

/// A request that takes longer has failed.
const REQUEST: Duration = Duration::from_secs(15);

/// How long an API server that does not answer is asked again. The deadline of the run ends that earlier.
const PATIENCE: Duration = Duration::from_mins(30);

/// How long one that forbids it is asked again: one that has just started knows no rules yet, and serves all the same.
const RULES: Duration = Duration::from_mins(1);

/// Between two of these.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));

/// How long a backup may take to go.
const GONE: Duration = Duration::from_mins(5);

/// A run's view of the cluster.
#[derive(Clone)]
pub struct RunCluster {
    desk: Desk,
    repository: RepositoryId,
}

impl fmt::Debug for RunCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunCluster({})", self.desk.order.full_name())
    }
}

/// Whether a backup of this run is still there, asked once.
pub(super) async fn is_there(desk: &Desk, backup: &BackupName) -> Result<bool, kube::Error> {
    let backups: Api<VirtualMachineBackup> = Api::namespaced(desk.client.clone(), &desk.order.namespace);
    match timeout(REQUEST, backups.get_metadata(&backup.to_string())).await {
        Err(late) => Err(kube::Error::Service(late.into())),
        Ok(Ok(_)) => Ok(true),
        Ok(Err(error)) if is_unknown(&error) => Ok(false),
        Ok(Err(error)) => Err(error),
    }
}

impl RunCluster {
    pub(super) fn new(desk: Desk, repository: RepositoryId) -> Self {
        Self { desk, repository }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.desk.client.clone(), &self.desk.order.namespace)
    }

    /// Asks until there is an answer, an answer of no, or nothing for too long.
    async fn ask<T, F>(&self, what: &str, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        let (began, mut backoff, mut forbidden) = (Instant::now(), BACKOFF, None);
        loop {
            let error = match timeout(REQUEST, request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(late) => kube::Error::Service(late.into()),
            };
            let failed =
                |kind, error| Err(Error::new(kind, format!("asking the API server for {what}")).because(error));
            let forbids = matches!(&error, kube::Error::Api(status) if status.is_forbidden());
            // Since it has said so, and not since it was asked first: it may have been away until then.
            forbidden = forbids.then(|| forbidden.unwrap_or_else(Instant::now));
            if is_final(&error) && forbidden.is_none_or(|since| since.elapsed() > RULES) {
                return failed(ErrorKind::Refused, error);
            }
            if began.elapsed() > PATIENCE || self.desk.stopping.is_cancelled() {
                return failed(ErrorKind::Unavailable, error);
            }
            tracing::warn!(run = self.desk.order.full_name(), %error, "the API server does not tell {what}; asked again");
            sleep_until(backoff.next_try()).await;
        }
    }

    /// Has the run's status say something of an attempt, and waits until it is written.
    async fn say(&self, change: Change) -> Result<()> {
        let ended = || Error::new(ErrorKind::Cancelled, "the run is no longer this agent's");
        let (written, answer) = oneshot::channel();
        self.desk.wishes.send(Wish { change, written }).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?.map_err(|lost| ended().because(lost))
    }

    async fn instance(&self) -> Result<Option<VirtualMachineInstance>> {
        let (api, name) = (self.api::<VirtualMachineInstance>(), &self.desk.order.spec.virtual_machine);
        self.ask("the VirtualMachineInstance", || api.get_opt(name)).await
    }

    fn tracker_name(&self) -> String {
        tracker_name(&self.desk.order.spec.virtual_machine, self.repository)
    }

    async fn tracker(&self) -> Result<Option<VirtualMachineBackupTracker>> {
        let (api, name) = (self.api::<VirtualMachineBackupTracker>(), self.tracker_name());
        self.ask("the VirtualMachineBackupTracker", || api.get_opt(&name)).await
    }

    async fn backup(&self, name: &str) -> Result<Option<VirtualMachineBackup>> {
        let api = self.api::<VirtualMachineBackup>();
        self.ask("the VirtualMachineBackup", || api.get_opt(name)).await
    }

    /// Waits until what is shown differs from `seen`.
    async fn follow(&self, backup: &str, seen: Option<&BackupProgress>) -> Result<BackupProgress> {
        let mut backups = Followed::<VirtualMachineBackup>::new(self.api(), backup);
        let mut instances = Followed::<VirtualMachineInstance>::new(self.api(), &self.desk.order.spec.virtual_machine);
        let mut run = self.desk.run.clone();
        let (mut shown, mut known) = (Shown::default(), (false, false));
        loop {
            if let Some(run) = &*run.borrow_and_update() {
                shown.run = Some(run.clone());
            }
            if known == (true, true) {
                let now = self.judge(backup, &mut shown).await?;
                if seen != Some(&now) {
                    return Ok(now);
                }
            }
            tokio::select! {
                () = self.desk.cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "the run is to end")),
                object = backups.changed() => (shown.backup, known.0) = (object, true),
                object = instances.changed() => (shown.instance, known.1) = (object, true),
                changed = run.changed() => if changed.is_err() {
                    return Err(Error::new(ErrorKind::Cancelled, "the agent stops"));
                },
            }
        }
    }

    /// What has become of a backup, as it is shown.
    async fn judge(&self, backup: &str, shown: &mut Shown) -> Result<BackupProgress> {
        let judged = |shown: &Shown| progress(backup, &self.desk.order.uid, &self.tracker_name(), shown);
        let now = judged(shown);
        // A watch may be behind the controller's word that it was made.
        let gone = shown.backup.is_none() && matches!(now, BackupProgress::Ended(_));
        if gone && let Some(there) = self.backup(backup).await? {
            shown.backup = Some(there);
            return Ok(judged(shown));
        }
        Ok(now)
    }
}

/// Whether asking again would change nothing.
fn is_final(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => is_refusal(status),
        // An object that is not as this version of remora knows it.
        kube::Error::SerdeError(_) => true,
        _ => false,
    }
}

#[async_trait]
impl Cluster for RunCluster {
    async fn look(&self) -> Result<VmFacts> {
        self.vm_facts().await
    }

    async fn begin(&self, wish: &BackupWish) -> Result<()> {
        let attempt = Attempt {
            number: 1,
            backup: wish.backup.to_string(),
            force_full: wish.depth == Depth::Full,
            skip_quiesce: wish.freeze == Freeze::Skip,
            state: AttemptState::Wanted,
        };
        self.say(Change::Want(attempt)).await
    }

    async fn progress(&self, backup: &BackupName, seen: Option<&BackupProgress>) -> Result<BackupProgress> {
        self.follow(&backup.to_string(), seen).await
    }

    async fn progress_now(&self, backup: &BackupName) -> Result<BackupProgress> {
        let name = backup.to_string();
        let asked = async {
            // First: what the controller says of a backup may be older than the backup, and not newer.
            let run = self.desk.run.borrow().clone();
            let backup = self.backup(&name).await?;
            let shown = Shown { run, backup, instance: self.instance().await? };
            Ok::<_, Error>(progress(&name, &self.desk.order.uid, &self.tracker_name(), &shown))
        };
        tokio::select! {
            () = self.desk.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "the run is to end")),
            told = asked => told,
        }
    }

    async fn why_unattached(&self, backup: &BackupName) -> Result<Option<Unattached>> {
        let name = backup.to_string();
        tokio::select! {
            () = self.desk.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "the run is to end")),
            told = self.unattached(&name) => told,
        }
    }

    async fn job(&self) -> Result<JobFacts> {
        Ok(job_facts(self.instance().await?.as_ref()))
    }

    async fn latest_checkpoint(&self) -> Result<Option<String>> {
        let status = self.tracker().await?.and_then(|tracker| tracker.status).unwrap_or_default();
        Ok(status.latest_checkpoint.map(|checkpoint| checkpoint.name).filter(|name| !name.is_empty()))
    }

    async fn end(&self, backup: &BackupName, outcome: Outcome) -> Result<()> {
        tracing::debug!(run = self.desk.order.full_name(), %backup, ?outcome, "the VirtualMachineBackup is not needed any more");
        let written = self.say(Change::End(backup.to_string()));
        tokio::select! {
            written = written => written?,
            // The claim is given back next, and that says the same.
            () = self.desk.stopping.cancelled() => return Ok(()),
        }
        let (mut left, mut pause) = (GONE, Duration::from_millis(300));
        loop {
            let there = self.ask("the VirtualMachineBackup", || is_there(&self.desk, backup));
            tokio::select! {
                biased;
                () = self.desk.stopping.cancelled() => return Ok(()),
                there = there => if !there? {
                    return Ok(());
                },
            }
            if left.is_zero() {
                let what = format!("VirtualMachineBackup {backup} is not gone after {} s", GONE.as_secs());
                return Err(Error::new(ErrorKind::Unavailable, what)
                    .advise("See `kubectl describe vmbackup`, and whether remora-controller runs."));
            }
            sleep(pause).await;
            // The time in which the API server does not answer does not count: nothing can go meanwhile.
            left = left.saturating_sub(pause);
            pause = (pause * 2).min(Duration::from_secs(3));
        }
    }
}
