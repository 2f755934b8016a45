//! Components that are not taken, and what is said of them.

use remora_core::{Error, ErrorKind};
use remora_plugins::{Refused, SelectPolicy, builtins};
use wit_component::dummy_module;
use wit_parser::{ManglingAndAbi, Resolve};

use super::components::{component, host, selector};

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

#[test]
fn what_is_no_policy_of_this_version_is_told_apart() {
    let newer = "package remora:policy@0.2.0; interface select { configure: func(); } world w { export select; }";
    let other = "package acme:other@1.0.0; interface thing { go: func(); } world w { export thing; }";
    let import = "package acme:other@1.0.0; interface net { send: func(); } interface thing { go: func(); }
                  world w { import net; export thing; }";
    // The name and version of an interface that this host knows, and other types.
    let lie = "package remora:policy@0.1.0; interface select { configure: func(settings: string) -> u32;
               select: func() -> u32; } world w { export select; }";
    let gfs = builtins().find(|(name, _)| *name == "gfs").unwrap().1;
    let mut cut = selector("(i32.const 0)", "(i32.const 0)", "");
    cut.truncate(cut.len() / 2);
    let table: [(&str, &[u8], ErrorKind, &str, &str); 9] = [
        ("text", b"hello", ErrorKind::Invalid, "no WebAssembly component", "\\0asm"),
        ("nothing", b"", ErrorKind::Invalid, "no WebAssembly component", "\\0asm"),
        ("a core module", &wat::parse_str("(module)").unwrap(), ErrorKind::Invalid, "core module", "component new"),
        ("compiled code", b"\x7fELF...", ErrorKind::Invalid, "compiled code", ".wasm"),
        ("half a component", &cut, ErrorKind::Invalid, "no valid component", "Fetch it again"),
        ("a newer version", &of_world(newer), ErrorKind::Unsupported, "remora:policy/select@0.2.0", "update one"),
        ("another world", &of_world(other), ErrorKind::Unsupported, "acme:other/thing", "remora:policy/select@0.1.0"),
        ("an import", &of_world(import), ErrorKind::Refused, "acme:other/net", "wasm32-unknown-unknown"),
        ("another kind of policy", gfs, ErrorKind::Invalid, "remora:policy/retention", "select"),
    ];
    for (name, bytes, kind, said, advice) in table {
        let error = refused(bytes);
        assert_eq!(error.kind(), kind, "{name}: {}", error.chain());
        assert!(error.chain().contains(said), "{name}: {}", error.chain());
        assert!(!advice.is_empty() && error.advice().unwrap().contains(advice), "{name}: {:?}", error.advice());
    }
    // Types are looked at when it is started.
    let error = refused(&of_world(lie));
    assert_eq!(error.kind(), ErrorKind::Failed, "{}", error.chain());
    assert!(error.chain().contains("starting it failed: expected `result` found `u32`"), "{}", error.chain());
    assert!(error.advice().unwrap().contains("against the wit/ of this version"), "{:?}", error.advice());
}
