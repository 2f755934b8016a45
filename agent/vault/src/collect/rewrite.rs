//! Rewriting segments that are mostly dead.

use remora_core::{ErrorKind, Result};

use crate::collect::reach::Reach;
use crate::map::node::RecordRef;
use crate::names::SegmentId;
use crate::repository::Repository;
use crate::segment::build;
use crate::segment::footer::Holds;
use crate::segment::read::Segments;
use crate::store::Created;

/// What a rewrite is about.
pub(super) struct Rewrite {
    pub(super) id: SegmentId,
    /// The newest generation that there is.
    pub(super) generation: u32,
    /// The numbers of the records that are needed.
    live: Vec<u32>,
    /// Bytes of records that are not.
    pub(super) dead_bytes: u64,
}

/// What there is of the next generation.
enum Next {
    /// All that is needed.
    Complete,
    /// Not all of it, or another collection is further.
    Incomplete,
}

impl Rewrite {
    /// What to rewrite a segment to, if more than half of its bytes is not needed.
    pub(super) async fn plan(
        segments: &Segments,
        id: SegmentId,
        generation: u32,
        needed: [&Reach; 2],
    ) -> Result<Option<Self>> {
        let segment = segments.load(id, generation).await?;
        let (mut live, mut live_bytes, mut dead_bytes) = (Vec::new(), 0, 0);
        for record in &segment.index.records {
            let reached = |reach: &&Reach| reach.has(RecordRef { segment: id, number: record.number });
            if needed.iter().any(reached) {
                live.push(record.number);
                live_bytes += u64::from(record.stored_len);
            } else {
                dead_bytes += u64::from(record.stored_len);
            }
        }
        Ok((dead_bytes > live_bytes).then_some(Self { id, generation, live, dead_bytes }))
    }

    /// Stores the next generation, and removes this one. Whoever stored the next one first saw at least the records that
    /// are needed now, for what is needed only shrinks; that is nevertheless checked before this one goes.
    pub(super) async fn run(&self, vault: &Repository, segments: &Segments) -> Result<()> {
        match self.store_next(vault, segments).await {
            // It may be locked: a later collection finds what is in the way.
            Ok(Next::Complete) if vault.keeps_versions() => Ok(()),
            Ok(Next::Complete) => vault.store.remove(&segments.generation_name(self.id, self.generation)).await,
            Ok(Next::Incomplete) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(error = error.chain(), "a segment that is mostly dead stays as it is");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn store_next(&self, vault: &Repository, segments: &Segments) -> Result<Next> {
        let Some(built) = self.build(vault, segments).await? else { return Ok(Next::Incomplete) };
        let name = segments.generation_name(self.id, self.generation + 1);
        let created = vault.store.create(&name, built.into()).await?;
        let stored = segments.load(self.id, self.generation + 1).await?;
        let complete = self.live.iter().all(|number| stored.index.record(*number).is_some());
        // A mover's store looked at a few places of it, and at another collection's nobody did; and the one that was read in full
        // goes.
        let is_unread = vault.store.is_behind_a_mover() || created == Created::NameTaken;
        if complete && is_unread && !segments.can_replace(&vault.workers, &stored, &self.live).await? {
            return Err(segments.damaged_in(&stored, "it has other bytes than were stored"));
        }
        Ok(if complete { Next::Complete } else { Next::Incomplete })
    }

    /// The segment without the records that nothing needs: ciphertext and numbers unchanged. None if it went meanwhile.
    async fn build(&self, vault: &Repository, segments: &Segments) -> Result<Option<bytes::Bytes>> {
        let segment = segments.load(self.id, self.generation).await?;
        let Some(sealed) = segments.fetch_of(&segment, &self.live).await? else { return Ok(None) };
        for record in &sealed {
            // What was fetched wrong must not replace what is stored right.
            record.open().map_err(|e| segments.damaged(self.id, e))?;
        }
        let details = match segment.index.holds {
            Holds::Nodes => Vec::new(),
            Holds::Chunks => {
                let Some(all) = segments.load_details(&segment).await? else { return Ok(None) };
                let place = |number: &u32| segment.index.record(*number).and_then(|(place, _)| all.get(place)).cloned();
                self.live.iter().filter_map(place).collect()
            }
        };
        let records: Vec<_> = sealed.iter().map(|sealed| (sealed.record(), sealed.stored())).collect();
        Ok(Some(build::rebuild(&vault.keys, &segments.place(self.id), &segment.index, &records, &details).into()))
    }
}
