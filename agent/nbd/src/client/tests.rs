//! The client against servers that stall and servers that lie.

mod lies;
mod stalls;
