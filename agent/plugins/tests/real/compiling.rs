//! Compiling has a limit of time and one of memory, and costs the one who compiles nothing.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use remora_core::{Error, ErrorKind};
use remora_plugins::set::Generation;
use remora_plugins::{CompileLimits, Host, HostOptions, Refused, SelectPolicy, builtins};

use super::components::{options, selector};
use super::folder::{errors, next, now};

/// So many functions take a compiler some seconds, and far more memory than they have bytes.
const FUNCTIONS: usize = 40_000;

/// A component that is small, and takes much to compile.
pub(crate) fn bomb() -> Vec<u8> {
    let steps = "local.get 0 local.get 0 i32.rem_s local.set 0 ".repeat(10);
    let mut functions = String::from("(func $f0 (param i32) (result i32) (local.get 0))");
    for n in 1..FUNCTIONS {
        let before = n - 1;
        write!(functions, "(func $f{n} (param i32) (result i32) {steps} local.get 0 call $f{before})").unwrap();
    }
    let last = FUNCTIONS - 1;
    selector("(i32.const 0)", &format!("(call $f{last} (i32.const 0))"), &functions)
}

/// A component that is not built in: the same as one that is, with a section that nothing reads.
pub(crate) fn labels() -> Vec<u8> {
    let (_, labels) = builtins().find(|(name, _)| *name == "labels").unwrap();
    [labels, &[0, 2, 1, b'x']].concat()
}

pub(crate) fn host(compiler: &Path, limits: CompileLimits) -> Host {
    Host::new(&HostOptions { compiler: Some(compiler.into()), limits, ..HostOptions::default() }).unwrap()
}

fn refused(host: &Host, component: &[u8]) -> Error {
    match SelectPolicy::load(host, component, r#"{"all": true}"#) {
        Err(Refused::Because(error)) => error,
        other => panic!("{other:?}"),
    }
}

pub(crate) const NIGHTLY: &str = "\
kind: BackupPolicy
name: nightly
select:    {module: 'file:mine.wasm', settings: {all: true}}
schedule:  {module: builtin:cron, settings: {cron: 15 2 * * *}}
";

#[test]
fn a_component_that_takes_too_long_to_compile_is_refused_once_and_what_was_good_stays() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let compiler = elsewhere.path().join("compiler");
    symlink(options().compiler.unwrap(), &compiler).unwrap();
    fs::write(folder.path().join("mine.wasm"), labels()).unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    // How long a sound component takes is the machine's affair.
    let patient = host(&compiler, CompileLimits::default());
    let good = next(&Generation::default(), &patient, folder.path(), now());
    assert_eq!(errors(&good), [""; 0]);
    let host = host(&compiler, CompileLimits { seconds: 1, ..CompileLimits::default() });
    fs::write(folder.path().join("mine.wasm"), bomb()).unwrap();
    let stale = next(&good, &host, folder.path(), now());
    let told = errors(&stale).concat();
    let why = "line 3: select: file:mine.wasm: compiling the component takes too much: it took more than 1 s of processor time";
    assert!(told.contains(why), "{told}");
    assert!(stale.backups().all(|(_, since)| since.is_some()) && stale.backups().count() == 1);
    // Whoever follows a folder looks at what is broken in it at each change: it is not compiled then, for nothing could.
    fs::remove_file(&compiler).unwrap();
    assert_eq!(errors(&next(&stale, &host, folder.path(), now())).concat(), told);
}

#[test]
fn a_component_that_takes_too_much_memory_to_compile_is_refused() {
    let limits = CompileLimits { memory: 32 << 20, ..CompileLimits::default() };
    let error = refused(&host(&options().compiler.unwrap(), limits), &bomb());
    assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.chain());
    assert!(error.chain().contains("it took more than 32 MiB of memory"), "{}", error.chain());
}

#[test]
fn without_its_compiler_remora_says_what_is_missing_and_what_is_built_in_needs_none() {
    let host = host(Path::new("/nowhere/remora-plugin-host"), CompileLimits::default());
    let (_, built_in) = builtins().find(|(name, _)| *name == "labels").unwrap();
    SelectPolicy::load(&host, built_in, r#"{"all": true}"#).unwrap();
    let error = refused(&host, &labels());
    assert!(error.chain().contains("/nowhere/remora-plugin-host"), "{}", error.chain());
    assert!(error.advice().is_some_and(|advice| advice.contains("install all of them")), "{error:?}");
}

/// That it failed once says nothing of the component: it is loaded again though nothing in the folder has changed.
#[test]
fn what_failed_for_the_machine_s_sake_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let compiler = elsewhere.path().join("compiler");
    symlink("/bin/true", &compiler).unwrap();
    let host = host(&compiler, CompileLimits::default());
    fs::write(folder.path().join("mine.wasm"), labels()).unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let broken = next(&Generation::default(), &host, folder.path(), now());
    let told = errors(&broken).concat();
    assert!(told.contains("line 3: select: file:mine.wasm: compiling the component: "), "{told}");
    assert!(broken.is_due(&host));
    fs::remove_file(&compiler).unwrap();
    symlink(options().compiler.unwrap(), &compiler).unwrap();
    let good = next(&broken, &host, folder.path(), now());
    assert_eq!(errors(&good), [""; 0]);
    assert!(!good.is_due(&host));
}
