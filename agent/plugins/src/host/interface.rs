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

const AUTHORIZE_0_1: &str = "remora:policy/authorize@0.1.0";
const AUTHORIZE_0_2: &str = "remora:policy/authorize@0.2.0";

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Select, Self::Schedule, Self::Retention, Self::Authorize];

    /// The names of the interface in each version that this host takes, the newest first: of those that a component
    /// exports, the first is called.
    pub const fn exports(self) -> &'static [&'static str] {
        match self {
            Self::Select => &["remora:policy/select@0.1.0"],
            Self::Schedule => &["remora:policy/schedule@0.1.0"],
            Self::Retention => &["remora:policy/retention@0.1.0"],
            Self::Authorize => &[AUTHORIZE_0_2, AUTHORIZE_0_1],
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

    /// Finds what is called, in the version that the component exports.
    fn find(linked: InstancePre<Guest>, export: &str) -> wasmtime::Result<Self::Pre>;
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

            fn find(linked: InstancePre<Guest>, _: &str) -> wasmtime::Result<Self::Pre> {
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
interface!(Authorizing0_1, Authorize, authorize_0_1, AuthorizerPre, Authorizer, remora_policy_authorize);
interface!(Authorizing0_2, Authorize, authorize_0_2, AuthorizerPre, Authorizer, remora_policy_authorize);

/// Of `authorize` there are two versions.
pub(crate) enum Authorizing {}

/// What there is of the one version or of the other.
pub(crate) enum Version<Old, New> {
    V0_1(Old),
    V0_2(New),
}

impl Interface for Authorizing {
    const KIND: Kind = Kind::Authorize;
    type Pre = Version<<Authorizing0_1 as Interface>::Pre, <Authorizing0_2 as Interface>::Pre>;
    type World = Version<<Authorizing0_1 as Interface>::World, <Authorizing0_2 as Interface>::World>;

    fn find(linked: InstancePre<Guest>, export: &str) -> wasmtime::Result<Self::Pre> {
        if export == AUTHORIZE_0_1 {
            Authorizing0_1::find(linked, export).map(Version::V0_1)
        } else {
            Authorizing0_2::find(linked, export).map(Version::V0_2)
        }
    }

    fn instantiate(pre: &Self::Pre, store: &mut Store<Guest>) -> wasmtime::Result<Self::World> {
        match pre {
            Version::V0_1(pre) => Authorizing0_1::instantiate(pre, store).map(Version::V0_1),
            Version::V0_2(pre) => Authorizing0_2::instantiate(pre, store).map(Version::V0_2),
        }
    }

    fn configure(world: &Self::World, store: &mut Store<Guest>, settings: &str) -> wasmtime::Result<Configuration> {
        match world {
            Version::V0_1(world) => Authorizing0_1::configure(world, store, settings),
            Version::V0_2(world) => Authorizing0_2::configure(world, store, settings),
        }
    }
}
