//! What is fetched once is kept, and then needs no registry.

use std::fs;

use remora_core::ErrorKind;
use remora_plugins::movers::Movers;
use remora_plugins::set::{Generation, Snapshot};
use remora_tests::registry::digest;
use remora_tests::{Registry, SigningKey, Transport};

use super::{Scene, labels, module};
use crate::folder::now;
use crate::movers::objects::{create, get};
use crate::movers::s3::{Bucket, lines};
use crate::movers::{example, host_program};

#[test]
fn a_policy_of_a_registry_is_fetched_once_and_then_needs_none() {
    let mut registry = Registry::start();
    let scene = Scene::new();
    scene.trust(&registry, "");
    scene.policy(&module(&registry, &registry.push("acme/labels", labels())));
    let generation = scene.generation(&scene.host());
    let select = generation.backups().next().map(|(policy, _)| policy.select.digest().to_string());
    assert_eq!(select.map(|select| format!("sha256:{select}")), Some(digest(labels())));
    registry.wait_until_given(&digest(labels()));
    let asked = registry.requests();
    scene.is_good();
    assert_eq!(registry.requests(), asked, "it was asked again");
    registry.stop();
    scene.is_good();

    // What is kept is hashed, and fetched anew if it is damaged.
    let kept = scene.at("fetched").join(format!("{}.wasm", digest(labels()).trim_start_matches("sha256:")));
    fs::write(&kept, "damaged").unwrap();
    scene.is_refused(ErrorKind::Unavailable, "cannot be reached");
    registry.start_again();
    scene.is_good();
    assert_eq!(fs::read(&kept).unwrap(), labels());
}

#[test]
fn a_registry_that_is_there_again_mends_what_was_broken_without_it() {
    let mut registry = Registry::start();
    let scene = Scene::new();
    scene.trust(&registry, "");
    scene.policy(&module(&registry, &registry.push("acme/labels", labels())));
    registry.stop();
    let (host, snapshot) = (scene.host(), Snapshot::read(&scene.at("policies")).unwrap());
    let broken = Generation::default().next(&host, &snapshot, now());
    assert!(broken.broken().count() == 1 && broken.is_due(&host));
    // Tried again it fails alike, which is no news.
    assert!(broken.next(&host, &snapshot, now()).is_same(&broken));
    registry.start_again();
    let mended = Generation::default().next(&scene.host(), &snapshot, now());
    assert!(mended.broken().count() == 0 && !mended.is_due(&host));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_of_a_registry_works_and_is_kept() {
    let mut registry = Registry::start();
    let key = SigningKey::new();
    let scene = Scene::new();
    scene.trust(&registry, &format!("  keys: ['{}']\n", key.public().display()));
    let component = fs::read(example("s3")).unwrap();
    let pushed = registry.push("acme/s3", &component);
    registry.sign("acme/s3", &pushed, &key);
    let bucket = Bucket::new(Transport::Http);
    let secret = bucket.folder.path().join("secret");
    let document = |digest: &str| {
        let module = format!("oci://{}/acme/s3@{pushed}", registry.host());
        let lines = lines(&bucket.s3, &secret.display().to_string());
        format!("kind: Mover\nname: s3\nmodule: {module}\ndigest: {digest}\n{lines}")
    };
    let write = |text: String| fs::write(scene.at("plugins/s3.yaml"), text).unwrap();
    let open = || {
        let mut movers = Movers::new(scene.at("plugins"), Some(scene.dir.path()));
        movers.program = Some(host_program());
        movers.open("s3", "a/prefix")
    };
    write(document(&digest(labels())));
    assert!(open().unwrap_err().chain().contains("digest"));
    write(document(&digest(&component)));
    create(&open().unwrap(), "one", "bytes").await.unwrap();
    registry.stop();
    assert_eq!(get(&open().unwrap(), "one").await.unwrap(), "bytes");
}
