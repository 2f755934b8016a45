//! What was fetched goes once nobody wants it any more, and not before.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use remora_plugins::Wants;
use remora_plugins::set::{Generation, Snapshot};
use remora_tests::Registry;

use super::registry::{Scene, labels, module};

/// The files of what was fetched.
fn kept(scene: &Scene) -> BTreeSet<String> {
    let entries = fs::read_dir(scene.at("fetched")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// As if nobody had wanted anything for so many days.
fn age(scene: &Scene, days: u64) {
    let time = SystemTime::now() - Duration::from_hours(24 * days);
    for name in kept(scene) {
        fs::File::open(scene.at("fetched").join(name)).unwrap().set_modified(time).unwrap();
    }
}

fn tidy(scene: &Scene) {
    let document = fs::read_to_string(scene.at("policies/nightly.yaml")).unwrap();
    scene.host().registries().tidy([document.as_str()].into_iter());
}

/// Where a policy was named and another one is now: what was fetched first, and all of it.
fn two(registry: &Registry, scene: &Scene) -> (BTreeSet<String>, BTreeSet<String>) {
    scene.trust(registry, "");
    scene.policy(&module(registry, &registry.push("acme/labels", labels())));
    scene.is_good();
    let first = kept(scene);
    // Another component that selects: the same with a section that nothing reads.
    let other = [labels(), &[0, 2, 1, b'x']].concat();
    scene.policy(&module(registry, &registry.push("acme/labels", &other)));
    scene.is_good();
    (first, kept(scene))
}

#[test]
fn what_nobody_has_named_for_a_month_is_removed_and_what_is_named_stays() {
    let mut registry = Registry::start();
    let scene = Scene::new();
    let (first, all) = two(&registry, &scene);
    assert_eq!((first.len(), all.len()), (2, 4), "{all:?}");
    age(&scene, 29);
    tidy(&scene);
    assert_eq!(kept(&scene), all, "it may be wanted again");
    age(&scene, 31);
    // What a process that was killed left half-written.
    fs::write(scene.at("fetched/.tmpAbCdEf"), "half").unwrap();
    tidy(&scene);
    let young = BTreeSet::from([".tmpAbCdEf".to_owned()]);
    assert_eq!(kept(&scene), all.difference(&first).chain(&young).cloned().collect());
    age(&scene, 31);
    tidy(&scene);
    assert_eq!(kept(&scene), all.difference(&first).cloned().collect());
    // And it is whole: the registry is not needed.
    registry.stop();
    scene.is_good();
}

#[test]
fn what_a_mover_or_a_call_wants_stays() {
    let registry = Registry::start();
    let scene = Scene::new();
    let (first, all) = two(&registry, &scene);
    let manifest = first.iter().find_map(|name| name.strip_suffix(".manifest")).unwrap();
    let named = format!("kind: Mover\nname: array\nmodule: oci://{}/acme/labels@sha256:{manifest}\n", registry.host());
    fs::write(scene.at("plugins/array.yaml"), named).unwrap();
    age(&scene, 31);
    tidy(&scene);
    assert_eq!(kept(&scene), all, "a mover's document names it");
    fs::remove_file(scene.at("plugins/array.yaml")).unwrap();
    age(&scene, 31);
    // Whoever loads it wants it, whatever the agent's documents say.
    scene.is_good();
    scene.host().registries().tidy(std::iter::empty());
    assert_eq!(kept(&scene), all.difference(&first).cloned().collect());
}

#[test]
fn what_cannot_be_kept_is_told_and_not_fetched_again_at_once() {
    let registry = Registry::start();
    let scene = Scene::new();
    scene.trust(&registry, "");
    scene.policy(&module(&registry, &registry.push("acme/labels", labels())));
    // No folder can be made there.
    fs::write(scene.at("fetched"), "").unwrap();
    let host = scene.host();
    let why = || {
        let snapshot = Snapshot::read(&scene.at("policies")).unwrap();
        let generation = Generation::default().next_at_hand(&host, &snapshot, None, Timestamp::now());
        generation.broken().next().unwrap().1.chain()
    };
    assert!(why().contains("it is being fetched"), "{}", why());
    host.registries().fetch_wanted(Wants::New);
    assert!(why().contains("was fetched, and cannot be kept in"), "{}", why());
    assert!(!host.registries().wants(Wants::New));
}
