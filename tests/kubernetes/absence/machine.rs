//! A machine of KubeVirt whose disk is in memory: what a backup of it asks of the cluster is asked for, and answered by the
//! real controller and a played KubeVirt.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use remora_core::point::Quiesced;
use remora_core::ports::{ClaimedVm, DiskView, OpenRequest, OpenVm, Outcome, Patience, Source, VmState};
use remora_core::testing::FakeHost;
use remora_core::{
    BackupName, ByteRange, CheckpointName, DiskName, Error, ErrorKind, Extent, RepositoryId, Result, VmName,
};
use remora_kube::node::RunCluster;
use remora_source::kubevirt::{BackupProgress, BackupWish, Cluster, Depth, Freeze};
use tokio::sync::watch;

/// A byte of the disk whose reading waits while the gate is shut.
pub(super) const MIDDLE: u64 = 4 << 20;

/// Where work waits in its middle. It is open at first.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<watch::Sender<State>>);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Shut,
    /// Shut, and somebody stands before it.
    WaitedFor,
}

impl Gate {
    pub(super) fn shut(&self) {
        self.0.send_replace(State::Shut);
    }

    pub(super) fn open(&self) {
        self.0.send_replace(State::Open);
    }

    pub(super) fn is_waited_for(&self) -> bool {
        *self.0.borrow() == State::WaitedFor
    }

    pub(super) async fn pass(&self) {
        let mut state = self.0.subscribe();
        self.0.send_if_modified(|state| {
            let shut = *state == State::Shut;
            if shut {
                *state = State::WaitedFor;
            }
            shut
        });
        state.wait_for(|state| *state == State::Open).await.ok();
    }
}

/// The machine, for one run.
pub(super) struct Machine {
    pub(super) host: FakeHost,
    pub(super) cluster: RunCluster,
    pub(super) gate: Gate,
}

struct Claimed {
    inner: Box<dyn ClaimedVm>,
    cluster: RunCluster,
    gate: Gate,
}

struct Opened {
    inner: Box<dyn OpenVm>,
    disks: Vec<Arc<dyn DiskView>>,
    cluster: RunCluster,
    backup: BackupName,
}

struct Gated {
    disk: Arc<dyn DiskView>,
    gate: Gate,
}

#[async_trait]
impl Source for Machine {
    async fn claim(&self, vm: &VmName, patience: Patience) -> Result<Box<dyn ClaimedVm>> {
        self.cluster.look().await?;
        let inner = self.host.claim(vm, patience).await?;
        Ok(Box::new(Claimed { inner, cluster: self.cluster.clone(), gate: self.gate.clone() }))
    }
}

#[async_trait]
impl ClaimedVm for Claimed {
    fn state(&self) -> &VmState {
        self.inner.state()
    }

    async fn open(&self, request: &OpenRequest) -> Result<Box<dyn OpenVm>> {
        let backup = request.checkpoint.as_backup();
        let increment = request.disks.iter().any(|disk| disk.since.is_some());
        let depth = if increment { Depth::SinceLatest } else { Depth::Full };
        self.cluster.begin(&BackupWish { backup: backup.clone(), depth, freeze: Freeze::Skip }).await?;
        let mut seen = None;
        loop {
            match self.cluster.progress(&backup, seen.as_ref()).await? {
                BackupProgress::Running(_) => break,
                over @ (BackupProgress::Failed { .. } | BackupProgress::Ended(_)) => {
                    return Err(Error::new(ErrorKind::Refused, format!("{over:?}")));
                }
                other => seen = Some(other),
            }
        }
        let inner = self.inner.open(request).await?;
        let gated = |disk: &Arc<dyn DiskView>| {
            Arc::new(Gated { disk: Arc::clone(disk), gate: self.gate.clone() }) as Arc<dyn DiskView>
        };
        let disks = inner.disks().iter().map(gated).collect();
        Ok(Box::new(Opened { inner, disks, cluster: self.cluster.clone(), backup }))
    }

    async fn retire(&self, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()> {
        self.inner.retire(repository, keep).await
    }
}

#[async_trait]
impl OpenVm for Opened {
    fn disks(&self) -> &[Arc<dyn DiskView>] {
        &self.disks
    }

    fn checkpoint(&self) -> CheckpointName {
        self.inner.checkpoint()
    }

    fn no_increment(&self) -> Option<&str> {
        self.inner.no_increment()
    }

    fn time(&self) -> Timestamp {
        self.inner.time()
    }

    fn quiesced(&self) -> Quiesced {
        self.inner.quiesced()
    }

    fn instance(&self) -> Option<String> {
        self.inner.instance()
    }

    /// As the source of KubeVirt does: nobody commits before the API server has said whose job it is.
    async fn confirm(&self) -> Result<()> {
        let job = self.cluster.job().await?;
        if job.backup.as_deref() != Some(self.backup.as_str()) || job.ended.is_some() {
            return Err(Error::new(ErrorKind::Unavailable, format!("{job:?}")));
        }
        self.inner.confirm().await
    }

    async fn close(self: Box<Self>, outcome: Outcome) -> Result<()> {
        let Self { inner, cluster, backup, .. } = *self;
        cluster.end(&backup, outcome).await?;
        inner.close(outcome).await
    }
}

#[async_trait]
impl DiskView for Gated {
    fn name(&self) -> &DiskName {
        self.disk.name()
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn checkpointed(&self) -> bool {
        self.disk.checkpointed()
    }

    fn extents(&self) -> BoxStream<'_, Result<Extent>> {
        self.disk.extents()
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes> {
        if (range.start..range.end).contains(&MIDDLE) {
            self.gate.pass().await;
        }
        self.disk.read(range).await
    }
}
