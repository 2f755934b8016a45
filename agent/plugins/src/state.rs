//! What is kept in the state folder of a program.

use std::path::{Path, PathBuf};

/// Where what was fetched from registries is kept.
pub(crate) fn fetched(state: &Path) -> PathBuf {
    state.join("fetched")
}

/// Where what was compiled is kept, of policies and of movers: a private folder.
pub(crate) fn compiled(state: &Path) -> PathBuf {
    state.join("compiled")
}
