//! Segments: the objects that hold chunks and map nodes. Start with [`build`] for their form and [`read`] for how
//! records are found and fetched.

pub(crate) mod build;
pub(crate) mod codec;
pub(crate) mod footer;
pub(crate) mod generations;
pub(crate) mod part;
pub(crate) mod read;
