//! What each program that stays running needs, whatever its work is: log lines ([`log_to_stderr`]), threads and a
//! clean stop ([`in_runtime`]), an address that tells how it is ([`Health`]), and its last word ([`exit_code`]).
//!
//! Depends on `remora-core` alone.

mod health;
mod log;
mod runtime;

pub use health::{Health, bind, serve};
pub use log::{LogLines, log_to_stderr};
pub use runtime::{exit_code, in_runtime};
