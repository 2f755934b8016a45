//! An NBD client for reading: fixed newstyle, structured replies, several metadata contexts, many requests in flight
//! over one unix socket.
//!
//! Depends on tokio alone; knows nothing of VMs. The server is treated as hostile: whatever it sends costs bounded memory
//! and time and is an error, never wrong data. Start reading at [`Client`]; `parse.rs` holds everything that looks at the
//! server's bytes. The protocol: <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

mod assembly;
mod client;
mod connection;
mod error;
mod extents;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod in_flight;
mod parse;
mod proto;
mod replies;
#[cfg(test)]
mod testing;

pub use client::{Client, ConnectOptions, ContextExtents, StatusExtent};
pub use error::NbdError;
