//! Who says what is kept of a VM's points: all policies that select it, together.

use async_trait::async_trait;
use jiff::Timestamp;
use remora_core::policy::{Retention, VmFacts};
use remora_core::retention::{Candidate, Fate, Verdict};
use remora_core::{Result, VmName};
use remora_engine::or_cancelled;
use remora_plugins::RetentionPolicy;
use remora_plugins::documents::Target;
use remora_plugins::set::{BackupPolicy, Generation};
use remora_schedule::Selects;
use remora_vault::{Mode, Vault};
use tokio_util::sync::CancellationToken;

/// Drops what all policies of the VM drop, and removes what nothing needs any more. Gives how many points went.
pub(crate) async fn prune(vault: &Vault, vm: &VmName, keepers: &Keepers, cancel: &CancellationToken) -> Result<usize> {
    let pruned = or_cancelled(cancel, vault.prune(Some(vm), keepers, Mode::Run)).await?;
    let dropped = tell_dropped(vm, pruned.iter().flat_map(|pruned| &pruned.points));
    if dropped > 0 {
        let (_, failed) = or_cancelled(cancel, vault.collect(Some(vm), Mode::Run, &[])).await?;
        if let Some(error) = failed.into_iter().next() {
            return Err(error);
        }
    }
    Ok(dropped)
}

/// A line for each point that was dropped, with who said so; how many they are.
pub(crate) fn tell_dropped<'a>(vm: &VmName, points: impl Iterator<Item = &'a Verdict>) -> usize {
    let dropped = points.filter(|point| point.fate == Fate::Drop).inspect(|point| {
        let (vm, reason) = (vm.as_str(), &point.reason);
        tracing::info!(vm, point = %point.point, time = %point.time, reason, "a point was dropped");
    });
    dropped.count()
}

/// A policy that says what is kept of a VM's points.
pub(crate) struct Keeper {
    /// Its name, and the digests of its module and of its settings: what is needed to hold it to account.
    who: String,
    retention: Box<dyn Retention>,
}

impl Keeper {
    fn of(policy: &BackupPolicy, retention: &RetentionPolicy, vm: &VmFacts) -> Self {
        let (module, settings) = (retention.digest(), retention.settings_hash());
        Self {
            who: format!("{} (module {module}, settings {settings})", policy.name),
            retention: Box::new(retention.of_vm(vm.clone())),
        }
    }

    async fn judge(&self, vm: &VmName, points: &[Candidate], now: Timestamp) -> Result<Vec<Verdict>> {
        let mut verdicts = self.retention.judge(vm, points, now).await?;
        for verdict in &mut verdicts {
            verdict.reason = format!("{}: {}", self.who, verdict.reason);
        }
        Ok(verdicts)
    }
}

/// Who says what is kept of a VM's points.
pub(crate) enum Keepers {
    /// These, of that generation; a point that one of them keeps stays.
    Known { generation: u64, all: Vec<Keeper> },
    /// Not known for sure: everything stays.
    Unknown,
}

impl Keepers {
    /// Those of all policies that select the VM and store into `target`; `meant` says what a policy means by what it names, or
    /// by nothing. If one of them has no retention, or is stale, or names nothing that there is, or if any file is broken that
    /// may be one of them, everything stays.
    pub(crate) fn of(
        generation: &Generation,
        vm: &VmFacts,
        target: Option<&Target>,
        meant: impl Fn(Option<&Target>) -> Option<Target>,
        selects: impl Fn(&str) -> Selects,
    ) -> Self {
        if generation.files.iter().any(|file| file.active.is_none()) {
            return Self::Unknown;
        }
        let mut keepers = Vec::new();
        for (policy, stale_since) in generation.backups() {
            match selects(&policy.name) {
                Selects::Yes => {}
                Selects::No => continue,
                Selects::Unknown => return Self::Unknown,
            }
            match (meant(policy.target.as_ref()), &policy.retention, stale_since) {
                (Some(other), ..) if Some(&other) != target => {}
                (Some(_), Some(retention), None) => keepers.push(Keeper::of(policy, retention, vm)),
                _ => return Self::Unknown,
            }
        }
        if keepers.is_empty() { Self::Unknown } else { Self::Known { generation: generation.number, all: keepers } }
    }

    /// Whether they are known, and still those that are in force.
    pub(crate) fn hold_in(&self, current: &Generation) -> bool {
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

/// What two policies say of a point together: that it goes takes the word of both.
fn kept(a: Verdict, b: Verdict) -> Verdict {
    match (a.fate, b.fate) {
        (Fate::Keep, _) => a,
        (Fate::Drop, Fate::Keep) => b,
        (Fate::Drop, Fate::Drop) => Verdict { reason: format!("{}; {}", a.reason, b.reason), ..a },
    }
}

#[cfg(test)]
mod tests;
