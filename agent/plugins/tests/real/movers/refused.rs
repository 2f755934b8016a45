//! Movers that are not taken, and what is said of them.

use std::fs;

use remora_core::{Error, ErrorKind};
use remora_plugins::{Digest, builtins};
use wit_component::dummy_module;
use wit_parser::{ManglingAndAbi, Resolve};

use super::{Folder, example};
use crate::components::component;

async fn refused(folder: &Folder, name: &str) -> Error {
    match folder.movers.open(name, "") {
        Err(error) => error,
        Ok(store) => store.probe().await.unwrap_err(),
    }
}

fn of_world(text: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("world.wit", text).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    component(&dummy_module(&resolve, world, ManglingAndAbi::Standard32), &resolve, world)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_mover_of_this_version_is_told_apart() {
    let folder = Folder::new();
    let newer = "package remora:mover@0.2.0; interface objects { open: func(); } world w { export objects; }";
    let newer_import =
        "package remora:mover@0.2.0; interface host-io { send: func(); } interface objects { open: func(); }
                        world w { import host-io; export objects; }";
    // The name and version of an interface that this host knows, and other functions.
    let other = "package remora:mover@0.1.0; interface objects { other: func(); } world w { export objects; }";
    let import = "package acme:other@1.0.0; interface net { send: func(); } interface thing { go: func(); }
                  world w { import net; export thing; }";
    let (_, policy) = builtins().next().unwrap();
    let core = wat::parse_str("(module)").unwrap();
    for (bytes, said, advice) in [
        (b"text".to_vec(), "no WebAssembly component", "\\0asm"),
        (core, "core module", "component new"),
        (policy.to_vec(), "does not export remora:mover/objects@0.1.0", "of the world object-store"),
        (of_world(newer), "it exports remora:mover/objects@0.2.0", "a newer remora is needed"),
        (of_world(newer_import), "it imports remora:mover/host-io@0.2.0", "a newer remora is needed"),
        (of_world(import), "it imports acme:other/net@1.0.0", "wasm32-unknown-unknown"),
        (b"\0asm\x0d\0\x01\0nonsense".to_vec(), "no valid component", "Fetch it again"),
        (of_world(other), "does not have export", "against the wit/ of this version"),
    ] {
        folder.write("strange", &bytes, "");
        let error = refused(&folder, "strange").await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.chain());
        let place = "mover strange: strange.yaml, line 3: module: file:strange.wasm: ";
        assert!(error.chain().starts_with(place) && error.chain().contains(said), "{}", error.chain());
        assert!(error.advice().unwrap().contains(advice), "{said}: {:?}", error.advice());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_the_mover_does_not_take_are_shown_where_they_stand() {
    let folder = Folder::new();
    let bytes = fs::read(example("hostile")).unwrap();
    for (lines, said) in [
        ("settings:\n  url: ''\n  misbehave: nonsense\n", "x.yaml, line 6: settings: /misbehave: it is nonsense"),
        ("settings:\n  misbehaviour: x\n", "x.yaml, line 5: settings: "),
    ] {
        folder.write("x", &bytes, lines);
        let error = refused(&folder, "x").await;
        assert!(error.chain().contains(said), "{}", error.chain());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_changed_is_told_with_what_to_do() {
    let folder = Folder::new();
    let bytes = fs::read(example("hostile")).unwrap();
    let digest = Digest::of(&bytes);
    let error = refused(&folder, "absent").await;
    assert!(error.kind() == ErrorKind::NotFound && error.advice().unwrap().contains("absent.yaml"), "{error:?}");
    folder.write("pinned", &bytes, &format!("digest: sha256:{digest}\n"));
    folder.movers.open("pinned", "").unwrap().probe().await.unwrap();
    folder.write("changed", &[&bytes[..], &[0]].concat(), &format!("digest: sha256:{digest}\n"));
    let error = refused(&folder, "changed").await;
    assert!(error.chain().contains(&digest.to_string()) && error.advice().unwrap().contains("changed"), "{error:?}");
    folder.write("secretive", &bytes, "secrets: {key: nowhere}\n");
    assert!(refused(&folder, "secretive").await.chain().contains("secret key"));
    fs::write(folder.path().join("empty"), "\n").unwrap();
    folder.write("emptied", &bytes, "secrets: {key: empty}\n");
    assert!(refused(&folder, "emptied").await.chain().contains("is empty"));
    folder.write("untrusted", &bytes, "network: {caFile: empty}\n");
    let error = folder.movers.open("untrusted", "").unwrap_err();
    assert!(error.chain().contains("(network.caFile): there is no certificate in it"), "{}", error.chain());
    let key = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n";
    fs::write(folder.path().join("key.pem"), key).unwrap();
    folder.write("untrusted", &bytes, "network: {caFile: key.pem}\n");
    let error = folder.movers.open("untrusted", "").unwrap_err();
    assert!(error.chain().contains("(network.caFile): there is a private key in it"), "{}", error.chain());
    assert!(error.advice().unwrap().contains("BEGIN CERTIFICATE"), "{:?}", error.advice());
}
