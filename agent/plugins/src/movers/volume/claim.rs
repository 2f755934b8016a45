//! Who is at a point: so that hosts that back up machines of one name keep out of each other's way, and so that what a run that
//! died left goes.
//!
//! A run stores a note of itself (`…-begun`) at a number that is free, and then looks again: of two that took one number at least
//! one sees the other, and whoever sees another takes its note back and tries a higher number. So each number is one run's alone.
//! What a run stores is called by a name of its own besides, so that even a store that lists late costs a number twice, and no bytes.
//!
//! Only the run itself removes what it stored, or gives it up. What is left when it could not is removed by a later one, once it is
//! certain that nobody is at it: the process was one of this host and is gone; or it is this very process, which knows; or it
//! began a week ago, for a run that is older than six days lists no point any more. Clocks that are a day apart do no harm.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use remora_core::{Error, ErrorKind, Result, VmName};
use remora_process::Process;
use serde::{Deserialize, Serialize};

use super::Inner;
use super::catalogue::{Catalogue, note};
use super::names::{Attempt, point_id};

/// A run lists no point after this.
const LONGEST_RUN: Duration = Duration::from_hours(6 * 24);

/// A run that began before this is over, whoever it was.
const OVER_AFTER: Duration = Duration::from_hours(7 * 24);

/// Numbers that are tried before a run gives up.
const TRIES: u32 = 8;

/// What this process is at.
static AT_WORK: LazyLock<Mutex<HashSet<Attempt>>> = LazyLock::new(Mutex::default);

fn at_work() -> MutexGuard<'static, HashSet<Attempt>> {
    AT_WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run notes of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begun {
    /// By its own clock.
    began: Timestamp,
    /// Whose it is; none if the host does not tell.
    process: Option<Process>,
}

impl Begun {
    /// Whether it is certain that nobody is at it any more. In doubt somebody is.
    fn is_over(&self, attempt: &Attempt, now: Timestamp) -> bool {
        let gone = match &self.process {
            Some(process) if Some(process) == Process::this().as_ref() => !at_work().contains(attempt),
            Some(process) => process.is_gone(),
            None => false,
        };
        gone || now.duration_since(self.began).unsigned_abs() > OVER_AFTER && now > self.began
    }
}

/// A number that is this run's alone.
pub(super) struct Claim {
    pub(super) attempt: Attempt,
    began: Timestamp,
}

impl Claim {
    pub(super) fn new(attempt: Attempt) -> Self {
        at_work().insert(attempt.clone());
        Self { attempt, began: Timestamp::now() }
    }

    /// Another run might take it for dead soon.
    pub(super) fn is_in_time(&self) -> Result<()> {
        if Timestamp::now().duration_since(self.began).unsigned_abs() < LONGEST_RUN {
            return Ok(());
        }
        let what =
            format!("the run of point {} took longer than six days, or the clock was changed", self.attempt.point);
        Err(Error::new(ErrorKind::Failed, what).advise("Run this again: other hosts take so old a run for dead."))
    }
}

impl Drop for Claim {
    /// What is still stored of it then, a later run removes.
    fn drop(&mut self) {
        at_work().remove(&self.attempt);
    }
}

impl Inner {
    /// Takes a number for a new point; what there is besides.
    pub(super) async fn claim(&self, vm: &VmName) -> Result<(Claim, Catalogue)> {
        let mut seen = self.catalogue(Some(vm)).await?;
        self.remove_what_dead_runs_left(vm, &seen).await;
        for tried in 0..TRIES {
            // Two that meet must not meet again.
            let further = fastrand::u64(..1 << tried);
            let claim = Claim::new(Attempt::new(point_id(self.repository, vm, seen.next() + further)?));
            self.begin_at(&claim, vm).await?;
            seen = self.catalogue(Some(vm)).await?;
            if !seen.has_begun(&claim.attempt) {
                let what =
                    format!("it says that it stored the note of point {}, and does not list it", claim.attempt.point);
                return Err(self.calls.lie(&what));
            }
            if seen.is_alone(&claim.attempt) {
                return Ok((claim, seen));
            }
            self.calls.delete(&claim.attempt.begun()).await?;
        }
        let what = format!("other hosts began points of the VM {:?} in the same instant, {TRIES} times", vm.as_str());
        Err(Error::new(ErrorKind::Busy, what).advise("Run this again."))
    }

    /// Notes that this process is at it.
    pub(super) async fn begin_at(&self, claim: &Claim, vm: &VmName) -> Result<()> {
        let begun = Begun { began: claim.began, process: Process::this() };
        self.note(note(claim.attempt.begun(), vm, claim.began, serde_json::to_vec(&begun))?).await
    }

    /// What fails is tried by the next run again, and costs room meanwhile.
    async fn remove_what_dead_runs_left(&self, vm: &VmName, seen: &Catalogue) {
        let now = Timestamp::now();
        for (attempt, _) in seen.begun().filter(|(attempt, begun)| begun.is_over(attempt, now)) {
            tracing::info!(point = %attempt, "what a run that died left is removed");
            if let Err(error) = self.remove_of_dead(vm, attempt).await {
                tracing::warn!(point = %attempt, error = error.chain(), "what a run that died left stays for now");
            }
        }
    }

    async fn remove_of_dead(&self, vm: &VmName, attempt: &Attempt) -> Result<()> {
        // Before its end, and after it was last looked at, it may have noted its point.
        let seen = self.catalogue(Some(vm)).await?;
        if !seen.has_begun(attempt) {
            return Ok(());
        }
        // A point that was noted is one; its run only died before it could take its note back.
        if !(seen.has_checked(attempt) && seen.has_disks(attempt)) {
            self.calls.delete(&attempt.checked()).await?;
            if !seen.has_disks(attempt) {
                // What was never committed is in no list: begun anew, it can be given up.
                let anew = note(attempt.to_string(), vm, Timestamp::now(), Ok(Vec::new()))?;
                let begun = self.calls.begin(anew).await?;
                self.calls.abort(&begun).await?;
            }
            self.calls.delete(&attempt.to_string()).await?;
        }
        self.calls.delete(&attempt.begun()).await
    }

    /// Removes what this run stored. The note that a run is at it goes last: so whatever is left is found.
    pub(super) async fn remove(&self, claim: &Claim) -> Result<()> {
        let attempt = &claim.attempt;
        // The first one makes a point of the second.
        let checked = self.calls.delete(&attempt.checked()).await;
        checked.and(self.calls.delete(&attempt.to_string()).await)?;
        self.calls.delete(&attempt.begun()).await
    }

    /// Lets go of a point that is noted.
    pub(super) async fn let_go(&self, claim: &Claim) {
        if let Err(error) = self.calls.delete(&claim.attempt.begun()).await {
            tracing::warn!(point = %claim.attempt, error = error.chain(), "the note of its run stays for now");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> Attempt {
        Attempt::new("0123456789abcdef-7".parse().unwrap())
    }

    fn hours_ago(hours: i64) -> Timestamp {
        Timestamp::now() - jiff::SignedDuration::from_hours(hours)
    }

    #[test]
    fn a_run_of_this_process_is_over_once_it_has_let_go() {
        let claim = Claim::new(attempt());
        let begun = Begun { began: claim.began, process: Process::this() };
        assert!(begun.process.is_some());
        assert!(!begun.is_over(&claim.attempt, Timestamp::now()));
        let attempt = claim.attempt.clone();
        drop(claim);
        assert!(begun.is_over(&attempt, Timestamp::now()));
    }

    #[test]
    fn another_hosts_run_is_over_after_a_week_and_one_of_a_clock_that_is_ahead_is_not() {
        let elsewhere = Process::this().map(|this| Process { boot: "another".into(), ..this });
        for process in [elsewhere, None] {
            let over = |began| Begun { began, process: process.clone() }.is_over(&attempt(), Timestamp::now());
            assert!(!over(Timestamp::now()) && !over(hours_ago(6 * 24)) && !over(hours_ago(-30 * 24)));
            assert!(over(hours_ago(7 * 24 + 1)));
        }
    }

    #[test]
    fn a_run_of_six_days_lists_nothing_while_it_counts_as_alive() {
        let at = |hours| Claim { attempt: attempt(), began: hours_ago(hours) };
        assert!(at(0).is_in_time().is_ok() && at(5 * 24).is_in_time().is_ok());
        let late = at(6 * 24 + 1);
        assert!(late.is_in_time().is_err());
        let begun = Begun { began: late.began, process: None };
        assert!(!begun.is_over(&late.attempt, Timestamp::now()));
    }
}
