//! Dropping points that no rule keeps.

use std::collections::BTreeMap;

use jiff::Timestamp;
use remora_core::point::Point;
use remora_core::policy::Retention;
use remora_core::retention::{Candidate, Fate, Verdict};
use remora_core::{Error, ErrorKind, Result, VmName};

use super::VolumeMover;
use super::catalogue::Catalogue;
use super::claim::Claim;

/// Whether points are dropped, or it is only told which would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropping {
    /// They are gone at once.
    Run,
    /// Nothing changes.
    DryRun,
}

impl VolumeMover {
    /// Drops the points that no rule keeps, of one machine or of all that the mover may see; what became of each, oldest first.
    /// The newest one of a machine stays whatever is said: a run may be making the next one from it. The rules are asked with this
    /// host's time, for the mover tells none.
    pub async fn prune(
        &self,
        vm: Option<&VmName>,
        rules: &dyn Retention,
        dropping: Dropping,
    ) -> Result<Vec<(VmName, Vec<Verdict>)>> {
        vm.map_or(Ok(()), |vm| self.granted(vm))?;
        let catalogue = self.catalogue(vm).await?;
        let mut machines: BTreeMap<VmName, Vec<&Point>> = BTreeMap::new();
        for point in catalogue.points().filter(|point| self.granted(&point.vm).is_ok()) {
            machines.entry(point.vm.clone()).or_default().push(point);
        }
        if let (Some(vm), true) = (vm, machines.is_empty()) {
            let what = format!("mover {} has no point of a VM {:?}", self.0.calls.name, vm.as_str());
            return Err(Error::new(ErrorKind::NotFound, what).advise("`remora points` lists what there is."));
        }
        let mut done = Vec::new();
        for (vm, points) in machines {
            let mut verdicts = judged(&vm, &points, rules).await?;
            for verdict in verdicts.iter_mut().filter(|verdict| verdict.fate == Fate::Drop) {
                if dropping == Dropping::Run
                    && let Err(error) = self.drop_one(&vm, &catalogue, verdict).await
                {
                    tracing::warn!(point = %verdict.point, error = error.chain(), "it is not dropped for now");
                    verdict.fate = Fate::Keep;
                    verdict.reason = format!("it could not be dropped, and goes the next time: {}", error.chain());
                }
            }
            done.push((vm, verdicts));
        }
        Ok(done)
    }

    /// Another run may be at it: then it stays for now.
    async fn drop_one(&self, vm: &VmName, catalogue: &Catalogue, verdict: &mut Verdict) -> Result<()> {
        let attempt = &catalogue.find(&verdict.point)?.attempt;
        if catalogue.has_begun(attempt) {
            (verdict.fate, verdict.reason) = (Fate::Keep, "another run is at it; it goes the next time".into());
            return Ok(());
        }
        // Should it be broken off, a later run finds what is left.
        let claim = Claim::new(attempt.clone());
        self.0.begin_at(&claim, vm).await?;
        self.0.remove(&claim).await
    }
}

async fn judged(vm: &VmName, points: &[&Point], rules: &dyn Retention) -> Result<Vec<Verdict>> {
    let candidate = |point: &&Point| Candidate { point: point.id.clone(), time: point.time, held: None };
    let candidates: Vec<_> = points.iter().map(candidate).collect();
    let mut verdicts = rules.judge(vm, &candidates, Timestamp::now()).await?;
    if let Some(newest) = verdicts.last_mut().filter(|newest| newest.fate == Fate::Drop) {
        (newest.fate, newest.reason) = (Fate::Keep, "it is the newest, and the next one may be made from it".into());
    }
    Ok(verdicts)
}
