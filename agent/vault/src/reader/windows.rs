//! All of a disk in order, with many fetches in flight.

use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use remora_core::ports::DiskIndex;
use remora_core::{ByteRange, PIECE_SIZE};

use super::{ChunkRun, Found, Loaded, Reader, chunk_runs};
use crate::map::node::LEAF_BYTES;

#[cfg(test)]
mod tests;

/// What is fetched, opened and handed on as one. No chunk crosses its end, and a full backup's chunk fills it: a fetch
/// stays short however well the disk compresses, so that the memory for those in flight is known.
const WINDOW: u64 = PIECE_SIZE;

/// Windows at work. More than the 16 fetches that a store far away needs in flight, for some windows are opened
/// meanwhile, and some wait for the one before them. Together they fit into the default budget.
const WINDOWS: usize = 40;

/// Leaves that are fetched together, and after how many the next ones are: before they are needed.
const LEAVES_AHEAD: u64 = 16;
const LEAVES_BETWEEN: u64 = 8;

/// What is done for a part of the disk.
enum Step {
    /// Leaves are fetched that the steps after this one will need.
    ReadAhead(Range<u64>),
    /// The runs of chunks of a window.
    Load(Vec<ChunkRun>),
    /// Nothing is known of the part.
    Lost(Found),
}

impl Reader {
    /// The data of a range in order, and what of it is lost, with many fetches in flight.
    pub(crate) fn windows(&self, disk: DiskIndex, range: ByteRange) -> BoxStream<'_, Found> {
        if let Err(error) = self.check_range(disk, range) {
            return stream::iter([Found { range, data: Err(error) }]).boxed();
        }
        let leaves = range.start / LEAF_BYTES..range.end.div_ceil(LEAF_BYTES);
        let steps = stream::iter(range.split(LEAF_BYTES)).then(move |part| {
            let leaves = leaves.clone();
            async move { stream::iter(self.steps(disk, part, leaves).await) }
        });
        steps.flatten().map(move |step| self.take(disk, step)).buffered(WINDOWS).flatten().boxed()
    }

    /// The steps for a part of the disk within one leaf. Windows without data need none.
    async fn steps(&self, disk: DiskIndex, part: ByteRange, leaves: Range<u64>) -> Vec<Step> {
        let leaf = match self.leaf_over(disk, part).await {
            Ok(leaf) => leaf,
            Err(error) => return vec![Step::Lost(Found { range: part, data: Err(error) })],
        };
        let mut steps = Vec::new();
        let index = part.start / LEAF_BYTES;
        if (index - leaves.start).is_multiple_of(LEAVES_BETWEEN) {
            steps.push(Step::ReadAhead(index + 1..leaves.end.min(index + 1 + LEAVES_AHEAD)));
        }
        let windows = part.split(WINDOW).map(|window| chunk_runs(&leaf, window).collect::<Vec<_>>());
        steps.extend(windows.filter(|runs| !runs.is_empty()).map(Step::Load));
        steps
    }

    async fn take(&self, disk: DiskIndex, step: Step) -> impl Stream<Item = Found> {
        let (reserved, found) = match step {
            Step::ReadAhead(leaves) => {
                self.map(disk).read_ahead(leaves).await;
                (None, Vec::new())
            }
            Step::Load(runs) => {
                // Held until the window's last piece is taken; as much again for the sealed bytes.
                let reserved = self.vault.options.memory.reserve(2 * WINDOW).await;
                (Some(reserved), self.found(disk, &runs).await)
            }
            Step::Lost(found) => (None, vec![found]),
        };
        stream::iter(found).map(move |found| {
            let _held = &reserved;
            found
        })
    }

    /// Loads runs: their data in order, and what of it is lost.
    async fn found(&self, disk: DiskIndex, runs: &[ChunkRun]) -> Vec<Found> {
        let loaded = self.load(runs.iter().map(|run| run.chunk)).await;
        let missing = |run: &ChunkRun| -> Loaded { Err(Arc::new(self.short(run))) };
        let found = |run: &ChunkRun| {
            let chunk = loaded.get(&run.chunk).cloned().unwrap_or_else(|| missing(run));
            let found = |run: ChunkRun| Found { range: run.range, data: self.part(disk, &run, &chunk) };
            run.cut_at_losses(&chunk).into_iter().map(found).collect::<Vec<_>>()
        };
        runs.iter().flat_map(found).collect()
    }
}
