//! Restores: keys and the way to the worker from the controller, then the disks of the point over to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use remora_core::point::Point;
use remora_core::ports::{DiskIndex, LineageBreak, Mover};
use remora_core::{Error, ErrorKind, PointId, VmName};
use remora_engine::or_cancelled;
use remora_kube::keys::WorkerAccess;
use remora_kube::node::{Failure, Meter, RestoreOrder, RestoreWorker};
use remora_kube::targets::{Target, targets};
use remora_transfer::{Identity, Parcel, SendError, Worker, send};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::keys::Keys;

pub(super) struct TransferWorker {
    pub(super) keys: Keys,
}

#[async_trait]
impl RestoreWorker for TransferWorker {
    async fn restore(&self, order: &RestoreOrder, meter: Arc<Meter>, cancel: CancellationToken) -> Result<(), Failure> {
        let opening = async {
            let keys = self.keys.service.restore_keys(order).await?;
            let opened = self.keys.open(&keys, &order.namespace).await?;
            let access = keys.worker.as_ref().ok_or_else(no_worker)?;
            Ok::<_, Failure>((opened, worker(access)))
        };
        let (opened, worker) = or_cancelled(&cancel, opening).await?;
        let reading = async { opened.vault.open(&order.spec.point.parse::<PointId>()?).await };
        let reader = or_cancelled(&cancel, reading).await?;
        let targets = targets(&order.spec, reader.point())
            .map_err(|says| Failure::because(&says.reason, Error::new(ErrorKind::NotFound, says.message)))?;
        let breaks = record_breaks(&opened.vault, &order.namespace, &targets, reader.point());
        or_cancelled(&cancel, breaks).await?;
        let parcels: Vec<_> = targets.iter().map(|one| Parcel { disk: DiskIndex(one.index), to: one.number }).collect();
        send(&worker, reader.as_ref(), &parcels, meter.as_ref(), &cancel).await.map_err(failure)
    }
}

fn no_worker() -> Failure {
    Error::new(ErrorKind::Failed, "the controller did not tell of the pod that has the claims").into()
}

pub(super) fn worker(access: &WorkerAccess) -> Worker {
    let identity = Identity {
        ca: access.ca.clone(),
        certificate: access.certificate.clone(),
        key: Zeroizing::new(access.key.clone()),
    };
    Worker { address: access.address, identity }
}

/// Records a break of lineage for every machine whose newest point has a disk in one of these claims, before anything is
/// written: its hypervisor does not notice that its bytes change.
async fn record_breaks(mover: &dyn Mover, namespace: &str, targets: &[Target], point: &Point) -> Result<(), Error> {
    let mut newest: BTreeMap<VmName, Point> = BTreeMap::new();
    // Oldest first, so that the newest point of each machine stays.
    for point in mover.list(None).await?.points {
        newest.insert(point.vm.clone(), point);
    }
    for target in targets {
        let path = format!("{namespace}/{}", target.claim);
        let reason = format!("disk {} of point {} was restored there", target.disk, point.id);
        let has = |of: &&Point| of.disks.iter().any(|disk| disk.identity.path == path);
        for vm in newest.values().filter(has).map(|of| &of.vm) {
            let broken = LineageBreak { time: Timestamp::now(), path: path.clone(), reason: reason.clone() };
            mover.record_break(vm, broken).await?;
        }
    }
    Ok(())
}

fn failure(error: SendError) -> Failure {
    let advice = "Create another RestoreRun.";
    match error {
        SendError::Point(error) => error.into(),
        SendError::Lost(..) => {
            let what = "the connection to the pod that writes the claims broke off";
            let error = Error::new(ErrorKind::Unavailable, what).because(error);
            Failure::because("WorkerLost", error.advise("Look at the events of the pod. Create another RestoreRun."))
        }
        SendError::Refused { no_space: true, .. } => {
            let error = Error::new(ErrorKind::NoSpace, "a claim has not enough room").because(error);
            Failure::from(error.advise("Restore to a larger claim: create another RestoreRun."))
        }
        SendError::Refused { .. } => {
            let error = Error::new(ErrorKind::Failed, "a claim cannot be written").because(error);
            Failure::because("WriteFailed", error.advise(advice))
        }
        SendError::Differs(_) => {
            let error = Error::new(ErrorKind::Damaged, "what was written is not what was read back").because(error);
            let storage = "Look at the storage that the claim is on. Create another RestoreRun.";
            Failure::because("VerificationFailed", error.advise(storage))
        }
    }
}
