//! The agent of a node: which runs it does, and what it says of them. The controller is played by the tests, and so is what
//! makes points, but for `engine.rs`.

mod agent_node;
mod claims;
mod cluster;
mod ends;
mod engine;
mod outages;
mod restores;
mod scene;
mod shim;
mod storm;
mod worker;
