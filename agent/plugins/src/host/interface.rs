//! The interfaces of policies, each as a type: what is the same for all of them is written once.

use serde::{Deserialize, Serialize};
use wasmtime::Store;
use wasmtime::component::InstancePre;

use super::bindings;
use super::errors::FieldError;
use super::instance::Guest;

/// What a policy decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Which VMs a backup policy is for.
    Select,
    /// When the next backup is due.
    Schedule,
    /// Which points are kept.
    Retention,
    /// Who may do what with files.
    Authorize,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Select, Self::Schedule, Self::Retention, Self::Authorize];

    /// The name of the interface that a component exports.
    pub const fn export(self) -> &'static str {
        match self {
            Self::Select => "remora:policy/select@0.1.0",
            Self::Schedule => "remora:policy/schedule@0.1.0",
            Self::Retention => "remora:policy/retention@0.1.0",
            Self::Authorize => "remora:policy/authorize@0.1.0",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Select => "select",
            Self::Schedule => "schedule",
            Self::Retention => "retention",
            Self::Authorize => "authorize",
        })
    }
}

/// What a component answers when it is given its settings: facts, or what is wrong with them.
pub(crate) type Configuration = Result<Vec<(String, String)>, Vec<FieldError>>;

/// One of the interfaces.
pub(crate) trait Interface: Send + Sync + 'static {
    /// Which.
    const KIND: Kind;
    /// A component whose exports were found.
    type Pre: Send + Sync;
    /// An instance of it.
    type World: Send;

    fn find(linked: InstancePre<Guest>) -> wasmtime::Result<Self::Pre>;
    fn instantiate(pre: &Self::Pre, store: &mut Store<Guest>) -> wasmtime::Result<Self::World>;
    fn configure(world: &Self::World, store: &mut Store<Guest>, settings: &str) -> wasmtime::Result<Configuration>;
}

macro_rules! interface {
    ($name:ident, $kind:ident, $module:ident, $pre:ident, $world:ident, $guest:ident) => {
        pub(crate) enum $name {}

        impl Interface for $name {
            const KIND: Kind = Kind::$kind;
            type Pre = bindings::$module::$pre<Guest>;
            type World = bindings::$module::$world;

            fn find(linked: InstancePre<Guest>) -> wasmtime::Result<Self::Pre> {
                Self::Pre::new(linked)
            }

            fn instantiate(pre: &Self::Pre, store: &mut Store<Guest>) -> wasmtime::Result<Self::World> {
                pre.instantiate(store)
            }

            fn configure(
                world: &Self::World,
                store: &mut Store<Guest>,
                settings: &str,
            ) -> wasmtime::Result<Configuration> {
                let answer = world.$guest().call_configure(store, settings)?;
                let facts = answer.map(|facts| facts.into_iter().map(|fact| (fact.key, fact.value)).collect());
                Ok(facts.map_err(|errors| {
                    errors.into_iter().map(|e| FieldError { path: e.path, message: e.message }).collect()
                }))
            }
        }
    };
}

interface!(Selecting, Select, select, SelectorPre, Selector, remora_policy_select);
interface!(Scheduling, Schedule, schedule, SchedulerPre, Scheduler, remora_policy_schedule);
interface!(Keeping, Retention, retention, KeeperPre, Keeper, remora_policy_retention);
interface!(Authorizing, Authorize, authorize, AuthorizerPre, Authorizer, remora_policy_authorize);
