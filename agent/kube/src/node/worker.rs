//! The port to what makes points.

use async_trait::async_trait;
use remora_core::point::Point;
use remora_core::{BackupName, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Desk, Failure};
use crate::resources::{BackupRunSpec, Capability, PolicyState};

/// Makes points, and finds those that were made.
#[async_trait]
pub trait Worker: Send + Sync + 'static {
    /// The point that the attempt of this name has committed, if it did: its agent may have died before it could tell.
    async fn committed(&self, order: &Order, attempt: &BackupName) -> Result<Option<Point>, Failure>;

    /// Makes a point. Ends soon after `cancel`, with the kind `Cancelled` and nothing left behind, or with the point if it
    /// was committed all the same.
    async fn work(&self, order: &Order, desk: &Desk, cancel: CancellationToken) -> Result<Done, Failure>;

    /// What this node has of what runs need.
    async fn capabilities(&self) -> Vec<Capability>;

    /// The policies that it has, now and from then on; none if it follows none.
    fn policies(&self) -> Option<watch::Receiver<Vec<PolicyState>>> {
        None
    }
}

/// A run to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// The run's namespace, which is also the VM's and the tenant.
    pub namespace: String,
    /// The run's name.
    pub name: String,
    /// The run's UID.
    pub uid: String,
    /// What is asked for.
    pub spec: BackupRunSpec,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Done {
    /// The new point.
    pub point: Point,
    /// What people should know beside it, as sentences.
    pub notes: Vec<String>,
    /// Why checkpoints that no point needs may have stayed, if they may.
    pub left: Option<String>,
}

impl Order {
    /// `<namespace>/<virtual machine>`: its name in the repository.
    pub fn vm_name(&self) -> String {
        format!("{}/{}", self.namespace, self.spec.virtual_machine)
    }

    /// `<namespace>/<name>`, for logs.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
