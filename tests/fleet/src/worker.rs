//! What makes points, played: it asks the controller and the cluster for all that a backup asks for, in that order, and reads
//! no disk.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::Client;
use remora_core::point::{Decision, Point, Quiesced};
use remora_core::ports::{Outcome, VerifyReport};
use remora_core::{BackupName, CheckpointName, Error, ErrorKind, PointId, RepositoryId, VmName};
use remora_kube::node::{
    Desk, Done, Failure, KeyService, Meter, Order, RestoreOrder, RestoreWorker, VerifyWorker, Worker, clock,
};
use remora_kube::resources::Capability;
use remora_source::kubevirt::{BackupProgress, BackupWish, Cluster, Depth, Freeze};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::tell;

/// The worker of one agent.
pub(crate) struct Played {
    pub(crate) client: Client,
    pub(crate) keys: KeyService,
    pub(crate) repository: RepositoryId,
    /// What a run needs of before it ends.
    pub(crate) held: Arc<Semaphore>,
}

#[async_trait]
impl Worker for Played {
    async fn committed(&self, _: &Order, _: &BackupName) -> Result<Option<Point>, Failure> {
        Ok(None)
    }

    async fn work(&self, order: &Order, desk: &Desk, cancel: CancellationToken) -> Result<Done, Failure> {
        tell(&json!({"begun": order.full_name()}));
        self.keys.keys(order).await?;
        let cluster = desk.cluster(self.repository);
        cluster.look().await?;
        let backup = CheckpointName::random(self.repository).as_backup();
        cluster.begin(&BackupWish { backup: backup.clone(), depth: Depth::SinceLatest, freeze: Freeze::Try }).await?;
        let mut seen = None;
        loop {
            match cluster.progress(&backup, seen.as_ref()).await? {
                BackupProgress::Running(_) => break,
                failed @ (BackupProgress::Failed { .. } | BackupProgress::Ended(_)) => {
                    return Err(Error::new(ErrorKind::Refused, format!("{failed:?}")).into());
                }
                other => seen = Some(other),
            }
        }
        cluster.latest_checkpoint().await?;
        cluster.job().await?;
        tell(&json!({"works": order.full_name()}));
        tokio::select! {
            permit = self.held.acquire() => permit.map_err(|_| Error::new(ErrorKind::Failed, "no end"))?.forget(),
            () = cancel.cancelled() => {
                cluster.end(&backup, Outcome::Abandoned).await?;
                return Err(Error::new(ErrorKind::Cancelled, "cancelled").into());
            }
        }
        cluster.job().await?;
        cluster.end(&backup, Outcome::Stored).await?;
        cluster.latest_checkpoint().await?;
        Ok(Done { point: self.point(order)?, notes: Vec::new(), left: None })
    }

    async fn capabilities(&self) -> Vec<Capability> {
        vec![clock(&self.client).await]
    }
}

impl Played {
    fn point(&self, order: &Order) -> Result<Point, Error> {
        Ok(Point {
            id: PointId::new("0011223344556677", 1)?,
            repository: self.repository,
            copy_of: None,
            vm: VmName::new(order.vm_name())?,
            time: Timestamp::now(),
            parent: None,
            decision: Decision::Full,
            reason: "it is played".into(),
            quiesced: Quiesced::Skipped,
            disks: Vec::new(),
            stored: 4096,
            definition: "{}".into(),
            tool: "fleet".into(),
        })
    }
}

/// Nobody asks for a verification.
pub(crate) struct NoVerifications;

#[async_trait]
impl VerifyWorker for NoVerifications {
    async fn verify(
        &self,
        _: &Order,
        _: &PointId,
        _: Arc<Meter>,
        _: CancellationToken,
    ) -> Result<VerifyReport, Failure> {
        Err(Error::new(ErrorKind::Unsupported, "nothing is verified here").into())
    }
}

/// Nobody restores.
pub(crate) struct NoRestores;

#[async_trait]
impl RestoreWorker for NoRestores {
    async fn restore(&self, _: &RestoreOrder, _: Arc<Meter>, _: CancellationToken) -> Result<(), Failure> {
        Err(Error::new(ErrorKind::Unsupported, "nothing is restored here").into())
    }
}
