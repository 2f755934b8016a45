//! Reading points back, long after they were stored.

use futures::TryStreamExt;
use remora_core::point::Point;
use remora_core::ports::{Damage, DiskIndex, Effect, Listing, PointReader, Progress, VerifyReport};
use remora_core::{ByteRange, ErrorKind, PointId, Result, VmName};

use super::VolumeMover;
use super::catalogue::Catalogue;
use super::reader::Reader;

/// Verifies any number of points of one listing: listing costs a request for each point that there is, and more.
pub struct VolumeVerifier {
    mover: VolumeMover,
    vm: Option<VmName>,
    catalogue: Catalogue,
}

impl VolumeMover {
    /// What verifies the points that there are now, of one machine or of all.
    pub async fn verifier(&self, vm: Option<&VmName>) -> Result<VolumeVerifier> {
        Ok(VolumeVerifier { mover: self.clone(), vm: vm.cloned(), catalogue: self.catalogue(vm).await? })
    }
}

impl VolumeVerifier {
    /// All that the mover may see.
    pub fn listing(&self) -> Listing {
        self.mover.seen(self.catalogue.listing())
    }

    /// One of them.
    pub fn find(&self, point: &PointId) -> Result<&Point> {
        let found = &self.catalogue.find(point)?.point;
        self.mover.granted(&found.vm).map(|()| found)
    }

    /// Reads all of a point. Damage is in the report. One that was dropped meanwhile is `NotFound`.
    pub async fn point(&self, point: &PointId, progress: &dyn Progress) -> Result<VerifyReport> {
        let read = async { read_all(&*self.mover.reader_of(&self.catalogue, point).await?, progress).await };
        let found = read.await;
        if found.as_ref().is_ok_and(|report| report.damage.is_empty()) {
            return found;
        }
        // Whoever drops a point unlists it before anything of it goes.
        match self.mover.catalogue(self.vm.as_ref()).await.map(|now| now.find(point).map(drop)) {
            Ok(Err(gone)) if gone.kind() == ErrorKind::NotFound => Err(gone),
            _ => found,
        }
    }
}

/// Reads everything. Other bytes than were stored are noticed in the windows whose digests are known.
pub(super) async fn read_all(reader: &Reader, progress: &dyn Progress) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    progress.expect(reader.point().size());
    for (n, disk) in reader.point().disks.iter().enumerate() {
        let mut pieces = reader.pieces(DiskIndex(n), ByteRange::new(0, disk.size));
        let mut at = 0;
        loop {
            match pieces.try_next().await {
                Ok(Some(piece)) => {
                    let end = piece.at + piece.data.len() as u64;
                    report.checked += piece.data.len() as u64;
                    progress.advance(end - at);
                    at = end;
                }
                Ok(None) => break progress.advance(disk.size - at),
                // Whoever cannot read says nothing of what is there.
                Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
                Err(error) => {
                    let range = ByteRange::new(at, disk.size);
                    let (disk, object) = (disk.name.clone(), reader.point().id.to_string());
                    report.damage.push(Damage { disk, range, effect: Effect::Lost, object, why: error.chain() });
                    break;
                }
            }
        }
    }
    Ok(report)
}
