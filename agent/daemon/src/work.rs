//! One run: a backup, then what follows from it: locks, retention, verification.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use remora_core::plan::Asked;
use remora_core::policy::{PastRun, Retention};
use remora_core::ports::{Mover, NoProgress, Patience};
use remora_core::retention::{Candidate, Fate, Verdict};
use remora_core::{Error, ErrorKind, MemoryBudget, PointId, Result, VmName};
use remora_engine::{BackupReport, BackupRequest, SPOT_CHECKS, backup, or_cancelled};
use remora_plugins::set::Generation;
use remora_source::LibvirtSource;
use remora_vault::{Mode, Vault};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::plan::{Job, Selects};
use crate::repositories::Repositories;

/// Bytes of pieces that a backup holds at once.
const PIECES: u64 = 32 * 1024 * 1024;

/// How long a run waits for somebody else's backup of the VM to end.
const PATIENCE: Duration = Duration::from_mins(10);

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
    pub(crate) problems: Vec<Error>,
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
        let repository = job.policy.repository.as_deref();
        let vault = self.repositories.get(repository).await?;
        let report = self.back_up(job, &vault).await;
        if report.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable) {
            self.repositories.forget(repository);
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
        if let Err(error) = or_cancelled(&self.cancel, vault.renew(vm)).await {
            done.problems.push(error.within("locking what the points need for longer"));
        }
        match self.prune(&vault, vm, &keepers).await {
            Ok(dropped) => done.dropped = dropped,
            Err(error) => done.problems.push(error.within("pruning")),
        }
        if verify == Due::Now {
            match self.verify(&vault, &report.point.id).await {
                Ok(soundness) => done.verified = Some(soundness),
                Err(error) => done.problems.push(error.within("verifying")),
            }
        }
        Ok(done)
    }

    async fn back_up(&self, job: &Job, vault: &Vault) -> Result<BackupReport> {
        let request = BackupRequest {
            vm: job.vm.name.clone(),
            disks: None,
            asked: Asked::Auto,
            quiesce: job.policy.quiesce,
            patience: Patience::Wait(PATIENCE),
            spot_checks: SPOT_CHECKS,
            memory: MemoryBudget::new(PIECES),
        };
        backup(&self.source, vault, request, Arc::new(NoProgress), self.cancel.clone()).await
    }

    /// Drops what all policies of the VM drop, and removes what nothing needs any more.
    async fn prune(&self, vault: &Vault, vm: &VmName, keepers: &Keepers) -> Result<usize> {
        // Policies that have changed since may keep more: the next run asks them.
        if !keepers.hold_in(&self.policies.borrow()) {
            return Ok(0);
        }
        let pruned = or_cancelled(&self.cancel, vault.prune(Some(vm), keepers, Mode::Run)).await?;
        let dropped = pruned.iter().flat_map(|pruned| &pruned.points).filter(|point| point.fate == Fate::Drop).count();
        if dropped > 0 {
            let (_, failed) = or_cancelled(&self.cancel, vault.collect(Some(vm), Mode::Run, &[])).await?;
            if let Some(error) = failed.into_iter().next() {
                return Err(error);
            }
        }
        Ok(dropped)
    }

    async fn verify(&self, vault: &Vault, point: &PointId) -> Result<Soundness> {
        let report = or_cancelled(&self.cancel, Mover::verify(vault, point, Arc::new(NoProgress))).await?;
        for damage in &report.damage {
            tracing::error!(%point, disk = damage.disk.as_str(), object = damage.object, why = damage.why, "damaged");
        }
        Ok(if report.damage.is_empty() { Soundness::Sound } else { Soundness::Damaged })
    }
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

/// Who says what is kept of a VM's points.
pub(crate) enum Keepers {
    /// These, of that generation; a point that one of them keeps stays.
    Known { generation: u64, all: Vec<Box<dyn Retention>> },
    /// Not known for sure: everything stays.
    Unknown,
}

impl Keepers {
    /// Those of all policies that select the VM and store into the repository of `job`. If one of them has no retention, or is
    /// stale, or names no repository that there is, or if any file is broken that may be one of them, everything stays.
    pub(crate) fn of(
        generation: &Generation,
        job: &Job,
        repositories: &Repositories,
        selects: impl Fn(&str) -> Selects,
    ) -> Self {
        if generation.files.iter().any(|file| file.active.is_none()) {
            return Self::Unknown;
        }
        let target = repositories.name(job.policy.repository.as_deref());
        let mut keepers: Vec<Box<dyn Retention>> = Vec::new();
        for (policy, stale_since) in generation.backups() {
            match selects(&policy.name) {
                Selects::Yes => {}
                Selects::No => continue,
                Selects::Unknown => return Self::Unknown,
            }
            match (repositories.name(policy.repository.as_deref()), &policy.retention, stale_since) {
                (Some(other), ..) if Some(other) != target => {}
                (Some(_), Some(retention), None) => keepers.push(Box::new(retention.of_vm(job.vm.clone()))),
                _ => return Self::Unknown,
            }
        }
        if keepers.is_empty() { Self::Unknown } else { Self::Known { generation: generation.number, all: keepers } }
    }

    /// Whether they are known, and still those that are in force.
    fn hold_in(&self, current: &Generation) -> bool {
        matches!(self, Self::Known { generation, .. } if *generation == current.number)
    }
}

#[async_trait]
impl Retention for Keepers {
    async fn judge(&self, vm: &VmName, points: &[Candidate], now: Timestamp) -> Result<Vec<Verdict>> {
        let keep = |point: &Candidate| Verdict {
            point: point.point.clone(),
            time: point.time,
            fate: Fate::Keep,
            reason: "it is not known what may go".into(),
        };
        let Self::Known { all: keepers, .. } = self else { return Ok(points.iter().map(keep).collect()) };
        let mut together: Option<Vec<Verdict>> = None;
        for keeper in keepers {
            let verdicts = keeper.judge(vm, points, now).await?;
            together = Some(match together {
                None => verdicts,
                Some(earlier) => earlier.into_iter().zip(verdicts).map(|(a, b)| kept(a, b)).collect(),
            });
        }
        Ok(together.unwrap_or_else(|| points.iter().map(keep).collect()))
    }
}

/// What two policies say of a point together.
fn kept(a: Verdict, b: Verdict) -> Verdict {
    match (a.fate, b.fate) {
        (Fate::Keep, _) => a,
        (Fate::Drop, _) => b,
    }
}

#[cfg(test)]
mod tests;
