//! Which points of a VM are kept. Whatever a component answers, held points and the newest one stay.

use async_trait::async_trait;
use bumpalo::Bump;
use jiff::Timestamp;
use remora_core::policy::{Retention, VmFacts};
use remora_core::retention::{Candidate, Fate, Verdict};
use remora_core::{Error, ErrorKind, Result, VmName};

use super::{off_thread, policy, reason, same_length, translate};
use crate::host::retention::exports::remora::policy::retention as wit;
use crate::host::{Keeping, Reuse};

/// So many points of one VM are judged.
const MOST_POINTS: usize = 100_000;

policy! {
    /// A component that says which points are kept.
    RetentionPolicy, Keeping, super::DEADLINE
}

impl RetentionPolicy {
    fn canary(&self) -> Result<()> {
        let at = Timestamp::from_second(1_767_225_600).expect("it is a time of 2026");
        let point = "0000000000000000-1".parse().expect("it is a point's id");
        self.ask(Reuse::Never, &translate::nobody(), &[Candidate { point, time: at, held: None }], at).map(|_| ())
    }

    /// The retention of a VM of which more is known than its name.
    pub fn of_vm(&self, vm: VmFacts) -> impl Retention + use<> {
        OfVm { policy: self.clone(), vm }
    }

    pub(super) fn ask(&self, reuse: Reuse, vm: &VmFacts, points: &[Candidate], now: Timestamp) -> Result<Vec<Verdict>> {
        if points.len() > MOST_POINTS {
            return Err(Error::new(ErrorKind::Unsupported, format!("it has more than {MOST_POINTS} points")));
        }
        let arena = Bump::new();
        let request = wit::Request {
            vm: translate::retention::vm(vm, &arena),
            now: translate::seconds(now),
            points: arena.alloc_slice_fill_iter(points.iter().map(|candidate| point(candidate, &arena))),
            details: &[],
        };
        let verdicts = self.0.call(reuse, self.0.deadline(), "`judge`", |world, store| {
            world.remora_policy_retention().call_judge(store, request)
        })?;
        same_length(points.len(), verdicts.len())?;
        Ok(points.iter().zip(verdicts).map(|(candidate, verdict)| guarded(candidate, verdict, points, now)).collect())
    }
}

fn point<'a>(candidate: &Candidate, arena: &'a Bump) -> wit::Point<'a> {
    wit::Point {
        id: arena.alloc_str(&candidate.point.to_string()),
        time: translate::seconds(candidate.time),
        held_until: candidate.held.map(translate::seconds),
        details: &[],
    }
}

/// What becomes of a point: what the component says, unless it must stay.
fn guarded(candidate: &Candidate, said: wit::Verdict, all: &[Candidate], now: Timestamp) -> Verdict {
    let newest = all.last().is_some_and(|last| last.point == candidate.point);
    let held = candidate.held.filter(|until| *until > now);
    let (fate, reason) = match (said.fate, newest, held) {
        (wit::Fate::Keep, ..) => (Fate::Keep, reason(said.reason)),
        (wit::Fate::Drop, true, _) => (Fate::Keep, "the newest point stays, whatever a policy says".into()),
        (wit::Fate::Drop, _, Some(until)) => (Fate::Keep, format!("held until {until}")),
        (wit::Fate::Drop, false, None) => (Fate::Drop, reason(said.reason)),
    };
    Verdict { point: candidate.point.clone(), time: candidate.time, fate, reason }
}

struct OfVm {
    policy: RetentionPolicy,
    vm: VmFacts,
}

#[async_trait]
impl Retention for OfVm {
    async fn judge(&self, vm: &VmName, points: &[Candidate], now: Timestamp) -> Result<Vec<Verdict>> {
        if *vm != self.vm.name {
            return Err(Error::new(ErrorKind::Failed, format!("asked about {:?} by mistake", vm.as_str())));
        }
        let (policy, vm, points) = (self.policy.clone(), self.vm.clone(), points.to_vec());
        off_thread(self.policy.0.deadline(), move || policy.ask(Reuse::Never, &vm, &points, now)).await
    }
}
