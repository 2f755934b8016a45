//! Components that are not taken, and what is said of them.

use std::fs;

use jiff::SignedDuration;
use remora_core::policy::{Select, VmFacts};
use remora_core::{Error, ErrorKind, VmName};
use remora_plugins::set::Generation;
use remora_plugins::{Refused, SelectPolicy, builtins};
use wit_component::dummy_module;
use wit_parser::{ManglingAndAbi, Resolve};

use super::components::{component, host, selector};
use super::folder::{ACCESS, NIGHTLY, code, errors, next, now};

fn refused(bytes: &[u8]) -> Error {
    match SelectPolicy::load(&host(), bytes, "{}") {
        Err(Refused::Because(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// A component of a world that is written here.
fn of_world(text: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("world.wit", text).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    component(&dummy_module(&resolve, world, ManglingAndAbi::Standard32), &resolve, world)
}

/// What a component is, its bytes, of which kind the error is, and what stands in it and in its advice.
type Refusal = (&'static str, Vec<u8>, ErrorKind, &'static str, &'static str);

/// Components that no selector is made of.
fn refusals() -> [Refusal; 11] {
    let newer = "package remora:policy@0.2.0; interface select { configure: func(); } world w { export select; }";
    let newer_import = "package remora:policy@0.2.0; interface types { now: func() -> u64; }
                        interface select { configure: func(); } world w { import types; export select; }";
    let other = "package acme:other@1.0.0; interface thing { go: func(); } world w { export thing; }";
    let import = "package acme:other@1.0.0; interface net { send: func(); } interface thing { go: func(); }
                  world w { import net; export thing; }";
    // The name and version of an interface that this host knows, and other types, which are looked at when it is started.
    let lie = "package remora:policy@0.1.0; interface select { configure: func(settings: string) -> u32;
               select: func() -> u32; } world w { export select; }";
    let found = "starting it failed: expected `result` found `u32`";
    let gfs = builtins().find(|(name, _)| *name == "gfs").unwrap().1;
    let core = wat::parse_str("(module)").unwrap();
    let mut cut = selector("(i32.const 0)", "(i32.const 0)", "");
    cut.truncate(cut.len() / 2);
    let [newer, newer_import, other, import, lie] = [newer, newer_import, other, import, lie].map(of_world);
    [
        ("text", b"hello".to_vec(), ErrorKind::Invalid, "no WebAssembly component", "\\0asm"),
        ("nothing", Vec::new(), ErrorKind::Invalid, "no WebAssembly component", "\\0asm"),
        ("a core module", core, ErrorKind::Invalid, "core module", "component new"),
        ("compiled code", b"\x7fELF...".to_vec(), ErrorKind::Invalid, "compiled code", ".wasm"),
        ("half a component", cut, ErrorKind::Invalid, "no valid component", "Fetch it again"),
        ("a newer version", newer, ErrorKind::Unsupported, "remora:policy/select@0.2.0", "a newer remora is needed"),
        ("its import", newer_import, ErrorKind::Refused, "remora:policy/types@0.2.0", "a newer remora is needed"),
        ("another world", other, ErrorKind::Unsupported, "acme:other/thing", "remora:policy/select@0.1.0"),
        ("an import", import, ErrorKind::Refused, "acme:other/net", "wasm32-unknown-unknown"),
        ("another kind of policy", gfs.to_vec(), ErrorKind::Invalid, "remora:policy/retention", "select"),
        ("other types", lie, ErrorKind::Failed, found, "against the wit/ of this version"),
    ]
}

/// That an error tells what is wrong, and what to do.
#[track_caller]
fn assert_tells(error: &Error, (name, _, kind, said, advice): &Refusal) {
    assert_eq!(error.kind(), *kind, "{name}: {}", error.chain());
    assert!(error.chain().contains(said), "{name}: {}", error.chain());
    assert!(error.advice().unwrap_or_default().contains(advice), "{name}: {:?}", error.advice());
}

#[test]
fn what_is_no_policy_of_this_version_is_told_apart() {
    for refusal in refusals() {
        assert_tells(&refused(&refusal.1), &refusal);
    }
}

/// As an administrator meets it: in a document of a folder, in the place of a module that was good.
#[tokio::test]
async fn a_document_with_such_a_module_is_told_where_and_hinders_no_other() {
    let host = host();
    let bad = NIGHTLY.replacen("builtin:labels", "file:bad.wasm", 1);
    let minute = SignedDuration::from_mins(1);
    for refusal in refusals() {
        let name = refusal.0;
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, bytes: &[u8]| fs::write(folder.path().join(file), bytes).unwrap();
        write("nightly.yaml", NIGHTLY.as_bytes());
        write("access.yaml", ACCESS.as_bytes());
        let good = next(&Generation::default(), &host, folder.path(), now());
        assert_eq!(errors(&good), [""; 0], "{name}");

        // The neighbour changes in the same step.
        write("bad.wasm", &refusal.1);
        write("nightly.yaml", bad.as_bytes());
        write("access.yaml", ACCESS.replace("[root]", "[admin]").as_bytes());
        let stale = next(&good, &host, folder.path(), now() + minute);
        let broken: Vec<_> = stale.broken().collect();
        let [(file, error)] = broken.as_slice() else { panic!("{name}: {:?}", errors(&stale)) };
        assert_eq!(file.file, "nightly.yaml", "{name}");
        assert_tells(error, &refusal);
        let told = error.chain();
        assert!(told.starts_with("nightly.yaml, line 3: select: file:bad.wasm: "), "{name}: {told}");
        assert!(code(&stale, "admin", "/x", now()).0 && !code(&stale, "root", "/x", now()).0, "{name}");
        let (policy, since) = stale.backups().next().unwrap();
        assert_eq!(since, Some(now() + minute), "{name}");
        let vms = ["db-1", "web-1"].map(|name| VmFacts::named(VmName::new(name).unwrap()));
        let answers = policy.select.select(&vms).await.unwrap();
        assert_eq!(answers.iter().map(|answer| answer.selected).collect::<Vec<_>>(), [true, false], "{name}");

        // Without a version that was good there is nothing to stay, and the neighbour works all the same.
        let first = next(&Generation::default(), &host, folder.path(), now());
        assert_eq!((first.backups().count(), first.broken().count()), (0, 1), "{name}");
        assert!(code(&first, "admin", "/x", now()).0, "{name}");
    }
}
