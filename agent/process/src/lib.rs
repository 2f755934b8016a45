//! Which process something in a store belongs to, so that another one of the same host can tell when it is gone.
//!
//! Depends on no other crate of the product. All of it is in `process.rs`.

mod process;

pub use process::Process;
