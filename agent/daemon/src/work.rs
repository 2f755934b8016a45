//! One run: a backup, then what follows from it: locks, retention, verification.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use remora_core::plan::Asked;
use remora_core::point::Point;
use remora_core::policy::PastRun;
use remora_core::ports::{Mover, NoProgress, Patience};
use remora_core::{Error, ErrorKind, MemoryBudget, Result, VmName};
use remora_engine::{BackupReport, BackupRequest, PIECES, SPOT_CHECKS, backup, or_cancelled};
use remora_plugins::movers::Dropping;
use remora_plugins::set::Generation;
use remora_schedule::Job;
use remora_source::LibvirtSource;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::keepers::{Keepers, prune, tell_dropped};
use crate::metrics::Step;
use crate::repositories::{Opened, Repositories};

/// How long a run waits for somebody else's backup of the VM to end.
const PATIENCE: Duration = Duration::from_mins(10);

/// How long it waits at its end for repositories that are not its own.
const OTHERS: Duration = Duration::from_secs(10);

/// What runs work with.
pub(crate) struct Tools {
    pub(crate) source: LibvirtSource,
    pub(crate) repositories: Repositories,
    pub(crate) policies: watch::Receiver<Arc<Generation>>,
    pub(crate) cancel: CancellationToken,
}

/// What a run did.
pub(crate) struct Done {
    pub(crate) run: PastRun,
    pub(crate) stored: u64,
    /// What failed after the point was made; the point is there all the same.
    pub(crate) problems: Vec<(Step, Error)>,
    pub(crate) dropped: usize,
    /// Whether the newest point was verified and found sound.
    pub(crate) verified: Option<Soundness>,
}

/// What a verification found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Soundness {
    Sound,
    Damaged,
}

impl Tools {
    /// Makes a point, and does what is due after it. `keepers` says what is kept of the VM's points.
    pub(crate) async fn run(&self, job: &Job, keepers: Keepers, verify: Due) -> Result<Done> {
        let started = Instant::now();
        has_no_scratch_class(job.policy.scratch_class.as_deref())?;
        let target = job.policy.target.as_ref();
        let opened = self.repositories.get(target).await?;
        let back_up = |cancel| self.back_up(job, opened.port(), cancel);
        let report = in_time(job.policy.deadline, &self.cancel, back_up).await;
        if report.is_err() {
            self.repositories.forget(target);
        }
        let report = report?;
        let mut done = Done {
            run: past(&report, started),
            stored: report.point.stored,
            problems: Vec::new(),
            dropped: 0,
            verified: None,
        };
        let vm = &report.point.vm;
        if let Opened::Vault(vault) = &*opened
            && let Err(error) = or_cancelled(&self.cancel, vault.renew(vm)).await
        {
            done.problems.push((Step::Lock, error.within("locking what the points need for longer")));
        }
        // Policies that have changed since may keep more: the next run asks them.
        let hold = keepers.hold_in(&self.policies.borrow());
        let pruned = if hold { self.prune(&opened, vm, &keepers).await } else { Ok(0) };
        match pruned {
            Ok(dropped) => done.dropped = dropped,
            Err(error) => done.problems.push((Step::Prune, error.within("pruning"))),
        }
        if verify == Due::Now {
            match self.verify(&opened, &report.point).await {
                Ok(soundness) => done.verified = Some(soundness),
                Err(error) => done.problems.push((Step::Verify, error.within("verifying"))),
            }
        }
        // What is known then is for the next run's retention.
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.repositories.meet_others(OTHERS) => {}
        }
        Ok(done)
    }

    async fn prune(&self, opened: &Opened, vm: &VmName, keepers: &Keepers) -> Result<usize> {
        match opened {
            Opened::Vault(vault) => prune(vault, vm, keepers, &self.cancel).await,
            Opened::Volumes(volumes) => {
                let pruned = or_cancelled(&self.cancel, volumes.prune(Some(vm), keepers, Dropping::Run)).await?;
                Ok(tell_dropped(vm, pruned.iter().flat_map(|(_, points)| points)))
            }
        }
    }

    async fn back_up(&self, job: &Job, mover: &dyn Mover, cancel: CancellationToken) -> Result<BackupReport> {
        let request = BackupRequest {
            vm: job.vm.name.clone(),
            disks: None,
            asked: Asked::Auto,
            quiesce: job.policy.quiesce,
            patience: Patience::Wait(PATIENCE),
            spot_checks: SPOT_CHECKS,
            memory: MemoryBudget::new(PIECES),
        };
        backup(&self.source, mover, request, Arc::new(NoProgress), cancel).await
    }

    async fn verify(&self, opened: &Opened, point: &Point) -> Result<Soundness> {
        let verifying = async {
            match opened {
                Opened::Vault(vault) => vault.verify(&point.id, Arc::new(NoProgress)).await,
                Opened::Volumes(volumes) => {
                    volumes.verifier(Some(&point.vm)).await?.point(&point.id, &NoProgress).await
                }
            }
        };
        let report = or_cancelled(&self.cancel, verifying).await?;
        for damage in &report.damage {
            tracing::error!(point = %point.id, disk = damage.disk.as_str(), object = damage.object, why = damage.why, "damaged");
        }
        Ok(if report.damage.is_empty() { Soundness::Sound } else { Soundness::Damaged })
    }
}

/// Work that is told to end when its deadline passes, as when `cancel` says so. What it has done by then counts.
async fn in_time<T, W: Future<Output = Result<T>>>(
    deadline: Option<Duration>,
    cancel: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> W,
) -> Result<T> {
    let Some(deadline) = deadline else { return work(cancel.clone()).await };
    let late = cancel.child_token();
    let mut work = pin!(work(late.clone()));
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(deadline) => late.cancel(),
    }
    work.await.map_err(|error| {
        if error.kind() != ErrorKind::Cancelled || cancel.is_cancelled() {
            return error;
        }
        let what = format!("the backup did not end within {} s", deadline.as_secs());
        Error::new(ErrorKind::Cancelled, what)
            .advise("Look at what takes so long, or give the policy a longer `deadline`.")
    })
}

/// A scratch is files on this host: whoever names a class means to have runs on Kubernetes.
fn has_no_scratch_class(class: Option<&str>) -> Result<()> {
    let Some(class) = class else { return Ok(()) };
    let what = format!(
        "the policy names StorageClass {class} in target.scratch.storageClassName, and on a libvirt host there is none"
    );
    Err(Error::new(ErrorKind::Invalid, what).advise(
        "Leave target.scratch out of policies of libvirt hosts: `scratch` in agent.toml says where the scratch is.",
    ))
}

fn past(report: &BackupReport, started: Instant) -> PastRun {
    let point = &report.point;
    let changed = point.disks.iter().map(|disk| disk.read).sum();
    PastRun { time: point.time, changed, size: point.size(), seconds: started.elapsed().as_secs() }
}

/// Whether something is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Now,
    Later,
}

impl Due {
    /// What was last done then, and is to be done so often if at all. When a clock did it that was ahead, nobody knows.
    pub(crate) fn after(last: Timestamp, every: Option<Duration>, now: Timestamp) -> Self {
        let age = now.duration_since(last).unsigned_abs();
        if every.is_some_and(|every| age >= every) { Self::Now } else { Self::Later }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a backup does that takes for ever, and is told to end.
    async fn for_ever(cancel: CancellationToken) -> Result<()> {
        cancel.cancelled().await;
        Err(Error::new(ErrorKind::Cancelled, "cancelled"))
    }

    #[tokio::test]
    async fn a_backup_ends_at_its_policys_deadline_and_says_so() {
        let (soon, stop) = (Some(Duration::from_millis(1)), CancellationToken::new());
        let error = in_time(soon, &stop, for_ever).await.unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("`deadline`")), "{:?}", error.advice());
        assert!(!stop.is_cancelled(), "the agent goes on");
        // One that had made its point when it was told so has made it.
        let done = in_time(soon, &stop, |cancel| async move {
            cancel.cancelled().await;
            Ok(7)
        });
        assert_eq!(done.await.unwrap(), 7);
        let failed = in_time(soon, &stop, |_| async { Err::<(), _>(Error::new(ErrorKind::NoSpace, "full")) });
        assert_eq!(failed.await.unwrap_err().kind(), ErrorKind::NoSpace);
        // Told to stop, it is the agent that ends it, with a deadline and without.
        stop.cancel();
        for deadline in [None, Some(Duration::from_hours(72))] {
            let error = in_time(deadline, &stop, for_ever).await.unwrap_err();
            assert_eq!(error.to_string(), "cancelled", "{deadline:?}");
        }
    }

    #[test]
    fn what_is_done_so_often_is_due_also_once_a_clock_that_was_ahead_is_set_back() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (now, weekly) = (at("2026-01-10T02:00:00Z"), Some(Duration::from_hours(7 * 24)));
        for (last, due) in [
            ("2026-01-03T02:00:00Z", Due::Now),
            ("2026-01-03T02:00:01Z", Due::Later),
            ("2026-01-10T02:00:05Z", Due::Later),
            ("2066-01-10T02:00:00Z", Due::Now),
        ] {
            assert_eq!(Due::after(at(last), weekly, now), due, "{last}");
            assert_eq!(Due::after(at(last), None, now), Due::Later, "{last}");
        }
    }

    #[test]
    fn a_policy_that_names_a_storage_class_is_refused_with_its_field() {
        has_no_scratch_class(None).unwrap();
        let error = has_no_scratch_class(Some("fast")).unwrap_err();
        assert!(error.to_string().contains("StorageClass fast in target.scratch.storageClassName"), "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("agent.toml")), "{:?}", error.advice());
    }
}
