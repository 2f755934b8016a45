//! What a simulation switches in the product, for its own thread: where randomness comes from, that CPU work stays on
//! the thread, and known bugs of others, put back in to see that they are found.

use std::cell::{Cell, RefCell};

use remora_core::Result;
use remora_core::ports::History;

use crate::names::Folder;
use crate::repository::Repository;
use crate::segment::footer::Holds;
use crate::sequence::Sequence;

/// A bug by which other backup programs lost data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Segments are named by what they hold, and one that exists is not stored again, though it may be an orphan that a
    /// collection is about to remove.
    SkipIfExists,
    /// A collection looks at the sessions before it lists the segments, and not again.
    SessionsNotLookedAtAgain,
    /// A writer that slept does not look whether it was held for dead before it commits.
    EndedWriterCommits,
    /// The newest point is the one with the latest time.
    NewestByTime,
}

thread_local! {
    static RANDOM: RefCell<Option<fastrand::Rng>> = const { RefCell::new(None) };
    static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
}

tokio::task_local! {
    /// What a writer is about to store, as a number.
    pub(super) static CONTENT: u64;
}

/// While it lives, the thread simulates.
pub(super) struct Simulating;

impl Simulating {
    pub(super) fn begin(seed: u64, bug: Option<Bug>) -> Self {
        RANDOM.set(Some(fastrand::Rng::with_seed(seed)));
        BUG.set(bug);
        Self
    }
}

impl Drop for Simulating {
    fn drop(&mut self) {
        RANDOM.set(None);
        BUG.set(None);
    }
}

/// Whether this thread simulates.
pub(crate) fn is_running() -> bool {
    RANDOM.with_borrow(Option::is_some)
}

/// Whether this thread has that bug.
pub(crate) fn has(bug: Bug) -> bool {
    BUG.get() == Some(bug)
}

/// The simulation's random bytes; none if this thread does not simulate.
pub(crate) fn random<const N: usize>() -> Option<[u8; N]> {
    RANDOM.with_borrow_mut(|random| {
        let mut bytes = [0; N];
        random.as_mut()?.fill(&mut bytes);
        Some(bytes)
    })
}

/// The id and salt of a segment that is named by what it holds; none without that bug.
pub(crate) fn named_by_content(holds: Holds) -> Option<([u8; 16], [u8; 32])> {
    let content = CONTENT.try_with(|content| *content).ok().filter(|_| has(Bug::SkipIfExists))?;
    let mut bytes = fastrand::Rng::with_seed(content ^ holds as u64);
    let (mut id, mut salt) = ([0; 16], [0; 32]);
    bytes.fill(&mut id);
    bytes.fill(&mut salt);
    Some((id, salt))
}

/// What [`Repository::newest`] would find with that bug.
pub(crate) async fn newest_by_time(vault: &Repository, vm: Folder, sequence: &Sequence) -> Result<History> {
    let mut points = Vec::new();
    for number in sequence.counting() {
        points.extend(vault.manifest(vm, number).await?.and_then(|stored| stored.manifest.into_point()));
    }
    let newest = points.into_iter().map(|entry| entry.point).max_by_key(|point| point.time);
    Ok(History { newest, ..History::default() })
}
