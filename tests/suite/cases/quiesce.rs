//! Guests with a good agent and with agents that are absent, hung or unwilling, under each wish: exit code and message,
//! the outcome in the point, and that the guest is never left frozen.

use std::process::Command;
use std::time::Duration;

use remora_tests::{Agent, DiskSpec, Domain, Format, Lab, MIB, Ran, run, wait_until};
use serde_json::Value;

use super::{Protected, Taken, text};

/// A booted guest with a mounted filesystem on `vda`: there must be something to freeze.
fn guest(name: &str, agent: Agent) -> Protected<'static> {
    let raw = Lab::shared().scratch("ext4").join("disk.raw");
    std::fs::File::create(&raw).unwrap().set_len(64 * MIB).unwrap();
    run(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&raw)).ok();
    Protected::new(Lab::shared().domain(name).disk(DiskSpec::holding("vda", Format::Qcow2, &raw)).booted(agent))
}

/// How often libvirt, or the guest, may take longer than it has, as either can on a busy machine.
const TRIES: usize = 100;

/// Whether a guest that freezes was not frozen because it was so for longer than it may be, or because its agent did not tell libvirt
/// within five seconds that it is there.
pub(crate) fn was_slow(ran: &Ran) -> bool {
    is_slow(&ran.stderr)
}

/// The same, of what was said.
fn is_slow(said: &str) -> bool {
    let slow = ["the guest was thawed before the backup began", "Guest agent is not responding"];
    slow.iter().any(|why| said.contains(why))
}

/// A backup with a wish, and how many points there were before it; made again where it is to be `frozen` and the machine was too
/// busy for that.
#[track_caller]
fn back_up(vm: &Protected<'_>, wish: &[&str], quiesced: &str) -> (usize, Ran) {
    let name = vm.domain.name();
    for _ in 0..TRIES {
        let points = vm.remora.run(["points", name, "-o", "json"]);
        let points = if points.status.success() { points.json().as_array().unwrap().len() } else { 0 };
        let ran = vm.remora.run([&["backup", name, "--disk", "vda"], wish].concat());
        if quiesced != "frozen" || !was_slow(&ran) {
            return (points, ran.ok());
        }
    }
    panic!("the guest is never frozen for long enough")
}

/// A backup with a wish succeeds, says `says` (nothing of freezing if that is empty), records `quiesced`, and restores.
#[track_caller]
fn assert_makes(vm: &Protected<'_>, wish: &[&str], quiesced: &str, says: &str) {
    let name = vm.domain.name();
    // What a guest holds is known only while it stands still, which a guest that is to freeze must not.
    let still = quiesced == "frozen";
    let truth = (!still).then(|| vm.domain.truth("vda"));
    let (before, ran) = back_up(vm, wish, quiesced);
    match says {
        "" => assert_eq!(ran.stderr.matches("frozen").count(), 0, "{ran:?}"),
        says => assert!(ran.stderr.contains(says) && ran.stderr.contains("crash-consistent"), "{says:?}: {ran:?}"),
    }
    let listed = vm.remora.json(["points", name]);
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), before + 1);
    let newest = listed.last().unwrap();
    assert_eq!(newest["decision"], if before == 0 { "full" } else { "incremental" }, "{newest:#}");
    let shown = vm.remora.json(["show", text(&newest["point"])]);
    assert_eq!(shown["quiesced"], quiesced, "{wish:?}");
    if let Some(truth) = truth {
        let taken = Taken { report: newest.clone(), shown, truths: vec![("vda".into(), truth)] };
        vm.assert_restores(&taken);
    }
    vm.assert_nothing_left();
}

/// A backup that requires a frozen guest is refused for the reason `why`, and nothing is made.
#[track_caller]
fn assert_refused(vm: &Protected<'_>, why: &str) {
    let (name, points) = (vm.domain.name(), vm.remora.run(["points", vm.domain.name(), "-o", "json"]).stdout);
    let checkpoints = vm.checkpoints();
    let refused = || -> Value {
        let ran = vm.remora.fails(["backup", name, "--disk=vda", "--quiesce=required", "-o", "json"], 11, "");
        // The watchdog may have said something too.
        serde_json::from_str(ran.stderr.lines().find(|line| line.starts_with('{')).unwrap()).unwrap()
    };
    // Asked again where the machine was too busy to hear `why`.
    let told =
        |error: &Value| text(&error["error"]["message"]).contains(why) || !is_slow(text(&error["error"]["message"]));
    let error = std::iter::repeat_with(refused).take(TRIES).find(told).expect("a guest that answers soon enough");
    assert_eq!(error["error"]["kind"], "refused");
    let message = text(&error["error"]["message"]);
    assert!(
        message.contains("the guest's filesystems could not be frozen") && message.contains(why),
        "{why:?} is not in {message}"
    );
    assert!(text(&error["error"]["advice"]).contains("--quiesce=preferred"), "{error}");
    vm.assert_nothing_left();
    assert_eq!(vm.checkpoints(), checkpoints);
    assert_eq!(vm.domain.state(), "running", "nothing is held");
    assert_eq!(vm.remora.run(["points", name, "-o", "json"]).stdout, points, "nothing is made");
}

/// Each wish of a guest that cannot be frozen has its outcome.
#[track_caller]
fn assert_unfrozen(vm: &Protected<'_>, why: &str) {
    assert_refused(vm, why);
    assert_makes(vm, &["--quiesce=preferred"], "failed", "could not be frozen");
    assert_makes(vm, &[], "failed", "could not be frozen");
    assert_makes(vm, &["--quiesce=never"], "skipped", "");
    assert_refused(vm, why);
}

/// The guest's filesystem takes writes.
#[track_caller]
fn assert_thawed(domain: &Domain<'_>) {
    domain.guest().sh("echo thawed >/mnt/vda/file && sync");
}

#[test]
fn without_an_agent_each_wish_has_its_outcome() {
    let domain = Lab::shared().domain("cli agentless").disk(DiskSpec::qcow2("vda", 64 * MIB)).define();
    domain.start();
    domain.write("vda", 0x11, 0, MIB);
    assert_unfrozen(&Protected::new(domain), "guest agent");
}

#[test]
fn a_working_agent_freezes_the_guest_for_the_instant_only() {
    let vm = guest("cli freezing", Agent::Works);
    for wish in [&["--quiesce=required"][..], &["--quiesce=preferred"], &[]] {
        vm.domain.guest().sh("echo not synced >/mnt/vda/frozen");
        assert_makes(&vm, wish, "frozen", "");
        assert!(!vm.domain.guest().frozen());
        assert_thawed(&vm.domain);
    }
    assert_makes(&vm, &["--quiesce=never"], "skipped", "");
    // What was written just before is in the frozen point: the filesystem was brought to the disk.
    let points = vm.remora.json(["points", vm.domain.name()]);
    let (point, to) = (text(&points[0]["point"]), vm.lab().scratch("frozen").join("vda.raw"));
    vm.remora.ok(["restore", point, "--disk", "vda", "--to", to.to_str().unwrap()]);
    let cat = run(Command::new("debugfs").args(["-R", "cat frozen"]).arg(&to)).ok();
    assert_eq!(cat.text(), "not synced");
}

#[test]
fn an_agent_that_refuses_has_its_outcome_and_leaves_the_guest_thawed() {
    let vm = guest("cli refusing", Agent::RefusesToFreeze);
    assert_unfrozen(&vm, "freeze");
    assert_thawed(&vm.domain);
}

#[test]
fn an_agent_that_hangs_has_its_outcome_and_leaves_the_guest_thawed() {
    let vm = guest("cli hung", Agent::Works);
    vm.domain.guest().hang_agent_until_a_disk_comes("vdb");
    // Each wish that asks it waits for more than a minute: not all of them, which the others above show.
    assert_refused(&vm, "agent");
    assert_makes(&vm, &["--quiesce=preferred"], "failed", "could not be frozen");
    assert_makes(&vm, &["--quiesce=never"], "skipped", "");
    vm.domain.attach(&DiskSpec::qcow2("vdb", MIB));
    // Now it does all that it was asked meanwhile.
    wait_until("the guest's agent does not answer again", Duration::from_mins(10), || {
        vm.domain.guest().try_agent("guest-ping", &serde_json::json!({}), Duration::from_secs(5)).status.success()
    });
    wait_until("the guest stays frozen", Duration::from_mins(10), || !vm.domain.guest().frozen());
    assert_thawed(&vm.domain);
    assert_makes(&vm, &["--quiesce=required"], "frozen", "");
    assert_thawed(&vm.domain);
}
