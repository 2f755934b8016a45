//! For tests: what a server sends, as bytes, and a server that sends what it is told to.

pub(crate) mod server;
pub(crate) mod wire;
