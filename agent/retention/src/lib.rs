//! Which points of a VM to keep, as a pure function of the points, the rules and the time.
//!
//! A crate of its own, without anything that needs an operating system: `remora prune` decides by it in the host, and
//! `builtin:gfs` in a WebAssembly component. Whatever names a point is up to the caller. Start reading at [`plan()`].

mod plan;

pub use plan::{Candidate, Fate, Rules, Verdict, plan};
