//! A cluster with one VM, its tracker and its backups, as the port shows it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use remora_core::ports::Outcome;
use remora_core::{BackupName, CheckpointName, RepositoryId, Result, VmName};
use remora_source::kubevirt::{
    BackupKind, BackupProgress, BackupWish, ChangedBlockTracking, Cluster, Depth, Freeze, InstanceFacts, JobFacts,
    LatestCheckpoint, QuiesceFacts, RunningBackup, Unattached, VmFacts, VolumeFacts, VolumeMode,
};
use tokio::sync::Notify;

/// What each run notes of the disk that cannot be backed up.
pub(crate) const LEFT_OUT: &str = "disk cloudinit is not backed up: it is no PVC";

/// What runs backup jobs.
pub(crate) trait Hypervisor: Send + Sync {
    /// Starts one that makes `checkpoint`.
    fn start(&self, checkpoint: &str, since: Option<&str>);

    /// Ends it.
    fn stop(&self);
}

/// How KubeVirt goes about a backup.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    Works,
    /// It tries increments in vain, for ever.
    NoIncrement,
    /// It tries all in vain, for ever.
    Never(&'static str),
    /// It waits for ever for a scratch PVC that does not get to the VM's node.
    Unattached(&'static str),
    /// The backup is not made: something else has to end first.
    Queued(&'static str),
    Fails,
    /// It is deleted before its job runs.
    Deleted,
    /// A full is made whatever was asked for.
    AlwaysFull,
    /// The scratch PVC is detached from so many jobs that have just begun.
    Detaches(usize),
}

type Hook = Box<dyn FnOnce() + Send>;

pub(crate) struct FakeCluster {
    hypervisor: Box<dyn Hypervisor>,
    state: Mutex<State>,
    changed: Notify,
}

pub(crate) struct State {
    pub(crate) facts: VmFacts,
    pub(crate) start: Start,
    pub(crate) quiesced: QuiesceFacts,
    /// What the VMI says of its job instead of the truth.
    pub(crate) job: Option<JobFacts>,
    /// The volumes that a backup is said to have, instead of all.
    pub(crate) volumes: Option<BTreeSet<String>>,
    pub(crate) scratch: Option<String>,
    /// Whether no watch tells anything once KubeVirt has a backup.
    pub(crate) deaf: bool,
    /// Called when a job is about to start.
    pub(crate) before_start: Option<Hook>,
    /// Called when the tracker is read live.
    pub(crate) on_latest: Option<Hook>,
    pub(crate) wishes: Vec<BackupWish>,
    pub(crate) ended: Vec<(BackupName, Outcome)>,
    backup: Option<Backup>,
    clock: u32,
}

struct Backup {
    wish: BackupWish,
    running: Option<RunningBackup>,
    heard: u32,
    ended: Option<String>,
}

impl std::fmt::Debug for FakeCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeCluster")
    }
}

impl FakeCluster {
    /// A VM with these disks (name, bytes), its pod that of `pod`.
    pub(crate) fn new(vm: &str, pod: &str, disks: &[(&str, u64)], hypervisor: Box<dyn Hypervisor>) -> Arc<Self> {
        let volume = |(name, size): &(&str, u64)| VolumeFacts {
            name: (*name).into(),
            claim: format!("claim-of-{name}"),
            claim_uid: format!("uid-of-{name}"),
            mode: VolumeMode::Filesystem,
            // A filesystem takes some of it.
            capacity: size + size / 20,
        };
        let facts = VmFacts {
            vm: VmName::new(vm).unwrap(),
            uid: "uid-of-vm".into(),
            version: "1".into(),
            instance: Some(InstanceFacts { uid: "vmi-1".into(), pod: pod.into() }),
            tracking: ChangedBlockTracking::Enabled,
            volumes: disks.iter().map(volume).collect(),
            left_out: vec![("disk cloudinit".into(), "it is no PVC".into())],
            latest: None,
            definition: r#"{"kind": "VirtualMachine"}"#.into(),
        };
        let state = State {
            facts,
            start: Start::Works,
            quiesced: QuiesceFacts::Succeeded,
            job: None,
            volumes: None,
            scratch: None,
            deaf: false,
            before_start: None,
            on_latest: None,
            wishes: Vec::new(),
            ended: Vec::new(),
            backup: None,
            clock: 0,
        };
        Arc::new(Self { hypervisor, state: Mutex::new(state), changed: Notify::new() })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another VMI of the VM, as after a restart.
    pub(crate) fn new_instance(&self, uid: &str) {
        self.state().facts.instance.as_mut().unwrap().uid = uid.into();
    }

    pub(crate) fn latest(&self) -> Option<String> {
        self.state().facts.latest.as_ref().map(|latest| latest.name.clone())
    }

    /// A whole backup through our tracker that nobody reads: KubeVirt advances the tracker all the same.
    pub(crate) fn backup_that_nobody_reads(&self, repository: RepositoryId) {
        let backup = CheckpointName::random(repository).as_backup();
        let since = self.latest();
        let checkpoint = self.state().checkpoint_of(&backup);
        self.hypervisor.start(&checkpoint, since.as_deref());
        self.hypervisor.stop();
        self.state().advance(checkpoint);
    }

    /// The job ends though nobody of us asked for it: deleted, or its time to live ran out.
    pub(crate) fn end_job(&self, how: &str) {
        self.hypervisor.stop();
        let mut state = self.state();
        if let Some(backup) = &mut state.backup {
            backup.ended = Some(how.into());
            let checkpoint = backup.running.take().map(|running| running.checkpoint);
            if let Some(checkpoint) = checkpoint {
                state.advance(checkpoint);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether a backup is there.
    pub(crate) fn has_backup(&self) -> bool {
        self.state().backup.is_some()
    }

    /// What is to be told of the backup now; starts its job when that is due.
    fn told(&self, name: &BackupName) -> BackupProgress {
        let mut state = self.state();
        let start = state.start.clone();
        let Some(backup) = state.backup.as_mut().filter(|backup| backup.wish.backup == *name) else {
            return BackupProgress::Ended("it is gone".into());
        };
        if let Some(how) = &backup.ended {
            return BackupProgress::Ended(how.clone());
        }
        if let Some(running) = &backup.running {
            return BackupProgress::Running(running.clone());
        }
        backup.heard += 1;
        let full = backup.wish.depth == Depth::Full;
        match start {
            Start::Queued(why) => BackupProgress::Queued(why.into()),
            _ if backup.heard == 1 => BackupProgress::Waiting("attaching the scratch PVC".into()),
            Start::Fails => BackupProgress::Failed { reason: "SourceUnhealthy".into(), message: "it is paused".into() },
            Start::Deleted => BackupProgress::Ended("it is being deleted".into()),
            Start::Never(why) => BackupProgress::Waiting(why.into()),
            Start::Unattached(_) => BackupProgress::Waiting("attaching the scratch PVC".into()),
            Start::NoIncrement if !full => BackupProgress::Waiting("failed to send Start backup command".into()),
            Start::Detaches(left) if left > 0 => {
                state.start = Start::Detaches(left - 1);
                self.start_job(&mut state);
                BackupProgress::ScratchDetached
            }
            Start::Works | Start::AlwaysFull | Start::NoIncrement | Start::Detaches(_) => {
                if let Some(hook) = state.before_start.take() {
                    drop(state);
                    hook();
                    state = self.state();
                }
                BackupProgress::Running(self.start_job(&mut state))
            }
        }
    }

    fn start_job(&self, state: &mut State) -> RunningBackup {
        let wish = state.backup.as_ref().unwrap().wish.clone();
        let checkpoint = state.checkpoint_of(&wish.backup);
        let full = wish.depth == Depth::Full || matches!(state.start, Start::AlwaysFull);
        let since = state.facts.latest.as_ref().map(|latest| latest.name.clone()).filter(|_| !full);
        self.hypervisor.start(&checkpoint, since.as_deref());
        let all = || state.facts.volumes.iter().map(|volume| volume.name.clone()).collect();
        let running = RunningBackup {
            checkpoint,
            kind: if since.is_some() { BackupKind::Incremental } else { BackupKind::Full },
            volumes: state.volumes.clone().unwrap_or_else(all),
            quiesced: if wish.freeze == Freeze::Skip { QuiesceFacts::Skipped } else { state.quiesced.clone() },
            scratch: state.scratch.clone(),
        };
        state.backup.as_mut().unwrap().running = Some(running.clone());
        running
    }
}

impl State {
    fn checkpoint_of(&mut self, backup: &BackupName) -> String {
        self.clock += 1;
        format!("{backup}-2026-03-01_00-{:02}-{:02}", self.clock / 60, self.clock % 60)
    }

    fn advance(&mut self, checkpoint: String) {
        let volumes = self.facts.volumes.iter().map(|volume| volume.name.clone()).collect();
        self.facts.latest = Some(LatestCheckpoint { name: checkpoint, volumes });
    }
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn look(&self) -> Result<VmFacts> {
        Ok(self.state().facts.clone())
    }

    async fn begin(&self, wish: &BackupWish) -> Result<()> {
        let mut state = self.state();
        assert!(state.backup.is_none(), "two backups at once");
        state.wishes.push(wish.clone());
        state.backup = Some(Backup { wish: wish.clone(), running: None, heard: 0, ended: None });
        Ok(())
    }

    async fn progress(&self, backup: &BackupName, seen: Option<&BackupProgress>) -> Result<BackupProgress> {
        loop {
            let changed = self.changed.notified();
            let told = self.told(backup);
            let deaf = self.state().deaf && matches!(seen, Some(BackupProgress::Waiting(_)));
            if Some(&told) != seen && !deaf {
                return Ok(told);
            }
            changed.await;
        }
    }

    async fn progress_now(&self, backup: &BackupName) -> Result<BackupProgress> {
        Ok(self.told(backup))
    }

    async fn why_unattached(&self, _: &BackupName) -> Result<Option<Unattached>> {
        match self.state().start {
            Start::Unattached(why) => Ok(Some(Unattached::SoFar(why.into()))),
            _ => Ok(None),
        }
    }

    async fn job(&self) -> Result<JobFacts> {
        let state = self.state();
        if let Some(job) = &state.job {
            return Ok(job.clone());
        }
        let running = state.backup.as_ref().and_then(|backup| Some((backup, backup.running.as_ref()?)));
        Ok(JobFacts {
            instance: state.facts.instance.as_ref().map(|instance| instance.uid.clone()),
            backup: running.map(|(backup, _)| backup.wish.backup.to_string()),
            checkpoint: running.map(|(_, running)| running.checkpoint.clone()),
            ended: None,
        })
    }

    async fn latest_checkpoint(&self) -> Result<Option<String>> {
        let hook = self.state().on_latest.take();
        if let Some(hook) = hook {
            hook();
        }
        Ok(self.latest())
    }

    async fn end(&self, backup: &BackupName, outcome: Outcome) -> Result<()> {
        let mut state = self.state();
        state.ended.push((backup.clone(), outcome));
        let ours = state.backup.take_if(|ours| ours.wish.backup == *backup);
        if let Some(running) = ours.and_then(|ours| ours.running) {
            self.hypervisor.stop();
            // Read or not.
            state.advance(running.checkpoint);
        }
        Ok(())
    }
}
