//! A backup run: `plan → open → check → copy → commit → advance → done`.
//!
//! Every state can be left by an error: what was opened is then closed, and nothing of the run stays behind but the
//! message. After a crash the next claim cleans up instead. The order of calls is that of [`remora_core::ports`].

mod advance;
mod check;
mod copy;
mod open;
mod plan;
mod sample;
mod windows;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use remora_core::plan::{Asked, DiskPlan};
use remora_core::point::{Decision, Point, Quiesce};
use remora_core::ports::{
    ClaimedVm, DiskReads, DiskState, History, Mover, OpenVm, Outcome, Patience, PointWriter, Progress, Source,
};
use remora_core::{CheckpointName, DiskName, Error, ErrorKind, MemoryBudget, Result, VmName};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How many unchanged blocks of each increment are read and compared by default.
pub const SPOT_CHECKS: usize = 16;

/// Bytes of pieces that a backup holds at once by default.
pub const PIECES: u64 = 32 * 1024 * 1024;

/// What to back up, and how.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// The VM.
    pub vm: VmName,
    /// The disks; all if none.
    pub disks: Option<Vec<DiskName>>,
    /// Whether more than the cheapest is wanted.
    pub asked: Asked,
    /// What to ask of the guest.
    pub quiesce: Quiesce,
    /// How long to wait for somebody else's job.
    pub patience: Patience,
    /// How many unchanged blocks of each increment to compare with the parent; see [`SPOT_CHECKS`].
    pub spot_checks: usize,
    /// What the pieces in flight are taken from; see [`PIECES`]. Not the budget that the mover draws on: a piece is held
    /// while the mover works on it.
    pub memory: MemoryBudget,
}

/// What a successful run did.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// The new point.
    pub point: Point,
    /// How long the run took, in seconds.
    pub seconds: f64,
    /// What the caller should know beside the point, as sentences: what went another way than planned.
    pub notes: Vec<String>,
    /// Why checkpoints that no point needs may have stayed, if they may; one of the notes says it too.
    pub left: Option<String>,
}

/// Makes a new point of a VM.
///
/// Fails with the kind of what failed; the message names the state. Nothing of the run is left then, but for one
/// case: when the store broke off during the commit (`Unavailable`), the point may exist, and both checkpoints stay
/// until the next run.
pub async fn backup(
    source: &dyn Source,
    mover: &dyn Mover,
    request: BackupRequest,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<BackupReport> {
    let span = tracing::info_span!("backup", vm = ?request.vm.as_str());
    let mut run = Run {
        source,
        mover,
        request,
        progress,
        cancel,
        began: Instant::now(),
        notes: Vec::new(),
        on_failure: Outcome::Abandoned,
        opened: None,
        claimed: None,
        history: History::default(),
    };
    run.drive().instrument(span).await
}

/// Where a run is, with what the state needs of the ones before.
enum State {
    /// Claim the VM and decide for each disk.
    Plan,
    /// Open one instant, and settle what only the open view can tell.
    Open(Vec<DiskRun>),
    /// Compare some unchanged blocks with the parent's.
    Check(Vec<DiskRun>),
    /// Read what is to be read and hand it to the mover.
    Copy(Vec<DiskRun>),
    /// Make the point visible.
    Commit(Box<dyn PointWriter>, Vec<DiskReads>),
    /// Close the view and remove the checkpoints that no increment will need.
    Advance(Box<Point>),
    /// Over.
    Done(Box<BackupReport>),
}

impl State {
    /// The name in spans.
    const fn name(&self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Open(_) => "open",
            Self::Check(_) => "check",
            Self::Copy(_) => "copy",
            Self::Commit(..) => "commit",
            Self::Advance(_) => "advance",
            Self::Done(_) => "done",
        }
    }
}

/// A chosen disk on its way through the states.
struct DiskRun {
    state: DiskState,
    plan: DiskPlan,
    /// Its size in the open view.
    size: u64,
    /// The new checkpoint, if the view has it.
    checkpoint: Option<CheckpointName>,
    /// The bytes that the map of an increment calls changed.
    changed: u64,
    /// The bytes read so far.
    reads: DiskReads,
}

impl DiskRun {
    fn is_incremental(&self) -> bool {
        self.plan.decision == Decision::Incremental
    }
}

/// A run: who it talks to, and what must be given back whichever way it ends.
struct Run<'a> {
    source: &'a dyn Source,
    mover: &'a dyn Mover,
    request: BackupRequest,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
    began: Instant,
    notes: Vec<String>,
    /// What the source is told if the run fails from here on.
    on_failure: Outcome,
    // Dropped in this order: a view never outlives its claim.
    opened: Option<Box<dyn OpenVm>>,
    claimed: Option<Box<dyn ClaimedVm>>,
    history: History,
}

impl Run<'_> {
    async fn drive(&mut self) -> Result<BackupReport> {
        let mut state = State::Plan;
        loop {
            let name = state.name();
            let span = tracing::info_span!("state", state = name);
            span.in_scope(|| tracing::info!("begins"));
            state = match self.next(state).instrument(span).await {
                Ok(State::Done(report)) => return Ok(*report),
                Ok(next) => next,
                Err(error) => {
                    self.give_back().await;
                    return Err(error.within(format!("backup of VM {:?}, {name}", self.request.vm.as_str())));
                }
            };
        }
    }

    async fn next(&mut self, state: State) -> Result<State> {
        Ok(match state {
            State::Plan => State::Open(self.plan().await?),
            State::Open(disks) => State::Check(self.open(disks).await?),
            State::Check(disks) => State::Copy(self.check(disks).await?),
            State::Copy(disks) => {
                let (writer, reads) = self.copy(disks).await?;
                State::Commit(writer, reads)
            }
            State::Commit(writer, reads) => State::Advance(Box::new(self.commit(writer, &reads).await?)),
            State::Advance(point) => State::Done(Box::new(self.advance(*point).await)),
            State::Done(report) => State::Done(report),
        })
    }

    /// Closes what is open after a failure.
    async fn give_back(&mut self) {
        if let Some(opened) = self.opened.take()
            && let Err(error) = opened.close(self.on_failure).await
        {
            tracing::warn!(error = error.chain(), "closing the view failed; the next run of this VM cleans up");
        }
    }

    fn claimed(&self) -> Result<&dyn ClaimedVm> {
        self.claimed.as_deref().ok_or_else(|| broken("the VM is not claimed"))
    }

    fn opened(&self) -> Result<&dyn OpenVm> {
        self.opened.as_deref().ok_or_else(|| broken("the VM is not open"))
    }

    fn note(&mut self, text: String) {
        tracing::info!("{text}");
        self.notes.push(text);
    }
}

/// A promise between the states that does not hold: a bug of ours.
fn broken(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Failed, what)
}
