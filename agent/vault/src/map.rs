//! The map of a disk: a shallow tree from blocks to chunks. Start with [`node`] for its form, [`disk`] for reading it
//! and [`grow`] for writing the next point's.

pub(crate) mod disk;
pub(crate) mod grow;
pub(crate) mod node;
