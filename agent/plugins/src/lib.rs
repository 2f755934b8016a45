//! The host of WebAssembly components: policies, and movers.
//!
//! Depends on `remora-core` for the ports, on `remora-process` (whether who began a point is gone) and on wasmtime, which no
//! other crate of the product knows. Start reading at [`documents`] (what administrators write), then [`set`] (one generation of
//! loaded policies, and how the next is made) and `host/` (an engine, modules, instances and their limits); or at [`movers`].
//! `registry/` fetches components, [`conformance`] tries them before they are used. What components see is in `wit/`. `unsafe`
//! stands in `host/cache.rs` and `movers/child/compiled.rs` alone: native code that remora compiled is taken.

pub mod cases;
pub mod conformance;
pub mod decide;
pub mod documents;
mod host;
mod mounted;
pub mod movers;
mod network;
mod policies;
mod program;
mod reference;
mod registry;
pub mod set;
mod state;
mod yaml;

pub use host::{CompileLimits, Digest, FieldError, Host, HostOptions, Kind, Refused};
pub use policies::{AuthorizePolicy, RetentionPolicy, SchedulePolicy, SelectPolicy};
pub use reference::{ModuleRef, builtins};
pub use registry::{Artifact, Fetch, Registries, Wants};
