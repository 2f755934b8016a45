//! What wasmtime makes of the two worlds of movers. What both have in common is one: requests, secrets, errors, the log.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

/// Bytes of the host, of which a call has at most one.
pub enum Buffer {}
/// A place in the host, of which a call has at most one.
pub enum Sink {}
/// The host's number of a secret.
pub enum Secret {}
/// The host's number of a request.
pub enum Pending {}

pub mod objects {
    wasmtime::component::bindgen!({
        path: "../../wit/mover/0.1.0",
        world: "object-store",
        imports: { default: trappable },
        with: {
            "remora:mover/host-io.buffer": super::Buffer,
            "remora:mover/host-io.sink": super::Sink,
            "remora:mover/host-io.secret": super::Secret,
            "remora:mover/host-io.pending": super::Pending,
        },
    });
}

pub mod volumes {
    wasmtime::component::bindgen!({
        path: "../../wit/mover/0.1.0",
        world: "volume-store",
        imports: { default: trappable },
        with: {
            "remora:mover/errors": super::objects::remora::mover::errors,
            "remora:mover/host-io": super::objects::remora::mover::host_io,
            "remora:mover/log": super::objects::remora::mover::log,
            "remora:mover/task": super::objects::remora::mover::task,
        },
    });
}
