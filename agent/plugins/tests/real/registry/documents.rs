//! The document of registries: what it does not grant is not reached, and a bad one breaks what it speaks of.

use std::fs;

use remora_core::ErrorKind;
use remora_plugins::set::Snapshot;
use remora_tests::Registry;
use serde_json::json;

use super::{Scene, labels, module};
use crate::folder::now;

#[test]
fn without_its_authority_or_its_password_a_registry_is_not_used() {
    let registry = Registry::start();
    let scene = Scene::new();
    scene.policy(&module(&registry, &registry.push("acme/labels", labels())));
    let error = scene.is_refused(ErrorKind::Refused, "no address of the internet");
    assert!(error.advice().unwrap().contains("addresses"));
    scene.registries(&registry.host(), "");
    let error = scene.is_refused(ErrorKind::Refused, "certificate");
    assert!(error.advice().unwrap().contains("caFile"));
    scene.registries(&registry.host(), &format!("  caFile: {}\n", registry.ca_file().display()));
    let error = scene.is_refused(ErrorKind::Refused, "401");
    assert!(error.advice().unwrap().contains("pullSecret"));
    let wrong = json!({"auths": {registry.host(): {"username": "test", "password": "hunter2"}}}).to_string();
    fs::write(scene.at("plugins/wrong.json"), wrong).unwrap();
    let lines = format!("  caFile: {}\n  pullSecret: wrong.json\n", registry.ca_file().display());
    scene.registries(&registry.host(), &lines);
    let error = scene.is_refused(ErrorKind::Refused, "401");
    assert!(error.advice().unwrap().contains("user") && !error.to_string().contains("hunter2"));
}

#[test]
fn a_policy_that_a_bad_document_of_registries_broke_is_looked_at_again_when_that_is_mended() {
    let scene = Scene::new();
    let document = |text: &str| fs::write(scene.at("plugins/registries.yaml"), text).unwrap();
    document("kind: Registrys\n");
    fs::write(scene.at("policies/mine.wasm"), labels()).unwrap();
    scene.policy("file:mine.wasm");
    let host = scene.host();
    let generation = scene.generation(&host);
    assert!(generation.broken().count() == 1 && !generation.is_due(&host));
    document("kind: Registries\n");
    assert!(generation.is_due(&host));
    let mended = generation.next(&host, &Snapshot::read(&scene.at("policies")).unwrap(), now());
    assert!(mended.broken().count() == 0 && !mended.is_due(&host));
    // What may be a document and cannot be read demands nothing less than one that can.
    fs::remove_file(scene.at("plugins/registries.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", scene.at("plugins/registries.yaml")).unwrap();
    assert_eq!(scene.generation(&scene.host()).broken().count(), 1);
}
