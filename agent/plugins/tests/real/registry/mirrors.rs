//! Mirrors of a registry.

use std::fs;
use std::path::Path;

use remora_core::ErrorKind;
use remora_tests::Registry;
use remora_tests::registry::digest;

use super::{Scene, labels, module};

#[test]
fn mirrors_are_asked_first_and_the_registry_if_they_cannot() {
    let (mut mirror, mut registry) = (Registry::start(), Registry::start());
    let good = registry.push("acme/labels", labels());
    // One password file and one bundle of authorities for both.
    let both = |a: &Path, b: &Path| [fs::read(a).unwrap(), fs::read(b).unwrap()].concat();
    let scene = Scene::new();
    fs::write(scene.at("plugins/ca.pem"), both(&mirror.ca_file(), &registry.ca_file())).unwrap();
    let mut logins: serde_json::Value = serde_json::from_slice(&fs::read(mirror.pull_secret()).unwrap()).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&fs::read(registry.pull_secret()).unwrap()).unwrap();
    logins["auths"][registry.host()] = other["auths"][registry.host()].clone();
    fs::write(scene.at("plugins/pull.json"), logins.to_string()).unwrap();
    let lines = format!("  mirrors: ['{}/proxied']\n  caFile: ca.pem\n  pullSecret: pull.json\n", mirror.host());
    scene.registries(&registry.host(), &lines);
    scene.policy(&module(&registry, &good));

    // It has nothing, then something else under the digest, then the module.
    scene.is_good();
    let asked = registry.requests();
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    assert_eq!(mirror.push("proxied/acme/labels", labels()), good);
    mirror.change_blob(&digest(labels()), |_| vec![0; labels().len()]);
    scene.is_good();
    assert!(registry.requests() > asked, "the registry was not asked");
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    mirror.change_blob(&digest(labels()), |_| labels().to_vec());
    let asked = registry.requests();
    registry.stop();
    scene.is_good();
    fs::remove_dir_all(scene.at("fetched")).unwrap();
    mirror.stop();
    scene.is_refused(ErrorKind::Unavailable, &mirror.host());
    registry.start_again();
    scene.is_good();
    assert!(registry.requests() > asked);
}
