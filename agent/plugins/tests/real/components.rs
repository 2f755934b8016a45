//! Components for tests, made of text: a core module, and a world of `wit/policy`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use remora_plugins::{Host, HostOptions};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::{Resolve, WorldId};

/// A host that keeps nothing.
pub(crate) fn host() -> Host {
    Host::new(&options()).unwrap()
}

/// Its options: the program that compiles does not lie beside this one.
pub(crate) fn options() -> HostOptions {
    HostOptions { compiler: Some(env!("CARGO_BIN_EXE_remora-plugin-host").into()), ..HostOptions::default() }
}

/// The folder `wit` of the repository.
pub(crate) fn wit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")
}

/// A world of the policies, such as `selector`: of 0.1.0, or of another version that stands behind the name (`authorizer@0.2.0`).
pub(crate) fn world(of: &str) -> (Resolve, WorldId) {
    let (name, version) = versioned(of);
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit().join("policy").join(version)).unwrap();
    let world = resolve.select_world(&[package], Some(name)).unwrap();
    (resolve, world)
}

pub(crate) fn versioned(world: &str) -> (&str, &str) {
    world.split_once('@').unwrap_or((world, "0.1.0"))
}

/// A component of a core module.
pub(crate) fn component(module: &[u8], resolve: &Resolve, world: WorldId) -> Vec<u8> {
    let mut module = module.to_vec();
    wit_component::embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// A selector of which `configure`, `select` and what lies beside them are given as text. `0` is the address of zeros: an
/// empty list, or "these settings are fine".
pub(crate) fn selector(configure: &str, select: &str, beside: &str) -> Vec<u8> {
    policy("selector", configure, select, beside)
}

/// The worlds of policies, those of 0.1.0 first.
pub(crate) const WORLDS: [&str; 5] = ["selector", "scheduler", "keeper", "authorizer", "authorizer@0.2.0"];

/// The call of a world that answers its questions.
pub(crate) struct Call {
    pub(crate) interface: &'static str,
    pub(crate) name: &'static str,
    takes: &'static str,
    /// Where the length of the first text that is asked about stands: the name of a VM, or of who asks.
    length: &'static str,
    /// The bytes that an answer takes.
    pub(crate) size: u32,
    /// Where in it the address of its reason stands; the reason's length comes next.
    pub(crate) reason: u32,
}

/// The call of a world. Where fields stand in memory follows from `wit/policy` by the component model's canonical ABI.
pub(crate) fn call_of(world: &str) -> Call {
    let list = Call {
        interface: "select",
        name: "select",
        takes: "i32 i32",
        length: "(i32.load offset=4 (local.get 0))",
        size: 12,
        reason: 4,
    };
    let decisions = Call { interface: "authorize", name: "authorize", size: 32, reason: 12, ..list };
    match world {
        "selector" => list,
        "scheduler" => Call { interface: "schedule", name: "next", size: 24, reason: 16, ..list },
        // One question, and no list of them: the fields of the record, of which the time is the one with 64 bits.
        "keeper" => Call {
            interface: "retention",
            name: "judge",
            takes: "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32",
            length: "(local.get 1)",
            ..list
        },
        "authorizer" => decisions,
        // The address of a context of 104 bytes, and of a list of accesses behind it.
        "authorizer@0.2.0" => Call { takes: "i32", ..decisions },
        other => panic!("there is no world {other}"),
    }
}

/// Memory, of which calls take some from 4096 on and give nothing back.
pub(crate) const MEMORY: &str = r#"
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 4096))
    (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
        (global.set $next (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
"#;

/// A component of a world; what lies beside its functions may begin with imports.
pub(crate) fn policy(of: &str, configure: &str, answer: &str, beside: &str) -> Vec<u8> {
    let (resolve, world) = world(of);
    component(&module(of, configure, answer, beside), &resolve, world)
}

/// Its core module.
pub(crate) fn module(of: &str, configure: &str, answer: &str, beside: &str) -> Vec<u8> {
    let (Call { interface, name, takes, .. }, (_, version)) = (call_of(of), versioned(of));
    let text = format!(
        r#"(module
            {beside}
            {MEMORY}
            (func (export "remora:policy/{interface}@{version}#configure") (param i32 i32) (result i32) {configure})
            (func (export "remora:policy/{interface}@{version}#{name}") (param {takes}) (result i32) {answer}))"#
    );
    wat::parse_str(text).unwrap()
}

/// A component of a world that does what is given, but not when it is loaded: it answers the first, harmless question then.
pub(crate) fn late(of: &str, answer: &str, beside: &str) -> Vec<u8> {
    policy(of, "(i32.const 0)", &second(of, answer), beside)
}

/// What is given, but for the first question, which gets one answer, of zeros. That is about a canary, and known by its name, which
/// has 6 letters.
pub(crate) fn second(of: &str, answer: &str) -> String {
    format!(
        "(if (i32.eq {} (i32.const 6)) (then
            (i32.store (i32.const 64) (i32.const 128))
            (i32.store (i32.const 68) (i32.const 1))
            (return (i32.const 64))))
         {answer}",
        call_of(of).length
    )
}

/// What no call may take, whatever a component does: its deadline, and room for a busy machine.
pub(crate) const FOR_EVER: Duration = Duration::from_mins(10);
