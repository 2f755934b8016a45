//! What the records of both versions have alike. The types of each are its own, so it is written once here, for both.

macro_rules! records {
    ($($module:ident),*) => {$(
        pub(super) mod $module {
            use bumpalo::Bump;
            use remora_core::policy::{Access, Decision, Effect, Obligation, Subject};

            use crate::host::$module::exports::remora::policy::authorize as wit;
            use crate::policies::{reason, translate};

            pub(in crate::policies) fn subject<'a>(subject: &'a Subject, arena: &'a Bump) -> wit::Subject<'a> {
                wit::Subject {
                    user: &subject.user,
                    groups: translate::texts(&subject.groups, arena),
                    grants: translate::texts(&subject.grants, arena),
                }
            }

            /// The consents that are in force.
            pub(in crate::policies) fn approvals<'a>(access: &'a Access, arena: &'a Bump) -> &'a [wit::Approval<'a>] {
                let valid = access.approvals.iter().filter(|approval| approval.expires > access.now);
                let approvals = valid.map(|approval| wit::Approval {
                    user: &approval.user,
                    groups: translate::texts(&approval.groups, arena),
                    granted: translate::seconds(approval.granted),
                    expires: translate::seconds(approval.expires),
                });
                arena.alloc_slice_fill_iter(approvals.collect::<Vec<_>>())
            }

            pub(in crate::policies) fn decision(decision: wit::Decision) -> Decision {
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
        }
    )*};
}
records!(authorize_0_1, authorize_0_2);
