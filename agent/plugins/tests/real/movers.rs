//! Movers, run as they are in production: in a child without rights, their requests made by the broker.

#[path = "movers/compiled.rs"]
mod compiled;
#[path = "movers/conformance.rs"]
pub(crate) mod conformance;
#[path = "movers/dropped.rs"]
mod dropped;
#[path = "movers/hostile.rs"]
mod hostile;
#[path = "movers/hostile_array.rs"]
mod hostile_array;
#[path = "movers/hosts.rs"]
mod hosts;
#[path = "movers/killed.rs"]
mod killed;
#[path = "movers/network.rs"]
pub(crate) mod network;
#[path = "movers/objects.rs"]
pub(crate) mod objects;
#[path = "movers/places.rs"]
mod places;
#[path = "movers/process.rs"]
mod process;
#[path = "movers/refused.rs"]
mod refused;
#[path = "movers/s3.rs"]
pub(crate) mod s3;
#[path = "movers/text.rs"]
mod text;
#[path = "movers/updated.rs"]
mod updated;
#[path = "movers/volumes.rs"]
pub(crate) mod volumes;
#[path = "movers/webdav.rs"]
mod webdav;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use remora_plugins::movers::{MoverStore, Movers, Patience};
use tempfile::TempDir;

/// The component of an example of the SDK, which lies where the programs are.
pub(crate) fn example(name: &str) -> PathBuf {
    host_program().with_file_name("movers").join(format!("{name}.wasm"))
}

pub(crate) fn host_program() -> PathBuf {
    env!("CARGO_BIN_EXE_remora-plugin-host").into()
}

/// A folder of plugins.
pub(crate) struct Folder {
    dir: TempDir,
    pub(crate) movers: Movers,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self::of(tempfile::tempdir().unwrap(), None)
    }

    /// One of a program that has a state folder, in which it keeps what is compiled.
    pub(crate) fn keeping() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        Self::of(dir, Some(&state))
    }

    fn of(dir: TempDir, state: Option<&Path>) -> Self {
        let mut movers = Movers::new(dir.path(), state);
        movers.program = Some(host_program());
        movers.patience = Patience { retries: 2, give_up: Duration::from_mins(10) };
        Self { dir, movers }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What is compiled, of one that keeps it.
    pub(crate) fn compiled(&self) -> PathBuf {
        self.path().join("state/compiled")
    }

    /// A mover whose document has these lines beside its name and module.
    pub(crate) fn mover(&self, name: &str, component: &[u8], lines: &str) -> MoverStore {
        self.write(name, component, lines);
        self.movers.open(name, "a/prefix").unwrap_or_else(|e| panic!("{}", e.chain()))
    }

    pub(crate) fn write(&self, name: &str, component: &[u8], lines: &str) {
        fs::write(self.path().join(format!("{name}.wasm")), component).unwrap();
        let text = format!("kind: Mover\nname: {name}\nmodule: file:{name}.wasm\n{lines}");
        fs::write(self.path().join(format!("{name}.yaml")), text).unwrap();
    }
}
