//! The host: one engine, the modules that it has compiled, and instances of them with limits.

mod aside;
mod bindings;
mod cache;
mod compile;
mod engine;
mod errors;
mod instance;
mod interface;
mod module;
mod private;

pub use compile::CompileLimits;
pub use engine::{Host, HostOptions};
pub use errors::{FieldError, Refused};
pub use interface::Kind;
pub use module::Digest;

pub(crate) use bindings::{authorize_0_1, authorize_0_2, retention, schedule, select};
pub(crate) use compile::{COMPILE, COMPILED, FAILED, INVALID};
pub(crate) use engine::{HANDED_OVER, LARGEST_COMPONENT, limits, sandbox, start_clock};
pub(crate) use errors::{failed_call, wrong_setting};
pub(crate) use instance::{Configured, Guest, PATIENCE, Reuse, of_processor};
pub(crate) use interface::{Authorizing, Keeping, Scheduling, Selecting, Version};
pub(crate) use module::{BUILD_AGAIN, FETCH_AGAIN, Module, ModuleBytes, NEWER, check_form};
pub(crate) use private::PrivateFolder;
