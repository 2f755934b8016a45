//! Who may do what with the files of a point.

use std::time::Duration;

use bumpalo::Bump;
use remora_core::Result;
use remora_core::policy::{Access, Approval, Authorize, Decision, Effect, Obligation};

use super::{BATCH, policy, reason, same_length, translate};
use crate::host::authorize::exports::remora::policy::authorize as wit;
use crate::host::{Authorizing, Reuse};

policy! {
    /// A component that decides on files.
    AuthorizePolicy, Authorizing, super::QUICK
}

impl AuthorizePolicy {
    fn canary(&self) -> Result<()> {
        let at = jiff::Timestamp::from_second(1_767_225_600).expect("it is a time of 2026");
        let nobody = remora_core::policy::Subject { user: "canary".into(), groups: Vec::new(), grants: Vec::new() };
        self.authorize(&[Access {
            subject: nobody,
            action: remora_core::policy::Action::Read,
            vm: translate::nobody(),
            point: "0000000000000000-1".into(),
            point_time: at,
            path: b"/canary".to_vec(),
            now: at,
            approvals: Vec::new(),
        }])
        .map(|_| ())
    }

    /// Decides in a new instance: what a warm one says must be the same.
    pub fn authorize_fresh(&self, requests: &[Access]) -> Result<Vec<Decision>> {
        self.ask(Reuse::Never, requests)
    }

    pub(super) fn ask(&self, reuse: Reuse, requests: &[Access]) -> Result<Vec<Decision>> {
        self.ask_within(reuse, self.0.deadline(), requests)
    }

    /// Decides on what one call may hold, within what is left of its time.
    pub(crate) fn decide(&self, requests: &[Access], time: Duration) -> Result<Vec<Decision>> {
        self.ask_within(Reuse::Ready, time, requests)
    }

    fn ask_within(&self, reuse: Reuse, time: Duration, requests: &[Access]) -> Result<Vec<Decision>> {
        let arena = Bump::new();
        let requests: Vec<_> = requests.iter().map(|access| request(access, &arena)).collect();
        let decisions = self.0.call(reuse, time, "`authorize`", |world, store| {
            world.remora_policy_authorize().call_authorize(store, &requests)
        })?;
        same_length(requests.len(), decisions.len())?;
        Ok(decisions.into_iter().map(decision).collect())
    }
}

impl Authorize for AuthorizePolicy {
    fn authorize(&self, requests: &[Access]) -> Result<Vec<Decision>> {
        if requests.len() <= BATCH {
            return self.ask(Reuse::Ready, requests);
        }
        let batches = requests.chunks(BATCH).map(|batch| self.ask(Reuse::Ready, batch));
        Ok(batches.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}

fn request<'a>(access: &'a Access, arena: &'a Bump) -> wit::Request<'a> {
    let valid = access.approvals.iter().filter(|approval| approval.expires > access.now);
    let approvals: Vec<_> = valid.map(|valid| approval(valid, arena)).collect();
    wit::Request {
        subject: wit::Subject {
            user: &access.subject.user,
            groups: translate::texts(&access.subject.groups, arena),
            grants: translate::texts(&access.subject.grants, arena),
        },
        action: access.action.name(),
        vm: translate::authorize::vm(&access.vm, arena),
        point: &access.point,
        point_time: translate::seconds(access.point_time),
        path: &access.path,
        now: translate::seconds(access.now),
        approvals: arena.alloc_slice_fill_iter(approvals),
        details: &[],
    }
}

fn approval<'a>(approval: &'a Approval, arena: &'a Bump) -> wit::Approval<'a> {
    wit::Approval {
        user: &approval.user,
        groups: translate::texts(&approval.groups, arena),
        granted: translate::seconds(approval.granted),
        expires: translate::seconds(approval.expires),
    }
}

fn decision(decision: wit::Decision) -> Decision {
    let obligation = |obligation: wit::Obligation| Obligation {
        id: obligation.id,
        params: obligation.params.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        required: obligation.required,
    };
    Decision {
        effect: match decision.effect {
            wit::Effect::Allow => Effect::Allow,
            wit::Effect::Deny => Effect::Deny,
            wit::Effect::Abstain => Effect::Abstain,
        },
        code: reason(decision.code),
        reason: reason(decision.reason),
        obligations: decision.obligations.into_iter().map(obligation).collect(),
        cache_ttl_ms: decision.cache_ttl_ms,
    }
}
