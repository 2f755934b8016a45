//! From the records of `remora-core` to those of `wit/policy`. The types of each interface are its own, so what is alike is
//! written once here, for each of them. They borrow; the lists that the interfaces have and the core has not lie in an arena.

use bumpalo::Bump;
use jiff::Timestamp;
use remora_core::policy::VmFacts;

macro_rules! vm {
    ($($module:ident: $interface:ident),*) => {$(
        pub(super) mod $module {
            use super::{Bump, VmFacts};
            use crate::host::$module::exports::remora::policy::$interface::{PairParam, Vm};

            pub(in crate::policies) fn vm<'a>(facts: &'a VmFacts, arena: &'a Bump) -> Vm<'a> {
                let labels = facts.labels.iter().map(|(key, value)| PairParam { key, value });
                Vm {
                    name: facts.short_name(),
                    namespace: &facts.namespace,
                    uid: &facts.uid,
                    labels: arena.alloc_slice_fill_iter(labels),
                    details: &[],
                }
            }
        }
    )*};
}
vm!(select: select, schedule: schedule, retention: retention, authorize_0_1: authorize, authorize_0_2: authorize);

/// Texts as an interface takes them.
pub(super) fn texts<'a>(texts: &'a [String], arena: &'a Bump) -> &'a [&'a str] {
    arena.alloc_slice_fill_iter(texts.iter().map(String::as_str))
}

/// Whole seconds, rounded down.
pub(super) fn seconds(time: Timestamp) -> i64 {
    time.as_second() - i64::from(time.subsec_nanosecond() < 0)
}

/// A VM to ask harmless questions about.
pub(super) fn nobody() -> VmFacts {
    VmFacts::named(remora_core::VmName::new("canary").expect("it is not empty"))
}
