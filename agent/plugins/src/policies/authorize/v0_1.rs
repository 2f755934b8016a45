//! `authorize` 0.1.0: each question says all that it is about.

use bumpalo::Bump;
use remora_core::policy::{Access, Decision};
use wasmtime::{Result, Store};

use super::records::authorize_0_1::{approvals, decision, subject};
use crate::host::Guest;
use crate::host::authorize_0_1::Authorizer;
use crate::host::authorize_0_1::exports::remora::policy::authorize::Request;
use crate::policies::{same_length, translate};

pub(super) fn ask(world: &Authorizer, store: &mut Store<Guest>, requests: &[Access]) -> Result<Vec<Decision>> {
    let arena = Bump::new();
    let requests: Vec<_> = requests.iter().map(|access| request(access, &arena)).collect();
    let decisions = world.remora_policy_authorize().call_authorize(store, &requests)?;
    same_length(requests.len(), decisions.len())?;
    Ok(decisions.into_iter().map(decision).collect())
}

fn request<'a>(access: &'a Access, arena: &'a Bump) -> Request<'a> {
    Request {
        subject: subject(&access.subject, arena),
        action: access.action.name(),
        vm: translate::authorize_0_1::vm(&access.vm, arena),
        point: &access.point,
        point_time: translate::seconds(access.point_time),
        path: &access.path,
        now: translate::seconds(access.now),
        approvals: approvals(access, arena),
        details: &[],
    }
}
