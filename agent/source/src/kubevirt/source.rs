//! The source: the claim of one VM, and what becomes of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use remora_core::ports::{ClaimedVm, OpenRequest, OpenVm, Patience, Source, VmState};
use remora_core::{CheckpointName, Error, ErrorKind, RepositoryId, Result, VmName};

use super::cluster::{Cluster, InstanceFacts, VmFacts};
use super::launcher::Launcher;
use super::options::KubevirtOptions;
use super::{checkpoints, facts, open};

/// A VM of KubeVirt that runs on this node, for one run.
///
/// Whose turn it is, and what a dead run left, is the business of who made the [`Cluster`]: it serves one run at a time.
#[derive(Debug)]
pub struct KubevirtSource {
    cluster: Arc<dyn Cluster>,
    options: KubevirtOptions,
}

/// What a claim and every view opened from it share.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) cluster: Arc<dyn Cluster>,
    pub(super) options: KubevirtOptions,
    pub(super) facts: VmFacts,
    pub(super) instance: InstanceFacts,
    pub(super) launcher: Launcher,
    pub(super) patience: Duration,
}

struct Claimed {
    vm: Arc<Vm>,
    state: VmState,
}

impl KubevirtSource {
    /// The VM that `cluster` is about.
    pub fn new(cluster: Arc<dyn Cluster>, options: KubevirtOptions) -> Self {
        Self { cluster, options }
    }

    async fn look(&self, vm: &VmName, patience: Patience) -> Result<Vm> {
        let facts = self.cluster.look().await?;
        if facts.vm != *vm {
            let other = facts.vm.as_str();
            return Err(Error::new(ErrorKind::Invalid, format!("the cluster was asked about {other:?} instead")));
        }
        let instance = facts::runs(&facts)?.clone();
        let launcher = Launcher::open(&self.options.pods, &instance.pod, &self.options.proc)?;
        let patience = match patience {
            Patience::None => Duration::ZERO,
            Patience::Wait(limit) => limit,
        };
        let (cluster, options) = (Arc::clone(&self.cluster), self.options.clone());
        Ok(Vm { cluster, options, facts, instance, launcher, patience })
    }
}

#[async_trait]
impl Source for KubevirtSource {
    async fn claim(&self, vm: &VmName, patience: Patience) -> Result<Box<dyn ClaimedVm>> {
        let looked = self.look(vm, patience).await;
        let vm = looked.map_err(|error| error.within(format_args!("claiming the VM {:?}", vm.as_str())))?;
        let state = facts::state(&vm.facts);
        Ok(Box::new(Claimed { vm: Arc::new(vm), state }))
    }
}

#[async_trait]
impl ClaimedVm for Claimed {
    fn state(&self) -> &VmState {
        &self.state
    }

    async fn open(&self, request: &OpenRequest) -> Result<Box<dyn OpenVm>> {
        let opened = open::open(&self.vm, request).await;
        let vm = self.vm.facts.vm.as_str();
        Ok(Box::new(opened.map_err(|error| error.within(format_args!("opening the disks of the VM {vm:?}")))?))
    }

    async fn retire(&self, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()> {
        checkpoints::retire(&self.vm, repository, keep).await
    }
}
