//! What children compiled, kept for the next ones.
//!
//! A component is compiled by the child, which has nothing to lose, and not by the host. What the child made is kept by the host,
//! in a private folder and by the component's digest, and handed to the next child of the same component. The child says it
//! before it runs any of the component, so that nothing which a component did, or which a store talked it into, is kept; and the
//! host itself never runs it.

use std::path::Path;

use remora_core::ErrorKind;

use crate::host::{Digest, PrivateFolder};

/// Where what is compiled of one component is kept.
pub(super) struct Compiled {
    folder: PrivateFolder,
    name: String,
}

impl Compiled {
    /// In a folder, which is made. None if it cannot be, or if others could write there: that costs the time of compiling.
    pub(super) fn of(component: &[u8], folder: &Path) -> Option<Self> {
        match PrivateFolder::open(folder) {
            Ok(folder) => Some(Self { folder, name: format!("{}.mover", Digest::of(component)) }),
            Err(error) if error.kind() == ErrorKind::Refused => {
                tracing::warn!(error = error.chain(), "compiled movers are not kept");
                None
            }
            Err(error) => {
                tracing::debug!(error = error.chain(), "compiled movers are not kept");
                None
            }
        }
    }

    pub(super) fn get(&self) -> Option<Vec<u8>> {
        self.folder.get(&self.name)
    }

    pub(super) fn put(&self, code: &[u8]) {
        self.folder.put(&self.name, code);
    }
}
