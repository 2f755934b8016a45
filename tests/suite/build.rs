//! `make build` leaves the programs in `target/release` of the checkout, wherever the cache is.
//!
//! The real Makefile and the real cargo build a workspace that is made in an instant: two programs of one line, and the test
//! that `make build` names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use remora_tests::{Ran, run};
use tempfile::TempDir;

/// The names of the programs.
const PROGRAMS: [&str; 2] = ["remora", "another"];

/// A checkout with the Makefile of this one.
struct Checkout(TempDir);

impl Checkout {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for folder in ["tests", "src/bin", "home"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for file in ["Makefile", "tests/install-packages"] {
            // By a program: what is open here for writing, a program that another test starts has open, too, until its exec,
            // and a script that somebody may write to cannot be run.
            run(Command::new("cp").arg(ours.join(file)).arg(dir.path().join(file))).ok();
        }
        let files = [
            ("Cargo.toml", "[workspace]\n[package]\nname = \"remora\"\nedition = \"2024\"\n"),
            ("tests/kubernetes.rs", "#[test]\nfn works() {}\n"),
            ("Cargo.lock", "version = 4\n[[package]]\nname = \"remora\"\nversion = \"0.0.0\"\n"),
        ];
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let checkout = Self(dir);
        checkout.says("the first build");
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// From the next build on each program says this.
    fn says(&self, text: &str) {
        for name in PROGRAMS {
            // Whoever starts it with an argument finds it running until its input ends.
            let wait = "if std::env::args().len() > 1 { std::io::stdin().lines().count(); }";
            let source = format!("fn main() {{ println!(\"{name}: {text}\"); {wait} }}\n");
            fs::write(self.path("src/bin").join(name).with_extension("rs"), source).unwrap();
        }
    }

    /// `make build` with nothing of our own environment but what finds the tools.
    fn build(&self, variables: &[(&str, &Path)]) -> Ran {
        let toolchain = Path::new(env!("CARGO")).parent().unwrap();
        let path = format!("{}:{}", toolchain.display(), std::env::var("PATH").unwrap());
        let mut make = Command::new("make");
        make.arg("build").current_dir(&self.0).env_clear().env("PATH", path).env("HOME", self.path("home"));
        run(make.envs(variables.iter().copied())).ok()
    }

    fn program(&self, name: &str) -> PathBuf {
        self.path("target/release").join(name)
    }

    #[track_caller]
    fn assert_says(&self, text: &str) {
        for name in PROGRAMS {
            assert_eq!(run(&mut Command::new(self.program(name))).ok().text(), format!("{name}: {text}"));
        }
    }
}

#[test]
fn the_programs_are_in_the_checkout_wherever_the_cache_is() {
    let elsewhere = tempfile::tempdir().unwrap();
    let [cache, xdg, target] = ["a cache", "xdg", "target"].map(|name| elsewhere.path().join(name));
    let settings: [(&[(&str, &Path)], &Path); 5] = [
        (&[], Path::new("home/.cache/remora/target")),
        (&[("REMORA_CACHE", &cache)], &cache.join("target")),
        (&[("XDG_CACHE_HOME", &xdg)], &xdg.join("remora/target")),
        (&[("CARGO_TARGET_DIR", &target), ("REMORA_CACHE", &cache)], &target),
        (&[("CARGO_TARGET_DIR", Path::new("target"))], Path::new("target")),
    ];
    for (variables, built) in settings {
        let checkout = Checkout::new();
        checkout.build(variables);
        checkout.assert_says("the first build");
        let built = checkout.0.path().join(built).join("release/remora");
        assert!(built.is_file(), "{variables:?}: cargo did not build where it was told to: {}", built.display());
        // Nothing else lies in the checkout if the cache is elsewhere.
        if built.parent() != checkout.program("remora").parent() {
            let mut found: Vec<_> =
                fs::read_dir(checkout.path("target/release")).unwrap().map(|it| it.unwrap().file_name()).collect();
            found.sort();
            assert_eq!(found, ["another", "another.d", "remora", "remora.d"]);
        }
    }
}

/// Stops the program, whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn a_build_replaces_the_programs_of_an_older_one_also_if_they_run() {
    let checkout = Checkout::new();
    checkout.build(&[]);
    let mut running = Command::new(checkout.program("remora"));
    let running = Running(running.arg("wait").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    checkout.says("the second build");
    checkout.build(&[("REMORA_CACHE", &checkout.path("other cache"))]);
    checkout.assert_says("the second build");
    checkout.says("the first build");
    checkout.build(&[]);
    checkout.assert_says("the first build");
    assert_eq!(fs::metadata(checkout.program("remora")).unwrap().permissions().mode() & 0o111, 0o111);
    drop(running);
}
