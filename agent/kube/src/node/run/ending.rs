//! What follows the worker's end: its backup goes, and the outcome is written.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use remora_core::{Error, ErrorKind};
use remora_source::kubevirt::QUEUED;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Driven, Early, Outcome};
use crate::node::again::LastWords;
use crate::node::cluster::is_there;
use crate::node::{Done, Failure, Worker};

/// How long the end of a run waits for its `VirtualMachineBackup` to be gone. The point does not depend on it.
const GONE: Duration = Duration::from_mins(2);

/// How long the repository is asked whether the point was committed.
const LOOK: Duration = Duration::from_mins(5);

impl<W: Worker> Driven<W> {
    /// Writes how the run ended.
    pub(super) async fn end(mut self, result: Result<Done, Failure>) -> Outcome {
        if let Some(Early::Lost(lost)) = self.early {
            let made = result.ok().map(|done| done.point.id.to_string());
            tracing::warn!(run = self.run.desk.order.full_name(), made, "{lost}: nothing is written of it any more");
            return Outcome::Lost;
        }
        let result = self.or_committed(result).await;
        if matches!(self.early, Some(Early::Lost(_))) {
            return Outcome::Lost;
        }
        match (self.early, &result) {
            (Some(Early::Stopping), Err(_)) => return self.give_back().await,
            (None, Err(failure)) if failure.reason() == QUEUED => {
                let why = failure.message();
                return self.wait_without_agent(&why).await;
            }
            _ => {}
        }
        self.remove_backup().await;
        match result {
            Ok(done) => self.complete(done).await,
            Err(failure) => self.fail(failure).await,
        }
    }

    /// There is a point.
    async fn complete(mut self, done: Done) -> Outcome {
        self.run.record.said.completed(&done, Timestamp::now());
        if !self.write_all().await {
            return Outcome::Lost;
        }
        let stored = format!("point {} ({}) is stored", done.point.id, done.point.decision);
        // What is not as it should be concerns the machine's owner too.
        let note = [stored].into_iter().chain(done.notes).collect::<Vec<_>>().join("; ");
        self.run.teller.stored(&self.run.object, &note).await;
        Outcome::Stored
    }

    /// There is none.
    async fn fail(mut self, failure: Failure) -> Outcome {
        let failure = self.why(failure);
        tracing::error!(run = self.run.desk.order.full_name(), reason = failure.reason(), "{}", failure.message());
        self.run.record.said.failed(&failure, Timestamp::now());
        if !self.write_all().await {
            return Outcome::Lost;
        }
        self.run.teller.failed(&self.run.object, failure.reason(), &failure.message()).await;
        // The controller counts it by the same word.
        if failure.reason() == "Cancelled" { Outcome::Cancelled } else { Outcome::Failed }
    }

    /// Where it is not known whether the point was committed, the repository knows.
    async fn or_committed(&mut self, result: Result<Done, Failure>) -> Result<Done, Failure> {
        let Err(failure) = result else { return result };
        let unknown = matches!(failure.kind(), ErrorKind::Unavailable | ErrorKind::Failed);
        let Some(attempt) = self.run.record.attempt().filter(|_| unknown) else { return Err(failure) };
        let (worker, order) = (Arc::clone(&self.run.worker), self.run.desk.order.clone());
        let (mut asked, stopping) = (pin!(timeout(LOOK, worker.committed(&order, &attempt))), self.stopping.clone());
        let found = loop {
            tokio::select! {
                found = &mut asked => break found.ok().and_then(Result::ok).flatten(),
                () = stopping.cancelled() => break None,
                // A repository that answers slowly is no dead agent.
                () = sleep_until(self.writing.next_beat.max(self.writing.next_try)) => self.try_write().await,
            }
        };
        match found {
            Some(point) => Ok(Done { point, notes: vec![failure.message()], left: None }),
            None => Err(failure),
        }
    }

    /// What people are told of an end that somebody asked for.
    fn why(&self, failure: Failure) -> Failure {
        if failure.kind() != ErrorKind::Cancelled {
            return failure;
        }
        let error = |what: &str| Error::new(ErrorKind::Cancelled, what);
        match self.early {
            Some(Early::Cancelled) => Failure::because("Cancelled", error("the run was cancelled or deleted")),
            Some(Early::DeadlineExceeded) => {
                let deadline = &self.run.object.spec.deadline;
                let what = format!("the run was not done within its deadline of {deadline}");
                let error = error(&what).advise("Create another BackupRun, with a longer `deadline` if it needs one.");
                Failure::because("DeadlineExceeded", error)
            }
            Some(Early::Stopping | Early::Lost(_)) | None => failure,
        }
    }

    async fn give_back(mut self) -> Outcome {
        self.run.record.said.end_any_attempt();
        self.run.record.said.given_back(Timestamp::now());
        if self.write_all().await { Outcome::GivenBack } else { Outcome::Lost }
    }

    /// What only waits keeps no other run from this node's places. The controller gives it to a node again once nothing is in
    /// its way.
    async fn wait_without_agent(mut self, why: &str) -> Outcome {
        tracing::info!(run = self.run.desk.order.full_name(), why, "the run is given back: it only waits");
        self.run.record.said.end_any_attempt();
        self.run.record.said.waits(why, Timestamp::now());
        if !self.write_all().await {
            return Outcome::Lost;
        }
        self.run.teller.waits(&self.run.object, why).await;
        Outcome::GivenBack
    }

    /// Lets go of the attempt, and waits until KubeVirt's backup is gone: who sees the run ended may begin another one.
    async fn remove_backup(&mut self) {
        let Some(backup) = self.run.record.attempt() else { return };
        if self.run.record.said.end_any_attempt() && !self.write_all().await {
            return;
        }
        let began = Instant::now();
        while !self.stopping.is_cancelled() && began.elapsed() < GONE {
            // Who cannot be asked may have it still.
            if !is_there(&self.run.desk, &backup).await.unwrap_or(true) {
                return;
            }
            if self.writing.next_beat <= Instant::now() {
                self.try_write().await;
            }
            sleep(Duration::from_secs(1)).await;
        }
        tracing::warn!(%backup, "the VirtualMachineBackup is not gone; the run ends all the same");
    }

    /// Writes what is said, whatever it takes; false if it is not to be written, or the agent has to stop before it could.
    async fn write_all(&mut self) -> bool {
        self.write_soon();
        let mut last_words = LastWords::default();
        while self.writing.unwritten {
            if last_words.are_over(&self.stopping) {
                return false;
            }
            sleep_until(self.writing.next_try).await;
            self.try_write().await;
        }
        !matches!(self.early, Some(Early::Lost(_)))
    }
}
