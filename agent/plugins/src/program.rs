//! The program in which components are compiled and movers run.

use std::path::PathBuf;

use remora_core::{Error, Result};

/// It lies beside the other programs of remora.
const PROGRAM: &str = "remora-plugin-host";

/// Where it lies.
pub(crate) fn plugin_host() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|e| Error::io("finding this program's folder", e))?;
    Ok(own.with_file_name(PROGRAM))
}
