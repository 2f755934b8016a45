//! Brings bytes of disks between an agent, which has keys and no claims, and a worker, which has claims and no keys: to the
//! worker for a restore, from it for the backup of a halted VM.
//!
//! The worker listens; both show certificates of a CA that was made for this one run ([`Credentials`]). What goes over the
//! connection is in `order.rs` and `question.rs`. Each side takes the other for hostile: sizes are bounded, the worker writes
//! within the size that was told, and the agent believes that something was written when the digest of what was read back is
//! that of what it sent. Start reading at `server.rs`, then `send.rs` and `receive.rs` or `borrow.rs` and `lend.rs`. Depends
//! on the ports and on `remora-holes`; knows nothing of Kubernetes.

mod borrow;
mod connect;
mod credentials;
mod digest;
mod explain;
mod frame;
mod lend;
mod order;
mod overlays;
mod question;
mod receive;
mod send;
mod server;
mod target;

pub use borrow::{BorrowedDisk, Loan};
pub use connect::Worker;
pub use credentials::{Credentials, Identity};
pub use overlays::remove_overlays;
pub use send::{Parcel, SendError, send};
pub use server::{Server, Task, serve};
