//! Agents and workers, over real TLS.

#![allow(clippy::unwrap_used, reason = "these are tests throughout")]

mod device;
mod loan;
mod restore;
