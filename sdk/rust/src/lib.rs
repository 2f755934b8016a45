//! Write a policy of remora, or a mover ([`objects`], [`volumes`]): a type, a trait, and a line that makes a component of it.
//!
//! ```ignore
//! use remora_sdk::select::{Policy, Verdict, Vm};
//! use remora_sdk::{Invalid, serde};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(crate = "serde", deny_unknown_fields)]
//! struct Prefix {
//!     prefix: String,
//! }
//!
//! impl Policy for Prefix {
//!     type Settings = Self;
//!
//!     fn new(settings: Self) -> Result<Self, Invalid> {
//!         Ok(settings)
//!     }
//!
//!     fn select(&self, vm: &Vm) -> Verdict {
//!         Verdict { selected: vm.name.starts_with(&self.prefix), reason: format!("the prefix is {}", self.prefix) }
//!     }
//! }
//!
//! remora_sdk::select!(Prefix);
//! ```
//!
//! Built for `wasm32-unknown-unknown` as a `cdylib`; `docs/plugins.md` has the steps. What each call means, its units and
//! limits, stands in `wit/policy/`. A policy imports nothing: it has no clock, no random numbers, no files.

#[doc(hidden)]
pub mod bindings;
pub mod objects;
mod settings;
pub mod volumes;

pub use serde;
pub use settings::{Invalid, configure};

#[cfg(all(target_family = "wasm", feature = "allocator"))]
#[global_allocator]
static ALLOCATOR: talc::wasm::WasmDynamicTalc = talc::wasm::new_wasm_dynamic_allocator();

/// What an administrator may want to know of the component, by name; such as the version of a database that it brings.
pub type Facts = Vec<(String, String)>;

macro_rules! interface {
    ($(#[$doc:meta])* $name:ident, [$($types:ident),*], { $($method:tt)* }) => {
        $(#[$doc])*
        pub mod $name {
            pub use crate::bindings::$name::exports::remora::policy::$name::{Pair, $($types),*};
            use crate::{Facts, Invalid};

            /// The policy, with its settings.
            pub trait Policy: Sized + 'static {
                /// The `settings` of the policy's document. Let serde deny unknown fields: then the one who mistyped one
                /// is told.
                type Settings: serde::de::DeserializeOwned;

                /// Takes the settings, or says what is wrong with each.
                fn new(settings: Self::Settings) -> Result<Self, Invalid>;

                /// What an administrator may want to know.
                fn facts(&self) -> Facts {
                    Facts::new()
                }

                $($method)*
            }
        }
    };
}

interface! {
    /// Which VMs a backup policy is for: see `wit/policy/0.1.0/select.wit`.
    select, [Vm, Verdict], {
        /// Whether the backup policy is for this VM.
        fn select(&self, vm: &Vm) -> Verdict;
    }
}

interface! {
    /// When the next backup of a VM is due: see `wit/policy/0.1.0/schedule.wit`.
    schedule, [Vm, Run, Request, Answer], {
        /// When the next run is due.
        fn next(&self, request: &Request) -> Answer;
    }
}

interface! {
    /// Which points of a VM are kept: see `wit/policy/0.1.0/retention.wit`.
    retention, [Vm, Point, Request, Fate, Verdict], {
        /// What becomes of each point, in their order.
        fn judge(&self, request: &Request) -> Vec<Verdict>;
    }
}

interface! {
    /// Who may do what with the files of a point: see `wit/policy/0.2.0/authorize.wit`.
    authorize, [Vm, Subject, Approval, Context, Access, Effect, Obligation, Decision], {
        /// Decides on each access in a context, such as each file of a folder that somebody lists: what depends on the
        /// context alone is done once, and what is given back is called for each access.
        fn authorize(&self, context: &Context) -> impl Fn(&Access) -> Decision;
    }
}

impl authorize::Decision {
    /// A decision without obligations, which is not to be remembered.
    pub fn new(effect: authorize::Effect, code: &str, reason: impl Into<String>) -> Self {
        Self { effect, code: code.into(), reason: reason.into(), obligations: Vec::new(), cache_ttl_ms: 0 }
    }
}

/// Makes a component of a [`select::Policy`].
#[macro_export]
macro_rules! select {
    ($policy:ty) => {
        $crate::component!($policy, select, {
            fn select(vms: Vec<$crate::select::Vm>) -> Vec<$crate::select::Verdict> {
                policy(|policy| vms.iter().map(|vm| policy.select(vm)).collect())
            }
        });
    };
}

/// Makes a component of a [`schedule::Policy`].
#[macro_export]
macro_rules! schedule {
    ($policy:ty) => {
        $crate::component!($policy, schedule, {
            fn next(requests: Vec<$crate::schedule::Request>) -> Vec<$crate::schedule::Answer> {
                policy(|policy| requests.iter().map(|request| policy.next(request)).collect())
            }
        });
    };
}

/// Makes a component of a [`retention::Policy`].
#[macro_export]
macro_rules! retention {
    ($policy:ty) => {
        $crate::component!($policy, retention, {
            fn judge(request: $crate::retention::Request) -> Vec<$crate::retention::Verdict> {
                policy(|policy| policy.judge(&request))
            }
        });
    };
}

/// Makes a component of an [`authorize::Policy`].
#[macro_export]
macro_rules! authorize {
    ($policy:ty) => {
        $crate::component!($policy, authorize, {
            fn authorize(
                context: $crate::authorize::Context,
                accesses: Vec<$crate::authorize::Access>,
            ) -> Vec<$crate::authorize::Decision> {
                policy(|policy| accesses.iter().map(policy.authorize(&context)).collect())
            }
        });
    };
}

/// What the four macros have in common: the configured policy of this instance.
#[doc(hidden)]
#[macro_export]
macro_rules! component {
    ($policy:ty, $interface:ident, { $($function:tt)* }) => {
        const _: () = {
            use $crate::$interface::Policy as _;

            struct Component;

            ::std::thread_local! {
                static POLICY: ::std::cell::OnceCell<$policy> = const { ::std::cell::OnceCell::new() };
            }

            fn policy<T>(work: impl FnOnce(&$policy) -> T) -> T {
                POLICY.with(|policy| work(policy.get().expect("the host calls `configure` first")))
            }

            impl $crate::bindings::$interface::exports::remora::policy::$interface::Guest for Component {
                fn configure(
                    settings: String,
                ) -> Result<
                    Vec<$crate::$interface::Pair>,
                    Vec<$crate::bindings::$interface::exports::remora::policy::$interface::FieldError>,
                > {
                    use $crate::bindings::$interface::exports::remora::policy::$interface::FieldError;
                    let made = $crate::configure(&settings, <$policy>::new);
                    let made = made.map_err(|invalid| {
                        let errors = invalid.into_iter();
                        errors.map(|(path, message)| FieldError { path, message }).collect::<Vec<_>>()
                    })?;
                    let facts = made.facts().into_iter();
                    let facts = facts.map(|(key, value)| $crate::$interface::Pair { key, value }).collect();
                    POLICY.with(|policy| assert!(policy.set(made).is_ok(), "the host calls `configure` once"));
                    Ok(facts)
                }

                $($function)*
            }

            $crate::bindings::$interface::export!(Component with_types_in $crate::bindings::$interface);
        };
    };
}
