//! What would hide what is written.

use std::io::ErrorKind;
use std::path::PathBuf;

use remora_core::{Error, Result};

/// Removes overlays, which say of parts of a disk that they read as zeros, whatever the image below them holds.
pub fn remove_overlays(overlays: &[PathBuf]) -> Result<()> {
    for overlay in overlays {
        match std::fs::remove_file(overlay) {
            Ok(()) => tracing::info!(overlay = %overlay.display(), "removed what would hide what is restored"),
            // Changes were never tracked, or not of this disk.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("removing the overlay {}", overlay.display()), error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_are_removed_and_those_that_are_not_there_are_no_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("data.qcow2");
        std::fs::write(&there, "an overlay").unwrap();
        remove_overlays(&[there.clone(), folder.path().join("none.qcow2"), folder.path().join("nor/this.qcow2")])
            .unwrap();
        assert!(!there.exists());
        assert!(remove_overlays(&[folder.path().to_owned()]).is_err(), "a folder is no overlay");
    }
}
