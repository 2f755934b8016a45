//! A repository of points that a mover keeps in a form of its own, such as clones on a storage array.
//!
//! The mover sees disks in the clear, so only those of the machines that its document grants. What it says is not believed: a
//! point is listed only once the host has read back what was stored and has noted so, with a point without disks beside it (see
//! `catalogue.rs`), for the mover's own `commit` comes before anybody can read.

mod calls;
mod catalogue;
mod check;
mod claim;
mod names;
mod prune;
mod reader;
mod verify;
mod windows;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use remora_core::ports::{
    Damage, DamagedPoint, History, LineageBreak, Listing, Mended, Mover, NewPoint, PointReader, PointWriter, Progress,
    Repair, VerifyReport, VmDisks,
};
use remora_core::{
    BLOCK_SIZE, ByteRange, DiskName, Error, ErrorKind, PIECE_SIZE, PointId, RepositoryId, Result, VmName,
};
use tokio::sync::OnceCell;

use super::conversation::Component;
use super::document::Grant;
use super::retry::Patience;
use crate::host::Digest;
use calls::Calls;
use catalogue::Catalogue;
use reader::Reader;

pub use prune::Dropping;
pub use verify::VolumeVerifier;

/// Points of a mover. Cheap to clone.
#[derive(Clone)]
pub struct VolumeMover(Arc<Inner>);

struct Inner {
    calls: Calls,
    grant: Grant,
    repository: RepositoryId,
}

impl std::fmt::Debug for VolumeMover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VolumeMover({})", self.0.calls.name)
    }
}

impl VolumeMover {
    pub(super) fn new(name: String, component: Component, patience: Patience, grant: Grant) -> Self {
        // The store has no id of its own. Checkpoints are named by this one, so it must be the same in each run.
        let digest = Digest::of(format!("remora: the points of the mover {name}").as_bytes());
        let id = digest.as_bytes().first_chunk().copied().expect("SHA-256 has more than 16 bytes");
        let repository = RepositoryId::from_bytes(id);
        Self(Arc::new(Inner { calls: Calls { name, component, patience, can: OnceCell::new() }, grant, repository }))
    }

    /// The process that runs the component, while there is one.
    pub fn process(&self) -> Option<i32> {
        self.0.calls.component.pid()
    }

    /// The component, to be called without all that is made of it here.
    pub(super) fn component(&self) -> &Component {
        &self.0.calls.component
    }

    /// The mover may see this machine's disks, or it is not asked about it.
    fn granted(&self, vm: &VmName) -> Result<()> {
        if self.0.grant.covers(vm.as_str()) {
            return Ok(());
        }
        let name = &self.0.calls.name;
        let what = format!("mover {name} may not see the disks of the VM {:?}", vm.as_str());
        Err(Error::new(ErrorKind::Refused, what)
            .advise(format!("If it is to, name the VM in {name}.yaml, below volume.disksInTheClear.")))
    }

    async fn catalogue(&self, vm: Option<&VmName>) -> Result<Catalogue> {
        self.0.catalogue(vm).await
    }

    async fn reader(&self, point: &PointId) -> Result<Arc<Reader>> {
        self.reader_of(&self.catalogue(None).await?, point).await
    }

    async fn reader_of(&self, catalogue: &Catalogue, point: &PointId) -> Result<Arc<Reader>> {
        let listed = catalogue.find(point)?;
        self.granted(&listed.point.vm)?;
        Ok(Arc::new(Reader::new(Arc::clone(&self.0), listed).await?))
    }

    /// What of a listing the mover may see: others share what keeps the points, and of theirs nothing can be opened here.
    fn seen(&self, mut listing: Listing) -> Listing {
        listing.points.retain(|point| self.granted(&point.vm).is_ok());
        listing.sampled.retain(|sampled| listing.points.iter().any(|point| point.id == *sampled));
        listing
    }
}

impl Inner {
    async fn catalogue(&self, vm: Option<&VmName>) -> Result<Catalogue> {
        Catalogue::of(self.repository, self.calls.list(vm.map(VmName::as_str)).await?, vm)
    }
}

#[async_trait]
impl Mover for VolumeMover {
    fn repository(&self) -> RepositoryId {
        self.0.repository
    }

    async fn list(&self, vm: Option<&VmName>) -> Result<Listing> {
        vm.map_or(Ok(()), |vm| self.granted(vm))?;
        Ok(self.seen(self.catalogue(vm).await?.listing()))
    }

    async fn history(&self, vm: &VmName) -> Result<History> {
        self.granted(vm)?;
        Ok(self.catalogue(Some(vm)).await?.history())
    }

    async fn record_break(&self, vm: &VmName, broken: LineageBreak) -> Result<()> {
        self.granted(vm)?;
        let catalogue = self.catalogue(Some(vm)).await?;
        self.0.note(catalogue.break_of(vm, &broken, self.0.repository)?).await
    }

    async fn begin(&self, point: NewPoint) -> Result<Box<dyn PointWriter>> {
        self.granted(&point.vm)?;
        Ok(Box::new(writer::Writer::begin(Arc::clone(&self.0), point).await?))
    }

    async fn open(&self, point: &PointId) -> Result<Arc<dyn PointReader>> {
        Ok(self.reader(point).await?)
    }

    async fn diff(&self, from: &PointId, to: &PointId, disk: &DiskName) -> Result<Vec<ByteRange>> {
        let (from, to) = (self.reader(from).await?, self.reader(to).await?);
        let (one, other) = (from.disk(disk)?, to.disk(disk)?);
        let (sizes, mut differing) = ([one.1, other.1], Vec::<ByteRange>::new());
        let both = sizes[0].min(sizes[1]);
        for range in ByteRange::new(0, both / BLOCK_SIZE * BLOCK_SIZE).split(PIECE_SIZE) {
            let bytes = from.read(one.0, range).await?;
            differing.extend(to.differing(other.0, range.start, &bytes).await?);
        }
        differing.push(ByteRange::new(both / BLOCK_SIZE * BLOCK_SIZE, sizes[0].max(sizes[1])));
        differing.retain(|range| !range.is_empty());
        if let Some(last) = differing.pop_if(|last| last.end == both && sizes[0] == sizes[1]) {
            // The short last block, which both have.
            let bytes = from.read(one.0, last).await?;
            differing.extend(to.differing(other.0, last.start, &bytes).await?);
        }
        Ok(merged(differing))
    }

    async fn verify(&self, point: &PointId, progress: Arc<dyn Progress>) -> Result<VerifyReport> {
        verify::read_all(&*self.reader(point).await?, &*progress).await
    }

    async fn repair(&self, damaged: &[DamagedPoint], _: VmDisks<'_>) -> Result<Vec<Mended>> {
        let mended = |point: &DamagedPoint, damage: &Damage| Mended {
            point: point.point.clone(),
            disk: damage.disk.clone(),
            range: damage.range,
            effect: damage.effect,
            repair: Repair::Not("what keeps the point can mend it, and remora cannot".into()),
        };
        Ok(damaged.iter().flat_map(|point| point.damage.iter().map(move |damage| mended(point, damage))).collect())
    }
}

/// Neighbours joined.
fn merged(ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    let mut merged: Vec<ByteRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}
