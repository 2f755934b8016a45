//! The interpreter of the second reader, with the packages that it needs.

use std::path::Path;
use std::process::Command;

use crate::cache::cached;
use crate::process::run;

const REQUIREMENTS: &str = include_str!("../reader/requirements.txt");

/// Debian's Python with the packages of `reader/requirements.txt`, in an environment of its own.
pub fn command() -> Command {
    let environment = cached("python", &[REQUIREMENTS.as_bytes()], |folder| {
        // Packages into a plain folder: an environment with paths in it could not be moved into the cache.
        let mut install = Command::new("/usr/bin/python3");
        install.args(["-m", "pip", "install", "--quiet", "--no-compile", "--target"]).arg(folder);
        install.arg("--requirement").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/requirements.txt"));
        run(&mut install).ok();
    });
    let mut python = Command::new("/usr/bin/python3");
    python.env("PYTHONPATH", environment).env("PYTHONDONTWRITEBYTECODE", "1");
    python
}
