//! Verifications: keys from the controller, then the vault reads the point.

use std::sync::Arc;

use async_trait::async_trait;
use remora_core::PointId;
use remora_core::ports::VerifyReport;
use remora_engine::or_cancelled;
use remora_kube::node::{Failure, Meter, Order, VerifyWorker};
use remora_kube::resources::Verify;
use remora_vault::Depth;
use tokio_util::sync::CancellationToken;

use super::keys::Keys;

pub(super) struct VaultVerifier {
    pub(super) keys: Keys,
}

#[async_trait]
impl VerifyWorker for VaultVerifier {
    async fn verify(
        &self,
        order: &Order,
        point: &PointId,
        meter: Arc<Meter>,
        cancel: CancellationToken,
    ) -> Result<VerifyReport, Failure> {
        let depth = match order.spec.verify {
            Verify::All => Depth::All,
            Verify::None | Verify::Structure => Depth::Structure,
        };
        let opening = async {
            let keys = self.keys.service.keys(order).await?;
            self.keys.open(&keys, &order.namespace).await
        };
        let opened = or_cancelled(&cancel, opening).await?;
        let verifier = opened.vault.verifier(depth);
        Ok(or_cancelled(&cancel, verifier.point(point, &*meter)).await?)
    }
}
