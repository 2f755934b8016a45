//! Running `remora` as a user does: its built binary, with its environment set for this one child.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::lab::Lab;
use crate::process::{Must, Ran, run};

/// The passphrase of the test repositories that have one.
pub const PASSPHRASE: &str = "correct horse battery staple";

/// The key file of all others.
pub const KEY_FILE: [u8; 32] = [7; 32];

/// `remora` with a repository and a hypervisor.
#[derive(Clone, Debug)]
pub struct Remora {
    variables: Vec<(OsString, OsString)>,
}

impl Remora {
    /// For the repository at `repository` and the lab's libvirt, with a key file: a passphrase costs a second each time.
    pub fn new(lab: &Lab, repository: impl AsRef<OsStr>) -> Self {
        let key = lab.scratch("key").join("key");
        let mode = fs::Permissions::from_mode(0o600);
        fs::write(&key, KEY_FILE).and_then(|()| fs::set_permissions(&key, mode)).must("write a key file");
        Self { variables: Vec::new() }
            .with("REMORA_REPO", repository)
            .with("REMORA_KEY_FILE", key)
            .with("LIBVIRT_DEFAULT_URI", lab.uri())
            .with("REMORA_RUN_DIR", lab.dir().join("remora"))
            .with("REMORA_STATE_DIR", lab.dir().join("state"))
            .with("REMORA_CONFIG", "/dev/null") // Not the one of whoever runs the tests.
    }

    /// For the repository at `repository`, with no hypervisor; what it keeps lies in `folder`.
    pub fn bare(folder: &Path, repository: impl AsRef<OsStr>) -> Self {
        Self { variables: Vec::new() }
            .with("REMORA_REPO", repository)
            .with("REMORA_RUN_DIR", folder.join("run"))
            .with("REMORA_STATE_DIR", folder.join("state"))
            .with("REMORA_CONFIG", "/dev/null")
    }

    /// For a new repository in a folder of the lab's.
    #[track_caller]
    pub fn init(lab: &Lab) -> Self {
        let remora = Self::new(lab, lab.scratch("repository").join("repo"));
        remora.ok(["repo", "init"]);
        remora
    }

    /// For a new repository with a passphrase.
    #[track_caller]
    pub fn init_with_passphrase(lab: &Lab) -> Self {
        let remora = Self::new(lab, lab.scratch("repository").join("repo"))
            .without("REMORA_KEY_FILE")
            .with("REMORA_PASSPHRASE", PASSPHRASE);
        remora.ok(["repo", "init"]);
        remora
    }

    /// With another value of an environment variable.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self = self.without(name.as_ref());
        self.variables.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Without an environment variable.
    #[must_use]
    pub fn without(mut self, name: impl AsRef<OsStr>) -> Self {
        self.variables.retain(|(other, _)| other != name.as_ref());
        self
    }

    /// The repository's place, as it was given.
    pub fn repository(&self) -> PathBuf {
        self.variable("REMORA_REPO")
    }

    /// The path in an environment variable.
    pub fn variable(&self, name: &str) -> PathBuf {
        let found = self.variables.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.into()).must(format_args!("find {name}: it was not set, or taken away"))
    }

    /// The command, not yet started. It sees no `REMORA_*` of ours but those that were set.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(program("remora"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REMORA_") {
                command.env_remove(name);
            }
        }
        command.args(args).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end, whatever that is.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        run(&mut self.command(args))
    }

    /// Runs it; panics unless it succeeds.
    #[track_caller]
    pub fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        self.run(args).ok()
    }

    /// Runs it with `-o json` and gives the JSON; panics unless it succeeds.
    #[track_caller]
    pub fn json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Value {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned()).chain(["-o".into(), "json".into()]);
        self.run(args).ok().json()
    }

    /// Runs it; panics unless it fails with this exit code and says this on standard error.
    #[track_caller]
    pub fn fails<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, code: i32, says: &str) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code(), code, "{ran:?}");
        assert!(ran.stderr.contains(says), "{says:?} is not in the message of {ran:?}");
        ran
    }

    /// Starts it, with pipes for its output, and lets it run.
    #[track_caller]
    pub fn spawn<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().must(format_args!("start {command:?}"))
    }
}

/// A program to test: the one of this build beside the test's own; for `remora`, `REMORA_BIN` goes before it.
pub(crate) fn program(name: &str) -> PathBuf {
    static CHECKED: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    if let Some(given) = std::env::var_os("REMORA_BIN").filter(|_| name == "remora") {
        return given.into();
    }
    let mut checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = checked.get(name) {
        return known.clone();
    }
    let own = std::env::current_exe().must("find this program");
    let folders = own.ancestors().skip(1).take(2); // Tests lie in `deps`, programs beside it.
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    let binary = found.must(format_args!("find the program {name} near {}: run `make build`", own.display()));
    if let Err(newer) = assert_fresh(&binary) {
        panic!("{} is older than {newer}: run `make build` (or set REMORA_BIN)", binary.display());
    }
    checked.insert(name.to_owned(), binary.clone());
    binary
}

/// The first of a binary's sources (cargo lists them beside it) that is newer than it.
fn assert_fresh(binary: &Path) -> Result<(), String> {
    let list = binary.with_extension("d");
    let built = modified(binary);
    let text = fs::read_to_string(&list).must(format_args!("read {}: run `make build`", list.display()));
    let sources = text.split_once(": ").map_or("", |(_, sources)| sources).replace("\\ ", "\0");
    for source in sources.split_whitespace().map(|source| source.replace('\0', " ")) {
        if Path::new(&source).exists() && modified(Path::new(&source)) > built {
            return Err(source);
        }
    }
    Ok(())
}

fn modified(path: &Path) -> std::time::SystemTime {
    let metadata = fs::metadata(path).must(format_args!("look at {}", path.display()));
    metadata.modified().must("read a file's time")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_source_newer_than_the_binary_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let [binary, source] = ["remora", "a source.rs"].map(|name| dir.path().join(name));
        fs::write(&binary, "").unwrap();
        fs::write(&source, "").unwrap();
        let listed = source.to_string_lossy().replace(' ', "\\ ");
        fs::write(dir.path().join("remora.d"), format!("{}: {listed} /gone\n", binary.display())).unwrap();
        let touch = |at: SystemTime| fs::File::options().write(true).open(&source).unwrap().set_modified(at).unwrap();
        touch(modified(&binary) - Duration::from_secs(1));
        assert_eq!(assert_fresh(&binary), Ok(()));
        touch(modified(&binary) + Duration::from_secs(1));
        assert_eq!(assert_fresh(&binary), Err(source.display().to_string()));
    }
}
