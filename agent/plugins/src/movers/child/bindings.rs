//! What wasmtime makes of the world `object-store`.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

/// Bytes of the host, of which a call has at most one.
pub enum Buffer {}
/// A place in the host, of which a call has at most one.
pub enum Sink {}
/// The host's number of a secret.
pub enum Secret {}
/// The host's number of a request.
pub enum Pending {}

wasmtime::component::bindgen!({
    path: "../../wit/mover/0.1.0",
    world: "object-store",
    imports: { default: trappable },
    with: {
        "remora:mover/host-io.buffer": Buffer,
        "remora:mover/host-io.sink": Sink,
        "remora:mover/host-io.secret": Secret,
        "remora:mover/host-io.pending": Pending,
    },
});
