//! Plugins in the languages of the SDK: made components of by the tools that `make setup-languages` installs, once for each
//! state of their sources and tools.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{cache_root, cached, tool};
use crate::process::{Must, run};

/// A language that the SDK is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Rust.
    Rust,
    /// JavaScript.
    JavaScript,
    /// Python.
    Python,
    /// Go.
    Go,
}

impl Language {
    /// As `remora plugin new` and the folders of the SDK have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::JavaScript => "javascript",
            Self::Python => "python",
            Self::Go => "go",
        }
    }

    /// What says which tools it is built with.
    fn tools(self) -> Vec<u8> {
        let version = |program: PathBuf, argument| run(self.command(&program).arg(argument)).ok().stdout;
        let wasm_tools = || version(setup("wasm-tools"), "--version");
        match self {
            // Both lie in folders that are named by the versions in them.
            Self::JavaScript => fs::read(setup("componentize-js")).must("read how componentize-js is called"),
            Self::Python => {
                let link = fs::read_link(setup("componentize-py")).must("see where componentize-py is");
                link.into_os_string().into_encoded_bytes()
            }
            Self::Go => [version("go".into(), "version"), wasm_tools()].concat(),
            Self::Rust => [version("rustc".into(), "--version"), wasm_tools()].concat(),
        }
    }

    /// A program that finds the tools, and of the build around this test no setting.
    fn command(self, program: &Path) -> Command {
        let mut path = setup("wasm-tools").parent().must("find the folder of the tools").as_os_str().to_owned();
        for more in [std::env::var_os("PATH").unwrap_or_default(), OsString::from("/usr/local/go/bin")] {
            path.push(":");
            path.push(more);
        }
        let mut command = Command::new(program);
        command.env("PATH", path).env("CARGO_TARGET_DIR", cache_root().join(format!("built-{}", self.name())));
        for ours in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "PYTHONPATH", "GOFLAGS"] {
            command.env_remove(ours);
        }
        command
    }
}

fn setup(name: &str) -> PathBuf {
    tool(name, "setup-languages")
}

/// The component that the script `build` in `project` makes, and leaves there as `leaves` or puts where `OUT` says. It is made
/// anew when the project, one of `beside` or a tool has changed.
#[track_caller]
pub fn component(language: Language, project: &Path, leaves: Option<&str>, beside: &[&Path]) -> PathBuf {
    let mut inputs = vec![language.tools()];
    for source in beside.iter().chain([&project]) {
        sources(source, &mut inputs);
    }
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let folder = cached(&format!("component-{}", language.name()), &inputs, |folder| {
        let out = folder.join("component.wasm");
        run(language.command(&project.join("build")).env("OUT", &out)).ok();
        if let Some(leaves) = leaves {
            fs::copy(project.join(leaves), &out).must(format_args!("find {leaves}, which `build` makes"));
        }
        assert!(out.is_file(), "{}/build made nothing", project.display());
    });
    folder.join("component.wasm")
}

/// The names and contents of all files of a folder but those that tools make.
fn sources(folder: &Path, inputs: &mut Vec<Vec<u8>>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .must(format_args!("list {}", folder.display()));
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let made = ["__pycache__", "node_modules", "target"].iter().any(|made| name == *made);
        if made || path.extension().is_some_and(|extension| extension == "wasm") {
            continue;
        }
        if path.is_dir() {
            sources(&path, inputs);
        } else {
            inputs.push(name.into_encoded_bytes());
            inputs.push(fs::read(&path).must(format_args!("read {}", path.display())));
        }
    }
}
