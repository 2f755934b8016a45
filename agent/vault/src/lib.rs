//! The vault: points, deduplicated, compressed and sealed, in an object store
