//! Policies whose target is a mover that keeps points in a form of its own.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use remora_tests::truth::assert_same;
use remora_tests::{Appliance, Lab, MIB, Plugin, Remora, RemoraAgent, content, wait_until};

use super::{RUN, domain, points, policy, wait_for, wait_for_runs};

/// The commands, for what the array keeps.
fn array(plugin: &Plugin) -> Remora {
    Remora::new(Lab::shared(), "plugin:array").with("REMORA_PLUGINS", plugin.folder())
}

fn into(target: &str, name: &str, label: &str) -> String {
    format!("{}target: {{{target}}}\n", policy(name, label, 2))
}

#[track_caller]
fn assert_restores(remora: &Remora, point: &str, truth: &Path) {
    let to = Lab::shared().scratch("agent-restored").join("vda.raw");
    remora.ok(["restore", point, "--disk", "vda", "--to", to.to_str().unwrap()]);
    assert_same(&to, truth);
}

fn decision(remora: &Remora, point: &str) -> String {
    remora.json(["show", point])["decision"].as_str().unwrap().to_owned()
}

#[test]
fn a_mover_gets_increments_is_pruned_and_verified_and_a_run_that_ends_midway_leaves_nothing() {
    let vm = domain("agent-array", "array");
    let appliance = Appliance::start();
    let plugin = Plugin::of_appliance(&appliance, vm.name());
    let remora = array(&plugin);
    let mut agent = RemoraAgent::start_with(Lab::shared(), None, Some(&plugin));
    let [first, second, third] = ["first", "second", "third"].map(|name| into("mover: array", name, "array"));

    vm.write_bytes("vda", 3 * MIB, &content::noise(1, 5 * MIB as usize));
    agent.put(&[("first.yaml", &first)]);
    wait_for_runs(&agent, "first", 1.0);
    let mut truths = vec![vm.truth("vda")];
    // Of what was stored some becomes zero, some other bytes; elsewhere there are bytes for the first time.
    vm.write("vda", 0, 4 * MIB, MIB);
    vm.write_bytes("vda", 7 * MIB + 512, &content::noise(2, MIB as usize));
    vm.write("vda", 0x17, 12 * MIB, MIB);
    agent.put(&[("first.yaml", &first), ("second.yaml", &second)]);
    wait_for_runs(&agent, "second", 1.0);
    truths.push(vm.truth("vda"));
    let made = points(&remora, vm.name());
    assert_eq!(made.iter().map(|point| decision(&remora, point)).collect::<Vec<_>>(), ["full", "incremental"]);
    assert_eq!(appliance.points().len(), 4, "two points and their notes: {:?}", appliance.points());

    // The appliance takes no more: whoever ends does not wait for it.
    let all: [(&str, &str); 3] = [("first.yaml", &first), ("second.yaml", &second), ("third.yaml", &third)];
    let checkpoints = vm.virsh("checkpoint-list", &["--name"]);
    vm.write_bytes("vda", 14 * MIB, &content::noise(3, MIB as usize));
    appliance.hold_writes();
    agent.put(&all);
    wait_until(format_args!("nothing is written: {}", agent.log_text()), RUN, || appliance.held_writes() > 0);
    let selected = Instant::now();
    assert_eq!(agent.stop().code(), Some(0), "{}", agent.log_text());
    appliance.release_writes();
    assert!(!vm.try_virsh("backup-dumpxml", &[]).status.success(), "the backup job is still there");
    assert_eq!(vm.virsh("checkpoint-list", &["--name"]), checkpoints);
    assert_eq!(points(&remora, vm.name()), made);
    assert_eq!(appliance.points().len(), 4, "something of the run is left: {:?}", appliance.points());

    // It is made up for, from where the last point was; by then a verification is due.
    wait_until("the clock stands still", RUN, || selected.elapsed() > Duration::from_secs(1));
    agent.spawn();
    wait_for_runs(&agent, "third", 1.0);
    truths.push(vm.truth("vda"));
    let left = points(&remora, vm.name());
    assert_eq!((left.len(), &left[0]), (2, &made[1]), "the oldest point is the one that goes: {}", agent.log_text());
    assert_eq!(decision(&remora, &left[1]), "incremental");
    assert_eq!(agent.metric("remora_points_dropped_total{policy=\"third\",vm=\"agent-array\"}"), Some(1.0));
    assert_eq!(appliance.points().len(), 4, "something of the oldest point is left: {:?}", appliance.points());
    assert_eq!(agent.metric("remora_newest_point_damaged{policy=\"third\",vm=\"agent-array\"}"), Some(0.0));
    assert_eq!(agent.metric("remora_runs_total{policy=\"first\",outcome=\"Succeeded\"}"), None, "it was run again");
    for (point, truth) in left.iter().zip(&truths[1..]) {
        assert_restores(&remora, point, truth);
    }
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn a_vm_goes_into_a_repository_and_to_a_mover_and_to_none_that_may_not_see_it() {
    let (both, ungranted) = (domain("agent-both", "both"), domain("agent-ungranted", "ungranted"));
    let appliance = Appliance::start();
    let plugin = Plugin::of_appliance(&appliance, both.name());
    let (repository, array) = (Remora::init(Lab::shared()), array(&plugin));
    let agent = RemoraAgent::start_with(Lab::shared(), Some(&repository), Some(&plugin));
    let of_main = into("repository: main", "of-main", "both");
    let of_array = into("mover: array", "of-array", "both");
    let of_nobody = into("mover: nobody", "of-nobody", "both");
    let of_class = into("repository: main, scratch: {storageClassName: fast}", "of-class", "both");
    let refused = into("mover: array", "refused", "ungranted");
    both.write_bytes("vda", MIB, &content::noise(4, MIB as usize));
    let first: [(&str, &str); 5] = [
        ("main.yaml", &of_main),
        ("array.yaml", &of_array),
        ("nobody.yaml", &of_nobody),
        ("class.yaml", &of_class),
        ("refused.yaml", &refused),
    ];
    agent.put(&first);
    for (name, outcome) in [
        ("of-main", "Succeeded"),
        ("of-array", "Succeeded"),
        ("of-nobody", "Failed"),
        ("of-class", "Failed"),
        ("refused", "Failed"),
    ] {
        wait_for(&agent, name, outcome, 1.0);
    }
    let log = agent.log_text();
    let of_movers = ["target.mover: nobody", "nobody.yaml", "may not see the disks", "volume.disksInTheClear"];
    let of_scratch = ["StorageClass fast in target.scratch.storageClassName", "`scratch` in agent.toml"];
    for said in of_movers.into_iter().chain(of_scratch) {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert_eq!(points(&array, ungranted.name()), [""; 0]);
    assert_eq!(appliance.points().len(), 2, "a point and its note: {:?}", appliance.points());

    // Each knows what changed since its own newest point.
    both.write("vda", 0x21, 9 * MIB, MIB);
    let (main_again, array_again) =
        (into("repository: main", "main-again", "both"), into("mover: array", "array-again", "both"));
    let again: [(&str, &str); 2] = [("main-again.yaml", &main_again), ("array-again.yaml", &array_again)];
    agent.put(&[&first[..], &again].concat());
    wait_for_runs(&agent, "main-again", 1.0);
    wait_for_runs(&agent, "array-again", 1.0);
    let truth = both.truth("vda");
    for remora in [&repository, &array] {
        let made = points(remora, both.name());
        assert_eq!((made.len(), decision(remora, &made[1])), (2, "incremental".into()));
        assert_restores(remora, &made[1], &truth);
    }

    // A document that is mended counts from the next run on.
    let document = plugin.folder().join("array.yaml");
    let text = fs::read_to_string(&document).unwrap();
    fs::write(&document, text.replace("['agent-both']", "['agent-both', 'agent-ungranted']")).unwrap();
    agent.put(&[("granted.yaml", &into("mover: array", "granted", "ungranted"))]);
    wait_for_runs(&agent, "granted", 1.0);
    assert_eq!(points(&array, ungranted.name()).len(), 1);
}
