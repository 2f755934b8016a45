//! Holes of files and devices: where there is data (`data.rs`), and how a range comes to read as zeros (`zeros.rs`). All of it
//! blocks.
//!
//! Depends on `remora-core` alone.

mod data;
mod zeros;

pub use data::{data_from, hole_from};
pub use zeros::write_zeros;
