//! The production host, with the real built-in components and with hostile ones.

#![allow(clippy::unwrap_used, reason = "these are tests throughout")]

#[path = "real/aside.rs"]
mod aside;
#[path = "real/builtins.rs"]
mod builtins;
#[path = "real/cases.rs"]
mod cases;
#[path = "real/compiled.rs"]
mod compiled;
#[path = "real/compiling.rs"]
mod compiling;
#[path = "real/components.rs"]
mod components;
#[path = "real/conformance.rs"]
mod conformance;
#[path = "real/denied.rs"]
mod denied;
#[path = "real/fetched.rs"]
mod fetched;
#[path = "real/fixtures.rs"]
mod fixtures;
#[path = "real/fleet.rs"]
mod fleet;
#[path = "real/folder.rs"]
mod folder;
#[path = "real/frozen.rs"]
mod frozen;
#[path = "real/lines.rs"]
mod lines;
#[path = "real/movers.rs"]
mod movers;
#[path = "real/refused.rs"]
mod refused;
#[path = "real/registry.rs"]
mod registry;
#[path = "real/versions.rs"]
mod versions;
#[path = "real/zoo.rs"]
mod zoo;
