//! Movers: components that keep a vault's objects in a vendor's store, or points in a form of their own, `wit/mover`.
//!
//! Three parties, from the outside in:
//!
//! * The *host* is the process that backs up. It holds the data, the secrets and the network: `store.rs` is the object store
//!   that the vault sees, `volume.rs` a repository of points in a mover's own form, `broker/` makes every HTTP request,
//!   `conversation.rs` keeps instances and calls.
//! * The *child* (`child/`, the program `remora-plugin-host`) is a process without any right: it runs the component, and has
//!   nothing but one socket to the host. `process.rs` starts and ends it, `wire.rs` is what goes over the socket.
//! * The *component* plans requests. It sees neither data nor secrets, only handles of both.
//!
//! The broker is in the host and not in the child, so that an escape from wasmtime gains nothing: there are no secrets, no data
//! and no network in the child to be had, and the allow-list still stands in front of it. The price is that one round trip over
//! the socket is paid for every request that the component plans; the bytes of objects never cross it.

mod broker;
mod child;
mod compiled;
pub(crate) mod conformance;
mod conversation;
mod document;
mod failure;
mod folder;
mod memory;
mod process;
mod retry;
mod store;
mod volume;
mod wire;
mod words;

pub use crate::mounted::named_secret;
pub use crate::network::{Grants, Names, SystemNames};
pub use child::main as child_main;
pub use folder::Movers;
pub use retry::Patience;
pub use store::MoverStore;
pub use volume::{Dropping, VolumeMover, VolumeVerifier};
