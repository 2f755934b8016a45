//! A large module is compiled beside the other policies, which wait for nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use remora_plugins::set::{Generation, Kept, Snapshot};
use remora_plugins::{CompileLimits, Host, HostOptions, Wants};
use tempfile::TempDir;

use super::compiling::{NIGHTLY, bomb, host, labels};
use super::components::{self, options};
use super::folder::{errors, next, now};

/// Makes a compiler that says when it begins, and goes on when it is told to.
const GATED: &str = r#"mkfifo "$1/begun" "$1/gate" &&
printf '#!/bin/sh\necho > %s/begun\nread -r line < %s/gate\nexec %s "$@"\n' "$1" "$1" "$2" > "$1/compiler" &&
chmod 700 "$1/compiler""#;

/// Makes a compiler that a second of a processor is not enough for.
const SLOW: &str = r#"printf '#!/bin/sh\n[ "$3" = 1 ] && kill -XCPU $$\nexec %s "$@"\n' "$2" > "$1/compiler" &&
chmod 700 "$1/compiler""#;

/// Has a compiler made in a folder, around the real one.
fn make(script: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    // By a process of its own: one that another test starts meanwhile would have the file open too, and what somebody has open
    // for writing cannot be run.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script, "sh"]).arg(dir.path()).arg(options().compiler.unwrap());
    assert!(shell.status().unwrap().success());
    dir
}

/// A compiler that compiles when it is let.
struct Gate(TempDir);

impl Gate {
    fn new() -> Self {
        Self(make(GATED))
    }

    fn compiler(&self) -> PathBuf {
        self.0.path().join("compiler")
    }

    /// Waits until it has begun.
    fn begun(&self) {
        fs::read(self.0.path().join("begun")).unwrap();
    }

    /// Lets it go on.
    fn open(&self) {
        fs::write(self.0.path().join("gate"), "\n").unwrap();
    }
}

/// A module that is too large to be compiled at once: one that is not, with a section of 1 MiB that nothing reads.
fn large() -> Vec<u8> {
    let mut component = labels();
    component.extend([0, 0x80, 0x80, 0x40, 1, b'x']);
    component.resize(component.len() + (1 << 20) - 2, 0);
    component
}

/// A policy of what is built in.
fn weekly(cron: &str) -> String {
    NIGHTLY.replace("nightly", "weekly").replace("file:mine.wasm", "builtin:labels").replace("15 2 * * *", cron)
}

fn at_hand(before: &Generation, host: &Host, folder: &Path) -> Generation {
    before.next_at_hand(host, &Snapshot::read(folder).unwrap(), None, now())
}

/// The policies in force, and when they are due.
fn policies(generation: &Generation) -> Vec<(&str, &str)> {
    generation.backups().map(|(policy, _)| (policy.name.as_str(), policy.schedule.settings())).collect()
}

/// The documents that wait for a module.
fn waiting(generation: &Generation) -> Vec<&str> {
    generation.files.iter().filter(|file| file.is_waiting()).map(|file| file.file.as_str()).collect()
}

fn beside(host: &Host) -> JoinHandle<()> {
    let host = host.clone();
    thread::spawn(move || host.compile_wanted())
}

/// A folder with a policy of a module, and with another one.
fn two(module: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine.wasm"), module).unwrap();
    fs::write(folder.path().join("a-slow.yaml"), NIGHTLY).unwrap();
    fs::write(folder.path().join("weekly.yaml"), weekly("1 1 * * 0")).unwrap();
    folder
}

#[test]
fn a_change_is_in_force_before_a_large_module_is_compiled_which_is_in_force_later() {
    let (folder, gate) = (two(&large()), Gate::new());
    let host = host(&gate.compiler(), CompileLimits::default());
    let first = at_hand(&Generation::default(), &host, folder.path());
    let told = errors(&first).concat();
    assert!(told.contains("a-slow.yaml, line 3: select: file:mine.wasm: it is being compiled"), "{told}");
    assert_eq!((waiting(&first), policies(&first)), (vec!["a-slow.yaml"], vec![("weekly", r#"{"cron":"1 1 * * 0"}"#)]));
    assert!(host.wants_compiling(Wants::New));
    let compiling = beside(&host);
    gate.begun();
    fs::write(folder.path().join("weekly.yaml"), weekly("2 2 * * 0")).unwrap();
    let second = at_hand(&first, &host, folder.path());
    assert_eq!(
        (waiting(&second), policies(&second)),
        (vec!["a-slow.yaml"], vec![("weekly", r#"{"cron":"2 2 * * 0"}"#)])
    );
    assert!(!host.wants_compiling(Wants::New), "it would be compiled twice");
    gate.open();
    compiling.join().unwrap();
    assert!(second.is_due(&host));
    let third = at_hand(&second, &host, folder.path());
    assert_eq!(errors(&third), [""; 0]);
    let names: Vec<_> = policies(&third).into_iter().map(|(name, _)| name).collect();
    assert_eq!((names, third.number), (vec!["nightly", "weekly"], 3));
    assert!(!third.is_due(&host) && !host.wants_compiling(Wants::All));
}

#[test]
fn a_large_module_that_is_refused_is_told_and_not_tried_again_until_it_changes() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let compiler = elsewhere.path().join("compiler");
    symlink(options().compiler.unwrap(), &compiler).unwrap();
    let host = host(&compiler, CompileLimits { seconds: 1, ..CompileLimits::default() });
    fs::write(folder.path().join("mine.wasm"), labels()).unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    // One that is small is in force at once.
    let good = at_hand(&Generation::default(), &host, folder.path());
    assert_eq!(errors(&good), [""; 0]);
    fs::write(folder.path().join("mine.wasm"), bomb()).unwrap();
    let stale = at_hand(&good, &host, folder.path());
    assert_eq!((waiting(&stale), policies(&stale).len()), (vec!["nightly.yaml"], 1));
    host.compile_wanted();
    let refused = at_hand(&stale, &host, folder.path());
    let told = errors(&refused).concat();
    assert!(told.contains("line 3: select: file:mine.wasm: compiling the component takes too much: it took"), "{told}");
    assert_eq!((waiting(&refused), policies(&refused).len()), (vec![], 1));
    assert!(!refused.is_due(&host) && !host.wants_compiling(Wants::All));
    // Another change compiles nothing: nothing could.
    fs::remove_file(&compiler).unwrap();
    fs::write(folder.path().join("weekly.yaml"), weekly("1 1 * * 0")).unwrap();
    let other = at_hand(&refused, &host, folder.path());
    assert_eq!((errors(&other).concat(), policies(&other).len()), (told, 2));
    assert!(!host.wants_compiling(Wants::All));
    // What is in force is compiled.
    fs::write(folder.path().join("mine.wasm"), labels()).unwrap();
    assert_eq!(errors(&at_hand(&other, &host, folder.path())), [""; 0]);
}

#[test]
fn a_document_that_is_removed_while_its_module_is_compiled_leaves_nothing() {
    let (folder, gate) = (two(&large()), Gate::new());
    let host = host(&gate.compiler(), CompileLimits::default());
    let first = at_hand(&Generation::default(), &host, folder.path());
    let compiling = beside(&host);
    gate.begun();
    fs::remove_file(folder.path().join("a-slow.yaml")).unwrap();
    let second = at_hand(&first, &host, folder.path());
    let standing = |generation: &Generation| {
        let names: Vec<_> = policies(generation).into_iter().map(|(name, _)| name.to_owned()).collect();
        (errors(generation), names, generation.is_due(&host), host.wants_compiling(Wants::All))
    };
    let weekly = (Vec::new(), vec!["weekly".to_owned()], false, false);
    assert_eq!(standing(&second), weekly);
    gate.open();
    compiling.join().unwrap();
    let third = at_hand(&second, &host, folder.path());
    assert_eq!(standing(&third), weekly);
    assert!(third.is_same(&second));
}

#[test]
fn a_large_module_that_failed_for_the_machines_sake_is_compiled_again_but_not_at_once() {
    let (folder, elsewhere) = (two(&large()), tempfile::tempdir().unwrap());
    let compiler = elsewhere.path().join("compiler");
    symlink("/bin/true", &compiler).unwrap();
    let host = host(&compiler, CompileLimits::default());
    let first = at_hand(&Generation::default(), &host, folder.path());
    host.compile_wanted();
    let failed = at_hand(&first, &host, folder.path());
    let told = errors(&failed).concat();
    assert!(told.contains("file:mine.wasm: compiling the component: "), "{told}");
    assert!(failed.is_due(&host) && waiting(&failed).is_empty());
    assert!(!host.wants_compiling(Wants::New) && host.wants_compiling(Wants::All));
    fs::remove_file(&compiler).unwrap();
    symlink(options().compiler.unwrap(), &compiler).unwrap();
    host.compile_wanted();
    assert_eq!(errors(&at_hand(&failed, &host, folder.path())), [""; 0]);
}

#[test]
fn a_small_module_that_takes_long_to_compile_is_left_to_later_too() {
    let (folder, compiler) = (two(&labels()), make(SLOW));
    let host = host(&compiler.path().join("compiler"), CompileLimits::default());
    let first = at_hand(&Generation::default(), &host, folder.path());
    assert_eq!((waiting(&first), policies(&first).len()), (vec!["a-slow.yaml"], 1), "{:?}", errors(&first));
    host.compile_wanted();
    let second = at_hand(&first, &host, folder.path());
    assert_eq!((errors(&second).concat(), policies(&second).len()), (String::new(), 2));
}

#[test]
fn what_was_compiled_once_is_at_hand() {
    let (folder, state) = (two(&large()), tempfile::tempdir().unwrap());
    let with = |compiler: Option<PathBuf>| {
        Host::new(&HostOptions { state: Some(state.path().into()), compiler, ..HostOptions::default() }).unwrap()
    };
    assert_eq!(errors(&next(&Generation::default(), &with(options().compiler), folder.path(), now())), [""; 0]);
    let without = with(Some("/nowhere/remora-plugin-host".into()));
    assert_eq!(errors(&at_hand(&Generation::default(), &without, folder.path())), [""; 0]);
}

/// As after an update of remora, when nothing is compiled yet.
#[test]
fn a_last_good_version_whose_module_has_to_be_compiled_first_is_in_force_then() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kept = Kept::new(elsewhere.path().join("kept"));
    let snapshot = || Snapshot::read(folder.path()).unwrap();
    fs::write(folder.path().join("mine.wasm"), large()).unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let good = Generation::default().next_kept(&components::host(), &snapshot(), &kept, now());
    assert_eq!(errors(&good), [""; 0]);
    fs::write(folder.path().join("nightly.yaml"), "kind: BackupPolicy\nname: [\n").unwrap();
    let host = components::host();
    let first = Generation::default().next_at_hand(&host, &snapshot(), Some(&kept), now());
    assert_eq!((policies(&first).len(), first.is_due(&host)), (0, true));
    host.compile_wanted();
    let second = first.next_at_hand(&host, &snapshot(), Some(&kept), now());
    assert!(second.backups().all(|(_, since)| since.is_some()));
    assert_eq!((policies(&second).len(), errors(&second).len(), second.is_due(&host)), (1, 1, false));
}
