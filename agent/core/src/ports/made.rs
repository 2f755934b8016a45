//! The point that comes of what was known when its writing began, and of what the run then read and stored.

use super::{DiskReads, NewDisk, NewPoint};
use crate::name::{PointId, RepositoryId};
use crate::point::{Decision, Point, PointDisk};

impl NewPoint {
    /// The point that it became in a repository. `disks` tells of each disk, in order, what was read and how many bytes were stored.
    pub fn point(
        &self,
        id: PointId,
        repository: RepositoryId,
        disks: impl IntoIterator<Item = (DiskReads, u64)>,
    ) -> Point {
        let disks: Vec<_> =
            self.disks.iter().zip(disks).map(|(new, (reads, stored))| new.disk(reads, stored)).collect();
        let costliest = disks.iter().max_by_key(|disk| disk.decision);
        Point {
            id,
            repository: self.origin.as_ref().map_or(repository, |origin| origin.repository),
            copy_of: self.origin.as_ref().map(|origin| origin.point.clone()),
            vm: self.vm.clone(),
            time: self.time,
            parent: self.parent.clone(),
            decision: costliest.map_or(Decision::Full, |disk| disk.decision),
            reason: costliest.map_or_else(String::new, |disk| disk.reason.clone()),
            quiesced: self.quiesced,
            stored: disks.iter().map(|disk| disk.stored).sum(),
            definition: self.definition.clone(),
            tool: self.tool.clone(),
            disks,
        }
    }
}

impl NewDisk {
    fn disk(&self, reads: DiskReads, stored: u64) -> PointDisk {
        let Self { name, size, identity, lineage, checkpoint, instance, read_in_full, decision, reason } = self.clone();
        let DiskReads { read, rewritten } = reads;
        PointDisk {
            name,
            size,
            identity,
            lineage,
            checkpoint,
            instance,
            read_in_full,
            decision,
            reason,
            read,
            stored,
            rewritten,
        }
    }
}
