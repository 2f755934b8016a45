//! Backups through a mover of objects that lies, traps, hangs or eats memory: no point is listed, while another repository's run
//! goes on.

use std::path::{Path, PathBuf};

use remora_tests::files::random_bytes;
use remora_tests::plain::Lie;
use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Domain, Lab, MIB, PlainStore, Plugin, Remora};

/// What is lied about which objects, and what is said of it.
const LIES: [(Lie, &str, &str); 4] = [
    (Lie::Forget, "/s/", "and does not find it"),
    (Lie::ChangeBytes, "/s/", "and other bytes are there"),
    (Lie::ChangeBytesAndSayTaken, "/s/", "with other bytes than are stored"),
    (Lie::Forget, "/m/", "and does not find it"),
];

/// What a mover does where it is to store a segment, what its document has for that, and what is said of it.
const FAULTS: [(&str, &str, &str); 3] = [
    ("trap", "", "it trapped"),
    ("loop", "timeout: 1s\n", "did not answer within 1000 ms"),
    ("memory", "", "growing memory"),
];

fn machine(name: &str) -> Domain<'static> {
    let domain = Lab::shared().domain(name).disk(DiskSpec::qcow2("vda", 32 * MIB)).paused();
    domain.write_bytes("vda", 0, &random_bytes(name, 8 << 20));
    domain
}

/// `remora` with the repository that the mover `plain` of a folder stores.
fn through(plugin: &Plugin) -> Remora {
    Remora::new(Lab::shared(), plugin.url("a/repository")).with("REMORA_PLUGINS", plugin.folder())
}

fn backup(domain: &Domain<'_>) -> [String; 4] {
    ["backup", domain.name(), "--quiesce", "never"].map(Into::into)
}

fn made(remora: &Remora, domain: &Domain<'_>) -> String {
    remora.json(backup(domain))["point"].as_str().unwrap().to_owned()
}

fn points(remora: &Remora) -> Vec<String> {
    let listed = remora.json(["points"]);
    listed.as_array().unwrap().iter().map(|point| point["point"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_restores(remora: &Remora, point: &str, truth: &Path) {
    let to = Lab::shared().scratch("restored").join("vda.raw");
    remora.ok(["restore", point, "--disk", "vda", "--to", to.to_str().unwrap()]);
    assert_same(&to, truth);
}

#[test]
fn a_backup_through_a_mover_that_lies_lists_no_point_and_one_into_another_repository_succeeds() {
    let (lab, store) = (Lab::shared(), PlainStore::start());
    let (attacked, beside) = (machine("lying mover"), machine("beside a lie"));
    let plugin = Plugin::of_plain(&store);
    let remora = through(&plugin);
    remora.ok(["repo", "init"]);
    let other = Remora::init(lab);
    let mut kept: Vec<(String, PathBuf)> = Vec::new();
    for (n, (lie, about, said)) in LIES.into_iter().enumerate() {
        // The first run is a full one; before each of the others there is a point.
        store.lie(lie, about);
        let fine = other.spawn(backup(&beside));
        remora.fails(backup(&attacked), 7, said);
        let fine = fine.wait_with_output().unwrap();
        assert!(fine.status.success(), "beside {lie:?}: {}", String::from_utf8_lossy(&fine.stderr));
        store.be_honest();
        assert_eq!(points(&remora), kept.iter().map(|(point, _)| point.clone()).collect::<Vec<_>>());
        // Neither is the next run spoiled by it.
        kept.push((made(&remora, &attacked), attacked.truth("vda")));
        attacked.write_bytes("vda", n as u64 * 2 * MIB, &random_bytes(about, 1 << 20));
    }
    assert_eq!(points(&other).len(), LIES.len());
    for (point, truth) in &kept {
        assert_restores(&remora, point, truth);
    }
}

/// All at once, for each takes its time: a call that fails is made again. Several segments are stored, so that a mover has
/// failed often enough to be shut out before its calls are given up.
#[test]
fn backups_through_movers_that_trap_hang_and_eat_memory_list_no_point_and_one_into_another_repository_succeeds() {
    let (store, beside) = (PlainStore::start(), machine("beside faults"));
    let plugin = Plugin::of_plain(&store);
    let (remora, other) = (through(&plugin), Remora::init(Lab::shared()));
    remora.ok(["repo", "init"]);
    let attacked = FAULTS.map(|(how, lines, _)| {
        let domain = machine(&format!("{how} in a mover"));
        domain.write_bytes("vda", 8 * MIB, &random_bytes(how, 24 << 20));
        (domain, Plugin::of_misbehaving(&store, &format!("{how} in put of a segment"), lines))
    });
    let runs = attacked.each_ref().map(|(domain, hostile)| through(hostile).spawn(backup(domain)));
    made(&other, &beside);
    for (run, (.., said)) in runs.into_iter().zip(FAULTS) {
        let run = run.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&run.stderr);
        assert!(!run.status.success() && told.contains(said), "{said}: {told}");
    }
    assert_eq!(points(&remora), [""; 0]);
    // Neither are the next runs spoiled by it.
    for (domain, _) in &attacked {
        assert_restores(&remora, &made(&remora, domain), &domain.truth("vda"));
    }
}

/// A listing that leaves out what another process stored cannot be seen to lie; it may cost the run, and costs no point.
#[test]
fn a_mover_that_hides_points_from_a_run_costs_none_of_them() {
    let store = PlainStore::start();
    let domain = machine("hidden points");
    let plugin = Plugin::of_plain(&store);
    let remora = through(&plugin);
    remora.ok(["repo", "init"]);
    let mut kept = vec![(made(&remora, &domain), domain.truth("vda"))];
    domain.write_bytes("vda", 4 * MIB, &random_bytes("hidden", 1 << 20));
    store.lie(Lie::Hide, "/m/");
    let ran = remora.run(backup(&domain).into_iter().chain(["-o", "json"].map(String::from)));
    store.be_honest();
    if ran.code() == 0 {
        kept.push((ran.json()["point"].as_str().unwrap().to_owned(), domain.truth("vda")));
    }
    assert_eq!(points(&remora), kept.iter().map(|(point, _)| point.as_str()).collect::<Vec<_>>());
    domain.write_bytes("vda", 6 * MIB, &random_bytes("honest", 1 << 20));
    kept.push((made(&remora, &domain), domain.truth("vda")));
    for (point, truth) in &kept {
        assert_restores(&remora, point, truth);
    }
}

/// Most of the first point's segment is not needed any more: it is stored again without that, and what is stored is changed.
#[test]
fn a_collection_through_a_mover_that_lies_removes_nothing_that_is_needed() {
    let store = PlainStore::start();
    let domain = machine("lying gc");
    let plugin = Plugin::of_plain(&store);
    let remora = through(&plugin);
    remora.ok(["repo", "init"]);
    made(&remora, &domain);
    domain.write_bytes("vda", MIB, &random_bytes("seven eighths", 7 << 20));
    let (kept, truth) = (made(&remora, &domain), domain.truth("vda"));
    let prune = ["prune", domain.name(), "--keep-last", "1"];
    remora.ok(prune);
    store.age();
    let again = |name: &String| name.contains("/s/") && name.ends_with(".1");
    assert!(!store.names().iter().any(again));
    store.lie(Lie::ChangeAByte, ".1");
    remora.ok(prune);
    assert!(store.names().iter().any(again), "nothing was stored again: {:?}", store.names());
    store.be_honest();
    assert_restores(&remora, &kept, &truth);
}
