//! From the records of `remora-core` to those of `wit/policy`. The types of each interface are its own, so what is alike is
//! written once here, for each of them.

use jiff::Timestamp;
use remora_core::policy::VmFacts;

macro_rules! vm {
    ($($module:ident),*) => {$(
        pub(super) mod $module {
            use super::VmFacts;
            use crate::host::$module::exports::remora::policy::$module::{Pair, Vm};

            pub(in crate::policies) fn vm(facts: &VmFacts) -> Vm {
                let pair = |(key, value): (&String, &String)| Pair { key: key.clone(), value: value.clone() };
                Vm {
                    name: facts.short_name().to_owned(),
                    namespace: facts.namespace.clone(),
                    uid: facts.uid.clone(),
                    labels: facts.labels.iter().map(pair).collect(),
                    details: Vec::new(),
                }
            }
        }
    )*};
}
vm!(select, schedule, retention, authorize);

/// Whole seconds, rounded down.
pub(super) fn seconds(time: Timestamp) -> i64 {
    time.as_second() - i64::from(time.subsec_nanosecond() < 0)
}

/// A VM to ask harmless questions about.
pub(super) fn nobody() -> VmFacts {
    VmFacts::named(remora_core::VmName::new("canary").expect("it is not empty"))
}
