//! Fakes of the ports that keep everything in memory, and decorators that inject faults into any implementation.
//!
//! A [`FakeHost`] is a [`crate::ports::Source`] with a guest to write into; a [`FakeMover`] is a
//! [`crate::ports::Mover`] that checks its callers' promises. [`FaultySource`] and [`FaultyMover`] count the calls that
//! go through them and let [`Faults`] break one. [`new_point`] is a point to give to a mover, and [`point`]
//! one that a mover could have given.

mod faults;
mod faulty_mover;
mod faulty_source;
mod host;
mod mover;
mod points;

pub use faults::{Fault, Faults, When};
pub use faulty_mover::FaultyMover;
pub use faulty_source::FaultySource;
pub use host::{FakeHost, GRANULARITY};
pub use mover::FakeMover;
pub use points::{new_disk, new_point, point};
