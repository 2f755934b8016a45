//! Where keys are named, one of them has signed the module: in the registry, or beside a file.

use std::fs;

use remora_core::ErrorKind;
use remora_plugins::set::{Generation, Kept, Snapshot};
use remora_plugins::{Host, builtins};
use remora_tests::{Registry, SigningKey};
use serde_json::json;

use super::{Scene, labels, module};
use crate::folder::now;

#[test]
fn where_keys_are_named_nothing_is_taken_that_none_of_them_signed() {
    let registry = Registry::start();
    let (ours, theirs) = (SigningKey::new(), SigningKey::new());
    let scene = Scene::new();
    let keys = |key: &SigningKey| format!("  keys: ['{}']\n", key.public().display());
    scene.trust(&registry, &keys(&ours));
    let good = registry.push("acme/labels", labels());
    let other = registry.push("acme/labels", b"another module");
    scene.policy(&module(&registry, &good));
    let error = scene.is_refused(ErrorKind::Refused, "there is none");
    assert!(error.advice().unwrap().contains("cosign sign"));

    registry.sign("acme/labels", &good, &theirs);
    scene.is_refused(ErrorKind::Refused, "of none of the keys");
    // A good signature of another module under this one's tag.
    let replayed = registry.signed("acme/labels", &other, &ours);
    registry.push_signatures("acme/labels", &good, &[replayed]);
    scene.is_refused(ErrorKind::Refused, "signs another manifest");
    // A signature whose text was changed afterwards.
    let mut changed = registry.signed("acme/labels", &good, &ours);
    changed["annotations"]["dev.cosignproject.cosign/signature"] = json!(ours.sign(b"another text"));
    registry.push_signatures("acme/labels", &good, &[changed]);
    scene.is_refused(ErrorKind::Refused, "of none of the keys");
    assert!(!scene.at("fetched").exists(), "something of it was kept");

    // One good one among others.
    let signed = [&theirs, &ours].map(|key| registry.signed("acme/labels", &good, key));
    registry.push_signatures("acme/labels", &good, &signed);
    scene.is_good();
}

#[test]
fn a_signature_is_found_by_what_refers_to_the_module_too() {
    let registry = Registry::start();
    let (ours, theirs) = (SigningKey::new(), SigningKey::new());
    let scene = Scene::new();
    scene.trust(&registry, &format!("  keys: ['{}']\n", ours.public().display()));
    let good = registry.push("acme/labels", labels());
    scene.policy(&module(&registry, &good));
    registry.refer("acme/labels", &good, &[registry.signed("acme/labels", &good, &theirs)]);
    scene.is_refused(ErrorKind::Refused, "of none of the keys");
    registry.refer("acme/labels", &good, &[registry.signed("acme/labels", &good, &ours)]);
    scene.is_good();

    // A bundle, as cosign 3 pushes it.
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    registry.refer("acme/labels", &good, &[registry.bundle("acme/labels", &good, &theirs)]);
    scene.is_refused(ErrorKind::Refused, "of none of the keys");
    let other = registry.push("acme/labels", b"another module");
    registry.refer("acme/labels", &good, &[registry.bundle("acme/labels", &other, &ours)]);
    scene.is_refused(ErrorKind::Refused, "signs another manifest");
    registry.refer("acme/labels", &good, &[registry.bundle("acme/labels", &good, &ours)]);
    scene.is_good();
}

#[test]
fn a_signature_is_checked_again_without_the_registry_and_by_the_keys_of_now() {
    let mut registry = Registry::start();
    let (ours, theirs) = (SigningKey::new(), SigningKey::new());
    let scene = Scene::new();
    let trust = |key: &SigningKey| scene.trust(&registry, &format!("  keys: ['{}']\n", key.public().display()));
    trust(&ours);
    let good = registry.push("acme/labels", labels());
    scene.policy(&module(&registry, &good));
    registry.sign("acme/labels", &good, &ours);
    let (host, snapshot) = (scene.host(), Snapshot::read(&scene.at("policies")).unwrap());
    let generation = Generation::default().next(&host, &snapshot, now());
    assert!(generation.broken().count() == 0 && !generation.is_due(&host));
    trust(&theirs);
    // What is in force is looked at again, though no policy changed.
    assert!(generation.is_due(&host));
    let distrusted = generation.next(&host, &snapshot, now());
    let (file, error) = distrusted.broken().next().unwrap();
    assert!(error.kind() == ErrorKind::Refused && file.active.is_some(), "{}", error.chain());
    trust(&ours);
    registry.stop();
    scene.is_good();
    // A signature that somebody puts where they are kept holds no better than any other.
    let signatures = scene.at("fetched").join(format!("{}.signatures", good.trim_start_matches("sha256:")));
    let text = fs::read_to_string(&signatures).unwrap();
    fs::write(&signatures, text.replace("cosign container", "cosign  container")).unwrap();
    scene.is_refused(ErrorKind::Unavailable, "cannot be reached");
}

#[test]
fn a_module_of_a_file_is_signed_beside_it() {
    let key = SigningKey::new();
    let scene = Scene::new();
    let text = format!("kind: Registries\nkeys: ['{}']\n", key.public().display());
    fs::write(scene.at("plugins/registries.yaml"), text).unwrap();
    scene.policy("file:mine.wasm");
    let component = scene.at("policies/mine.wasm");
    fs::write(&component, labels()).unwrap();
    let kept = Kept::new(scene.at("kept"));
    let next = |host: &Host| {
        Generation::default().next_kept(host, &Snapshot::read(&scene.at("policies")).unwrap(), &kept, now())
    };
    let refused = |said: &str| {
        let error = scene.load().unwrap_err();
        assert!(error.kind() == ErrorKind::Refused && error.to_string().contains(said), "{error}");
    };
    refused("there is no signature");
    SigningKey::new().sign_file(&component);
    refused("of none of the keys");
    let before = Snapshot::read(&scene.at("policies")).unwrap();
    key.sign_file(&component);
    assert_ne!(Snapshot::read(&scene.at("policies")).unwrap().digest, before.digest, "it is not noticed");
    assert_eq!(next(&scene.host()).broken().count(), 0);
    // The last good version is kept with its signature.
    scene.policy("file:");
    let revived = next(&scene.host());
    assert!(revived.files[0].active.is_some() && revived.broken().count() == 1);
    // A signature of other bytes.
    scene.policy("file:mine.wasm");
    let other = builtins().find(|(name, _)| *name == "gfs").unwrap().1;
    fs::write(&component, other).unwrap();
    refused("of none of the keys");
}
