//! Brings disks of a point from an agent, which has keys and no claims, to a worker, which has claims and no keys.
//!
//! The worker listens; both show certificates of a CA that was made for this one restore ([`Credentials`]). What goes over
//! the connection is in `frame.rs`. Each side takes the other for hostile: sizes are bounded, the worker writes within the
//! size that was told, and the agent believes that something was written when the digest of what was read back is that of
//! what it sent. Start reading at `send.rs` and `receive.rs`. Depends on the ports, and on the engine for zeros alone;
//! knows nothing of Kubernetes.

mod credentials;
mod digest;
mod frame;
mod receive;
mod send;
mod target;

pub use credentials::{Credentials, Identity};
pub use receive::{Receiver, receive};
pub use send::{Parcel, SendError, Worker, send};
