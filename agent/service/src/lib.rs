//! What each program that stays running needs, whatever its work is: log lines ([`log_to_stderr`]), a clean stop
//! ([`stop_on_signal`]), an address that tells how it is ([`Health`]), and its last word ([`exit_code`]).
//!
//! Depends on `remora-core` alone.

mod health;
mod log;
mod stop;

pub use health::{Health, bind, serve};
pub use log::{LogLines, log_to_stderr};
pub use stop::{exit_code, stop_on_signal};
