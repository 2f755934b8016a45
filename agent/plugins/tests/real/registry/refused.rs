//! What is not the module that a document names is refused, and nothing of it is kept.

use std::fs;

use remora_core::ErrorKind;
use remora_plugins::set::{Generation, Snapshot};
use remora_tests::registry::{WASM, digest};
use remora_tests::{Registry, SigningKey};
use serde_json::json;

use super::{Scene, labels, module};
use crate::folder::now;

type Change = fn(Vec<u8>) -> Vec<u8>;

#[test]
fn other_bytes_than_the_digests_say_are_refused() {
    let registry = Registry::start();
    let scene = Scene::new();
    scene.trust(&registry, "");
    registry.push("acme/labels", b"something else");
    scene.policy(&module(&registry, &digest(b"no such manifest")));
    scene.is_refused(ErrorKind::NotFound, "has no sha256:");
    let good = registry.push("acme/labels", labels());

    // The registry's own store was changed: of the same length, longer, shorter.
    scene.policy(&module(&registry, &good));
    let flipped = |mut blob: Vec<u8>| {
        blob[100] ^= 1;
        blob
    };
    let changes: [(Change, &str); 3] = [
        (flipped, "for sha256:"),
        (|blob| [blob, b"more".to_vec()].concat(), "gives more than"),
        (|blob| blob[..blob.len() - 5].to_vec(), "bytes of sha256:"),
    ];
    for (change, said) in changes {
        registry.change_blob(&digest(labels()), change);
        scene.is_refused(ErrorKind::Damaged, said);
        registry.change_blob(&digest(labels()), |_| labels().to_vec());
    }
    registry.change_blob(&good, |manifest| [manifest, b" ".to_vec()].concat());
    scene.is_refused(ErrorKind::Damaged, "for sha256:");
    assert!(!scene.at("fetched").exists(), "something of it was kept");
}

#[test]
fn what_is_too_large_or_no_module_is_refused() {
    let registry = Registry::start();
    let scene = Scene::new();
    scene.trust(&registry, "");
    let layer = |kind: &str| registry.layer("acme/labels", kind, labels());
    let mut huge = layer(WASM);
    huge["size"] = json!((64 << 20) + 1);
    let asked = registry.requests();
    scene.policy(&module(&registry, &registry.push_layers("acme/labels", &[huge])));
    scene.is_refused(ErrorKind::Refused, "67108865 bytes");
    // Nothing of it was asked for: a manifest once without and once with the password, after its own two pushes.
    assert!(registry.requests() - asked <= 5, "{} requests", registry.requests() - asked);
    // More than its manifest says.
    let mut short = layer(WASM);
    short["size"] = json!(10);
    scene.policy(&module(&registry, &registry.push_layers("acme/labels", &[short])));
    scene.is_refused(ErrorKind::Damaged, "more than 10 bytes");
    let two = [layer("a/b"), layer("c/d")];
    scene.policy(&module(&registry, &registry.push_layers("acme/labels", &two)));
    scene.is_refused(ErrorKind::Invalid, "no artifact with one component");
    scene.policy(&module(&registry, &registry.push_layers("acme/labels", &[layer("application/octet-stream")])));
    scene.is_good();
}

/// As an administrator meets it: a document that was good is changed to name it, and another one changes in the same step.
#[test]
fn what_cannot_be_had_leaves_what_is_in_force_and_hinders_no_other_document() {
    let registry = Registry::start();
    let key = SigningKey::new();
    let scene = Scene::new();
    scene.trust(&registry, &format!("  keys: ['{}']\n", key.public().display()));
    let variant = |name: u8| [labels(), &[0, 2, 1, name]].concat();
    let signed = |component: &[u8]| {
        let pushed = registry.push("acme/labels", component);
        registry.sign("acme/labels", &pushed, &key);
        pushed
    };
    let (good, damaged) = (signed(labels()), signed(&variant(b'x')));
    registry.change_blob(&digest(&variant(b'x')), |mut blob| {
        blob[100] ^= 1;
        blob
    });
    let unsigned = registry.push("acme/labels", &variant(b'y'));
    let missing = digest(b"no such manifest");
    registry.sign("acme/labels", &missing, &key);
    let weekly = |hour: usize| {
        let text = format!(
            "kind: BackupPolicy\nname: weekly\nselect: {{module: builtin:labels, settings: {{all: true}}}}\n\
             schedule: {{module: builtin:cron, settings: {{cron: 0 {hour} * * 0}}}}\n"
        );
        fs::write(scene.at("policies/weekly.yaml"), text).unwrap();
    };
    let host = scene.host();
    let next = |before: &Generation| before.next(&host, &Snapshot::read(&scene.at("policies")).unwrap(), now());
    scene.policy(&module(&registry, &good));
    weekly(0);
    let mut current = next(&Generation::default());
    assert_eq!(current.broken().count(), 0, "{:?}", current.broken().next());
    let table = [
        (missing, ErrorKind::NotFound, "has no sha256:"),
        (damaged, ErrorKind::Damaged, "for sha256:"),
        (unsigned, ErrorKind::Refused, "there is none"),
    ];
    for (hour, (wanted, kind, said)) in (1..).zip(table) {
        scene.policy(&module(&registry, &wanted));
        weekly(hour);
        current = next(&current);
        let broken: Vec<_> = current.broken().collect();
        let [(file, error)] = broken.as_slice() else { panic!("{said}: {broken:?}") };
        let told = error.chain();
        assert_eq!((file.file.as_str(), error.kind()), ("nightly.yaml", kind), "{told}");
        assert!(told.starts_with("nightly.yaml, line 3: select: oci://") && told.contains(said), "{told}");
        assert!(error.advice().is_some_and(|advice| !advice.is_empty()), "{told}");
        let in_force: Vec<_> = current.backups().collect();
        let [(nightly, stale), (weekly, fresh)] = in_force.as_slice() else { panic!("{said}: {in_force:?}") };
        assert_eq!(format!("sha256:{}", nightly.select.digest()), digest(labels()), "{said}");
        assert_eq!((*stale, *fresh), (Some(now()), None), "{said}");
        assert_eq!(weekly.schedule.settings(), format!(r#"{{"cron":"0 {hour} * * 0"}}"#), "{said}");
    }
}
