//! From a disk's map to the steps of its copy, a window at a time: a map may have millions of extents.

use std::collections::VecDeque;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use remora_core::extent::BlockExtents;
use remora_core::ports::{DiskIndex, DiskView, PointWriter};
use remora_core::{ByteRange, Error, Extent, ExtentState, PIECE_SIZE, Result};

use super::broken;

#[cfg(test)]
mod tests;

/// How much of a disk is mapped at once: at most 16,384 extents.
const WINDOW: u64 = 1024 * 1024 * 1024;

/// A small part of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read it and store it: it changed, or may have.
    Read(ByteRange),
    /// Read it and store it again: it did not change, but lies in too many pieces.
    Rewrite(ByteRange),
    /// Note that it is zero.
    Zero(ByteRange),
    /// Note that it is as in the parent.
    Unchanged(ByteRange),
}

/// The map of a disk, rounded to blocks. A map with gaps or of another length is an error.
pub(super) fn block_extents(view: &dyn DiskView) -> BoxStream<'_, Result<Extent>> {
    struct Rounding<'a> {
        source: BoxStream<'a, Result<Extent>>,
        blocks: Option<BlockExtents>,
        ready: VecDeque<Extent>,
        scratch: Vec<Extent>,
        at: u64,
    }
    let size = view.size();
    let start = Rounding {
        source: view.extents(),
        blocks: Some(BlockExtents::new(size)),
        ready: VecDeque::new(),
        scratch: Vec::new(),
        at: 0,
    };
    let rounded = stream::try_unfold(start, move |mut it| async move {
        while it.ready.is_empty() {
            let Some(blocks) = &mut it.blocks else { return Ok(None) };
            match it.source.try_next().await? {
                Some(next) if next.range.start != it.at || next.range.end > size => {
                    return Err(out_of_order(view, next, it.at));
                }
                Some(next) if next.range.is_empty() => {}
                Some(next) => {
                    it.at = next.range.end;
                    blocks.push(next, &mut it.scratch);
                }
                None if it.at != size => {
                    return Err(broken(format!("the map of disk {} ends at {} of {size}", view.name(), it.at)));
                }
                None => it.blocks.take().into_iter().for_each(|blocks| blocks.finish(&mut it.scratch)),
            }
            it.ready.extend(it.scratch.drain(..));
        }
        Ok(it.ready.pop_front().map(|extent| (extent, it)))
    });
    rounded.boxed()
}

fn out_of_order(view: &dyn DiskView, next: Extent, at: u64) -> Error {
    broken(format!("the map of disk {} names {} where byte {at} was due", view.name(), next.range))
}

/// How the steps of a disk are made.
pub(super) struct Stepping<'a> {
    pub(super) view: &'a dyn DiskView,
    pub(super) writer: &'a dyn PointWriter,
    pub(super) disk: DiskIndex,
    /// Whether what the map calls unchanged is believed; read otherwise.
    pub(super) believed: bool,
}

/// All steps of a disk, covering it exactly once; pieces to read cross no multiple of [`PIECE_SIZE`].
pub(super) fn steps(stepping: Stepping<'_>) -> BoxStream<'_, Result<Step>> {
    let windows = Windows { extents: block_extents(stepping.view), rest: None };
    let start = (windows, stepping, Rewriting::default());
    let windows = stream::try_unfold(start, |(mut windows, stepping, mut rewriting)| async move {
        let Some(extents) = windows.next().await? else { return Ok(None) };
        let steps = window_steps(extents, &stepping, &mut rewriting).await?;
        Ok::<_, Error>(Some((stream::iter(steps.into_iter().map(Ok)), (windows, stepping, rewriting))))
    });
    windows.try_flatten().boxed()
}

/// What was spent on rewriting fragmented stretches: at most a quarter of what changed.
#[derive(Default)]
struct Rewriting {
    dirty: u64,
    rewritten: u64,
}

impl Rewriting {
    fn budget(&self) -> u64 {
        (self.dirty / 4).saturating_sub(self.rewritten)
    }
}

/// The map, cut into windows.
struct Windows<'a> {
    extents: BoxStream<'a, Result<Extent>>,
    /// What of the last extent lies beyond its window.
    rest: Option<Extent>,
}

impl Windows<'_> {
    async fn next(&mut self) -> Result<Option<Vec<Extent>>> {
        let mut window: Vec<Extent> = Vec::new();
        loop {
            let next = match self.rest.take() {
                Some(rest) => Some(rest),
                None => self.extents.try_next().await?,
            };
            let Some(next) = next else { return Ok((!window.is_empty()).then_some(window)) };
            let start = window.first().map_or(next.range.start, |first| first.range.start);
            let end = (start / WINDOW + 1) * WINDOW;
            let head = ByteRange::new(next.range.start, next.range.end.min(end));
            if !head.is_empty() {
                window.push(Extent { range: head, ..next });
            }
            if next.range.end >= end {
                let rest = ByteRange::new(head.end.max(next.range.start), next.range.end);
                self.rest = (!rest.is_empty()).then_some(Extent { range: rest, ..next });
                return Ok(Some(window));
            }
        }
    }
}

async fn window_steps(extents: Vec<Extent>, how: &Stepping<'_>, rewriting: &mut Rewriting) -> Result<Vec<Step>> {
    let again = if how.believed { worth_rewriting(&extents, how, rewriting).await? } else { Vec::new() };
    let mut again = again.into_iter().peekable();
    let mut steps = Vec::new();
    for Extent { range, state } in extents {
        match state {
            ExtentState::Zero => steps.push(Step::Zero(range)),
            ExtentState::Unchanged if how.believed => {
                let mut at = range.start;
                while let Some(next) = again.next_if(|next| next.end <= range.end) {
                    push_unchanged(&mut steps, ByteRange::new(at, next.start));
                    steps.extend(next.split(PIECE_SIZE).map(Step::Rewrite));
                    at = next.end;
                }
                push_unchanged(&mut steps, ByteRange::new(at, range.end));
            }
            ExtentState::Unchanged | ExtentState::Data => steps.extend(range.split(PIECE_SIZE).map(Step::Read)),
        }
    }
    if again.next().is_some() {
        return Err(broken("the mover wants to rewrite what is not unchanged"));
    }
    Ok(steps)
}

fn push_unchanged(steps: &mut Vec<Step>, range: ByteRange) {
    if !range.is_empty() {
        steps.push(Step::Unchanged(range));
    }
}

/// Asks the mover which unchanged ranges of a window to store again, cut at the extents' ends.
async fn worth_rewriting(extents: &[Extent], how: &Stepping<'_>, spent: &mut Rewriting) -> Result<Vec<ByteRange>> {
    let of_state = |wanted: fn(ExtentState) -> bool| extents.iter().filter(move |e| wanted(e.state)).map(|e| e.range);
    spent.dirty += of_state(|s| s == ExtentState::Data).map(|range| range.len()).sum::<u64>();
    let changed: Vec<ByteRange> = of_state(|s| s != ExtentState::Unchanged).collect();
    if changed.is_empty() || spent.budget() == 0 {
        return Ok(Vec::new());
    }
    let worth = how.writer.worth_rewriting(how.disk, &changed, spent.budget()).await?;
    let mut cut = Vec::new();
    let mut unchanged = of_state(|s| s == ExtentState::Unchanged).peekable();
    for range in &worth {
        while unchanged.next_if(|u| u.end <= range.start).is_some() {}
        // A range may span several extents; only what of it is unchanged is rewritten.
        while let Some(part) = unchanged.peek().and_then(|u| u.intersect(*range)) {
            cut.push(part);
            if part.end == range.end {
                break;
            }
            unchanged.next();
        }
    }
    spent.rewritten += cut.iter().map(ByteRange::len).sum::<u64>();
    Ok(cut)
}
