//! A source whose calls can be broken.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::Faults;
use crate::point::Quiesced;
use crate::ports::{ClaimedVm, DiskView, OpenRequest, OpenVm, Outcome, Patience, Source, VmState};
use crate::{ByteRange, CheckpointName, DiskName, Extent, RepositoryId, Result, VmName};

/// Breaks the calls of a source and of what it opens.
pub struct FaultySource<S> {
    /// The source.
    pub inner: S,
    /// What breaks.
    pub faults: Faults,
}

struct Claimed {
    inner: Box<dyn ClaimedVm>,
    faults: Faults,
}

struct Open {
    inner: Box<dyn OpenVm>,
    disks: Vec<Arc<dyn DiskView>>,
    faults: Faults,
}

struct View {
    inner: Arc<dyn DiskView>,
    faults: Faults,
}

#[async_trait]
impl<S: Source> Source for FaultySource<S> {
    async fn claim(&self, vm: &VmName, patience: Patience) -> Result<Box<dyn ClaimedVm>> {
        let inner = self.faults.call("claim", self.inner.claim(vm, patience)).await?;
        Ok(Box::new(Claimed { inner, faults: self.faults.clone() }))
    }
}

#[async_trait]
impl ClaimedVm for Claimed {
    fn state(&self) -> &VmState {
        self.inner.state()
    }

    /// Broken only before: an open that fails leaves nothing.
    async fn open(&self, request: &OpenRequest) -> Result<Box<dyn OpenVm>> {
        self.faults.call("open", async { Ok(()) }).await?;
        let inner = self.inner.open(request).await?;
        let view = |inner: &Arc<dyn DiskView>| -> Arc<dyn DiskView> {
            Arc::new(View { inner: Arc::clone(inner), faults: self.faults.clone() })
        };
        let disks = inner.disks().iter().map(view).collect();
        Ok(Box::new(Open { inner, disks, faults: self.faults.clone() }))
    }

    async fn retire(&self, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()> {
        self.faults.call("retire", self.inner.retire(repository, keep)).await
    }
}

#[async_trait]
impl OpenVm for Open {
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

    async fn confirm(&self) -> Result<()> {
        self.faults.call("confirm", self.inner.confirm()).await
    }

    async fn close(self: Box<Self>, outcome: Outcome) -> Result<()> {
        let Self { inner, faults, .. } = *self;
        faults.call("close", inner.close(outcome)).await
    }
}

#[async_trait]
impl DiskView for View {
    fn name(&self) -> &DiskName {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn checkpointed(&self) -> bool {
        self.inner.checkpointed()
    }

    fn extents(&self) -> BoxStream<'_, Result<Extent>> {
        let broken = move |extent: Result<Extent>| async move { self.faults.call("extents", async { extent }).await };
        self.inner.extents().then(broken).boxed()
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes> {
        self.faults.call("read", self.inner.read(range)).await
    }
}
