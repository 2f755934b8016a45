//! Points of VMs of KubeVirt: keys from the controller, then the engine over the source of KubeVirt and the vault.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Client;
use remora_core::plan::Asked;
use remora_core::point::{self, Point};
use remora_core::ports::{Mover, Patience, Source};
use remora_core::{BackupName, CheckpointName, Error, MemoryBudget, Result, VmName};
use remora_engine::{BackupRequest, PIECES, SPOT_CHECKS, backup, or_cancelled};
use remora_kube::node::{Desk, Done, Failure, Order, Worker};
use remora_kube::resources::{BackupRunSpec, Capability, Mode, PolicyState, Quiesce};
use remora_source::kubevirt::{HaltedSource, KubevirtOptions, KubevirtSource};
use remora_vault::Vault;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::capabilities::capabilities;
use super::claims::Claims;
use super::keys::{Keys, Opened};
use super::policies::NodePolicies;

/// How long a run waits here for somebody else's backup of the VM, beside the time that KubeVirt has to start one: then it is
/// given back, and waits where it keeps no other one from this node.
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) struct EngineWorker {
    pub(super) client: Client,
    pub(super) policies: Option<NodePolicies>,
    pub(super) keys: Keys,
    pub(super) options: KubevirtOptions,
}

impl EngineWorker {
    async fn open(&self, order: &Order) -> Result<(Opened, Option<Claims>), Failure> {
        let keys = self.keys.service.keys(order).await?;
        let opened = self.keys.open(&keys, &order.namespace).await?;
        let claims = match &keys.worker {
            Some(access) => Some(Claims::connect(access).await?),
            None => None,
        };
        Ok((opened, claims))
    }

    /// The VM as it runs, or as it lies in its claims.
    fn source(&self, desk: &Desk, vault: &Vault, claims: Option<Claims>) -> Box<dyn Source> {
        let cluster = Arc::new(desk.cluster(vault.repository()));
        match claims {
            Some(claims) => Box::new(HaltedSource::new(cluster, Arc::new(claims))),
            None => Box::new(KubevirtSource::new(cluster, self.options.clone())),
        }
    }
}

#[async_trait]
impl Worker for EngineWorker {
    async fn committed(&self, order: &Order, attempt: &BackupName) -> Result<Option<Point>, Failure> {
        let (opened, _) = self.open(order).await?;
        let listing = opened.vault.list(Some(&VmName::new(order.vm_name()).map_err(Error::from)?)).await?;
        Ok(listing.points.into_iter().rev().find(|point| is_of(point, attempt)))
    }

    async fn work(&self, order: &Order, desk: &Desk, cancel: CancellationToken) -> Result<Done, Failure> {
        let (opened, claims) = or_cancelled(&cancel, self.open(order)).await?;
        let vault = &opened.vault;
        let source = self.source(desk, vault, claims);
        let request = request(order)?;
        let report = backup(source.as_ref(), vault, request, desk.meter(), cancel.clone()).await?;
        let mut notes = report.notes;
        if let Err(error) = or_cancelled(&cancel, vault.renew(&report.point.vm)).await {
            notes.push(format!("what the point needs is not locked for longer yet: {}", error.chain()));
        }
        if let Some(policies) = &self.policies {
            notes.extend(policies.prune(order, &report.point, &opened, &cancel).await);
        }
        Ok(Done { point: report.point, notes, left: report.left })
    }

    async fn capabilities(&self) -> Vec<Capability> {
        capabilities(&self.client, &self.options, self.keys.state.as_deref()).await
    }

    fn policies(&self) -> Option<watch::Receiver<Vec<PolicyState>>> {
        self.policies.as_ref().map(NodePolicies::states)
    }
}

/// Whether an attempt has made the point: KubeVirt names the checkpoint after it.
fn is_of(point: &Point, attempt: &BackupName) -> bool {
    point.disks.iter().any(|disk| disk.checkpoint.as_ref().and_then(CheckpointName::backup).as_ref() == Some(attempt))
}

fn request(order: &Order) -> Result<BackupRequest> {
    let BackupRunSpec { mode, quiesce, .. } = &order.spec;
    Ok(BackupRequest {
        vm: VmName::new(order.vm_name())?,
        disks: None,
        asked: match mode {
            Mode::Auto => Asked::Auto,
            Mode::Reread => Asked::Reread,
            Mode::Full => Asked::Full,
        },
        quiesce: match quiesce {
            Quiesce::Preferred => point::Quiesce::Preferred,
            Quiesce::Required => point::Quiesce::Required,
            Quiesce::Never => point::Quiesce::Never,
        },
        patience: Patience::Wait(PATIENCE),
        spot_checks: SPOT_CHECKS,
        memory: MemoryBudget::new(PIECES),
    })
}
