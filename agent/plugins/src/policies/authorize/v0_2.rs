//! `authorize` 0.2.0: what questions have in common is said once for all that follow one another. Each text that is
//! said is copied by a call of the component's allocator, which costs more than the rest of a decision.

use bumpalo::Bump;
use remora_core::policy::{Access, Decision};
use wasmtime::{Result, Store};

use super::records::authorize_0_2::{approvals, decision, subject};
use crate::host::authorize_0_2::Authorizer;
use crate::host::authorize_0_2::exports::remora::policy::authorize as wit;
use crate::host::{Guest, HANDED_OVER};
use crate::policies::{same_length, translate};

/// Asks in a call for each context. To the component's time, and to what it may hand over, they are one.
pub(super) fn ask(world: &Authorizer, store: &mut Store<Guest>, requests: &[Access]) -> Result<Vec<Decision>> {
    let arena = Bump::new();
    let mut decisions = Vec::with_capacity(requests.len());
    for alike in requests.chunk_by(have_one_context) {
        store.set_hostcall_fuel(HANDED_OVER / requests.len() * alike.len());
        let accesses: Vec<_> = alike.iter().map(access).collect();
        let context = context(&alike[0], &arena);
        let answer = world.remora_policy_authorize().call_authorize(&mut *store, context, &accesses)?;
        same_length(accesses.len(), answer.len())?;
        decisions.extend(answer.into_iter().map(decision));
    }
    Ok(decisions)
}

/// Whether two questions differ in nothing but what is done with which file. Some twenty comparisons, of which most are of a few
/// bytes: a tenth of a microsecond.
fn have_one_context(one: &Access, other: &Access) -> bool {
    // By name, so that whoever adds a field has to say here where it belongs.
    let Access { subject, action: _, vm, point, point_time, path: _, now, approvals } = one;
    (now, point_time, point) == (&other.now, &other.point_time, &other.point)
        && (subject, vm, approvals) == (&other.subject, &other.vm, &other.approvals)
}

fn context<'a>(access: &'a Access, arena: &'a Bump) -> wit::Context<'a> {
    wit::Context {
        subject: subject(&access.subject, arena),
        vm: translate::authorize_0_2::vm(&access.vm, arena),
        point: &access.point,
        point_time: translate::seconds(access.point_time),
        now: translate::seconds(access.now),
        approvals: approvals(access, arena),
        details: &[],
    }
}

fn access(access: &Access) -> wit::Access<'_> {
    wit::Access { action: access.action.name(), path: &access.path, details: &[] }
}
