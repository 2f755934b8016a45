//! `remora-agent` on the lab's libvirt: backups, retention and verification by policy.

mod misbehaving;
mod movers;
mod parallel;

use std::fs;
use std::time::Duration;

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Domain, Format, Holding, Lab, MIB, Remora, RemoraAgent, content, wait_until};

/// How long a run may take to begin and end on a busy machine.
const RUN: Duration = Duration::from_mins(10);

/// How often a run may be over before it is held up, on a busy machine.
const TRIES: usize = 10;

/// How long a changed folder may take to be in force, on a busy machine; alone it is a second.
const RELOAD: Duration = Duration::from_mins(5);

/// A policy for the VMs with that label, which runs at once for a VM that is new to it, and then not for a day.
fn policy(name: &str, label: &str, last: u32) -> String {
    format!(
        "kind: BackupPolicy\nname: {name}\nselect: {{module: builtin:labels, settings: {{matchLabels: {{backup: {label}}}}}}}\n\
         schedule: {{module: builtin:adaptive, settings: {{min: 24h, max: 24h, target: 1GiB}}}}\n\
         retention: {{module: builtin:gfs, settings: {{last: {last}}}}}\nquiesce: never\nverify: {{every: 1s}}\n"
    )
}

fn domain(name: &str, label: &str) -> Domain<'static> {
    labelled(Lab::shared().domain(name).disk(DiskSpec::qcow2("vda", 16 * MIB)).paused(), label)
}

fn labelled(domain: Domain<'static>, label: &str) -> Domain<'static> {
    let labels = format!("<labels><label key='backup'>{label}</label></labels>");
    domain.virsh("metadata", &["https://remora.dev/labels", "--key", "remora", "--live", "--set", &labels]);
    domain
}

fn points(remora: &Remora, vm: &str) -> Vec<String> {
    let points = remora.json(["points"]);
    let ours = points.as_array().unwrap().iter().filter(|point| point["vm"] == vm);
    ours.map(|point| point["point"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn wait_for_runs(agent: &RemoraAgent, policy: &str, count: f64) {
    wait_for(agent, policy, "Succeeded", count);
}

#[track_caller]
fn wait_for(agent: &RemoraAgent, policy: &str, outcome: &str, count: f64) {
    let runs = || ended(agent, policy, outcome);
    // One that failed is tried again after five minutes, which may have passed while others were waited for.
    let so_many = || runs().is_some_and(|runs| runs >= count);
    wait_until(format_args!("no run of {policy}: {}", agent.log_text()), RUN, so_many);
}

/// How many runs of a policy have ended so.
fn ended(agent: &RemoraAgent, policy: &str, outcome: &str) -> Option<f64> {
    agent.metric(&format!("remora_runs_total{{policy=\"{policy}\",outcome=\"{outcome}\"}}"))
}

#[test]
fn vms_are_backed_up_pruned_and_verified_as_policies_say() {
    let remora = Remora::init(Lab::shared());
    let chosen = domain("agent-chosen", "as-policies-say");
    let _other = domain("agent-other", "never");
    chosen.write_bytes("vda", 0, &content::noise(1, MIB as usize));
    let mut agent = RemoraAgent::start(Lab::shared(), &remora);
    let first = policy("first", "as-policies-say", 2);
    agent.put(&[("first.yaml", &first)]);
    wait_for_runs(&agent, "first", 1.0);
    let made = points(&remora, "agent-chosen");
    assert_eq!(made.len(), 1);

    // Another policy for the same VM: an increment, and both points stay, since the first policy keeps two.
    chosen.write_bytes("vda", 4 * MIB, &content::noise(2, MIB as usize));
    let (second, third) = (policy("second", "as-policies-say", 1), policy("third", "as-policies-say", 1));
    agent.put(&[("first.yaml", &first), ("second.yaml", &second)]);
    wait_for_runs(&agent, "second", 1.0);
    assert_eq!(points(&remora, "agent-chosen").len(), 2);
    agent.put(&[("first.yaml", &first), ("second.yaml", &second), ("third.yaml", &third)]);
    wait_for_runs(&agent, "third", 1.0);
    let left = points(&remora, "agent-chosen");
    assert_eq!(left.len(), 2);
    assert!(!left.contains(&made[0]), "the oldest point is the one that goes");
    assert_eq!(agent.metric("remora_points_dropped_total{policy=\"third\",vm=\"agent-chosen\"}"), Some(1.0));
    let to = Lab::shared().scratch("agent-restored").join("vda.raw");
    remora.ok(["restore", &left[1], "--disk", "vda", "--to", to.to_str().unwrap()]);
    assert_same(&to, &chosen.truth("vda"));
    assert_eq!(points(&remora, "agent-other"), [""; 0]);
    assert_eq!(remora.json(["show", &left[1]])["decision"], "incremental");

    // Restarted, it knows what it has done.
    assert_eq!(agent.stop().code(), Some(0));
    agent.spawn();
    agent.put(&[("first.yaml", &first), ("fourth.yaml", &policy("fourth", "as-policies-say", 2))]);
    wait_for_runs(&agent, "fourth", 1.0);
    assert_eq!(agent.metric("remora_runs_total{policy=\"first\",outcome=\"Succeeded\"}"), None, "{}", agent.log_text());
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn a_broken_policy_hinders_no_other_and_drops_nothing() {
    let remora = Remora::init(Lab::shared());
    let _vm = domain("agent-broken", "broken");
    let agent = RemoraAgent::start(Lab::shared(), &remora);
    let good = policy("good", "broken", 1);
    agent.put(&[("good.yaml", &good), ("later.yaml", &policy("later", "broken", 1))]);
    wait_for_runs(&agent, "good", 1.0);
    wait_for_runs(&agent, "later", 1.0);
    assert_eq!(points(&remora, "agent-broken").len(), 1);
    let broken = policy("later", "broken", 1).replace("last:", "lest:");
    agent.put(&[("good.yaml", &good), ("later.yaml", &broken), ("new.yaml", &policy("new", "broken", 1))]);
    wait_until("the broken file is not noticed", RELOAD, || {
        agent.metric("remora_policy_broken{file=\"later.yaml\"}") == Some(1.0)
    });
    wait_for_runs(&agent, "new", 1.0);
    assert_eq!(agent.metric("remora_policy_broken{file=\"good.yaml\"}"), Some(0.0));
    assert!(agent.metric("remora_policy_stale_since_timestamp_seconds{file=\"later.yaml\"}").unwrap() > 0.0);
    // What the broken one now means is not known, so nothing is dropped by the good ones either.
    assert_eq!(points(&remora, "agent-broken").len(), 2);
    assert!(agent.log_text().contains("later.yaml, line 5: retention.settings.lest"), "{}", agent.log_text());
}

#[test]
fn a_run_that_is_told_to_end_leaves_nothing_and_is_made_up_for() {
    const SIZE: u64 = 256 * MIB;
    let lab = Lab::shared();
    // Room for as many points as there may be.
    let repository = Holding::new(4096);
    let remora = Remora::new(lab, repository.path().join("repo"));
    remora.ok(["repo", "init"]);
    let noise = lab.scratch("agent-noise").join("noise.raw");
    content::make_disk(&noise, SIZE, SIZE);
    let disk = DiskSpec::holding("vda", Format::Qcow2, &noise);
    let vm = labelled(lab.domain("agent-ended").disk(disk).paused(), "ended");
    let mut agent = RemoraAgent::start(lab, &remora);
    let at_work = || vm.try_virsh("backup-dumpxml", &[]).status.success();
    // A run does not last: something is waited for that can be looked at often, and is there just before its job.
    let has_scratch = || {
        let mut files = fs::read_dir(vm.dir()).unwrap().map(|file| file.unwrap().file_name());
        files.any(|name| name.to_string_lossy().starts_with(".remora-scratch-"))
    };
    let checkpoints = || vm.virsh("checkpoint-list", &["--name"]).trim().to_owned();
    let mut before = String::new();
    // Each policy has a run of its own.
    let name = |number: usize| format!("ended-{number}");
    let held = (0..TRIES).find(|number| {
        if *number > 0 {
            // So that this one has something to read: what the one before has stored is not read again.
            vm.write_bytes("vda", 0, &content::noise(*number as u64, SIZE as usize));
        }
        before = checkpoints();
        let name = name(*number);
        agent.put(&[("ended.yaml", &policy(&name, "ended", 30))]);
        let over = || ended(&agent, &name, "Succeeded").is_some();
        wait_until(format_args!("no run begins: {}", agent.log_text()), RUN, || has_scratch() || over());
        wait_until(format_args!("no job begins: {}", agent.log_text()), RUN, || at_work() || over());
        repository.hold();
        let held = at_work();
        if !held {
            repository.release();
            wait_for_runs(&agent, &name, 1.0);
        }
        held
    });
    let held = held.expect("a run that can be held up");
    let stopped = agent.stop_while(|| repository.release());
    assert_eq!(stopped.code(), Some(0), "{}", agent.log_text());
    assert!(!at_work(), "the backup job is still there");
    assert_eq!(checkpoints(), before);
    assert_eq!(points(&remora, "agent-ended").len(), held);
    agent.spawn();
    wait_for_runs(&agent, &name(held), 1.0);
    assert_eq!(points(&remora, "agent-ended").len(), held + 1);
}
