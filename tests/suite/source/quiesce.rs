//! Guests that freeze, cannot, will not, and do not answer.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use remora_core::point::{Quiesce, Quiesced};
use remora_core::ports::{ClaimedVm, OpenDisk, OpenRequest, OpenVm, Outcome, Tracking};
use remora_core::{Error, ErrorKind};
use remora_tests::{Agent, DiskSpec, Domain, Format, Lab, MIB, run, wait_until};
use serde_json::json;

use super::{Bench, checkpoints, wait_for, watchdog_command};

/// A guest with a mounted filesystem: there must be something to freeze.
fn guest(name: &str, agent: Agent) -> Domain<'static> {
    let raw = Lab::shared().scratch("ext4").join("disk.raw");
    std::fs::File::create(&raw).unwrap().set_len(64 * MIB).unwrap();
    run(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&raw)).ok();
    Lab::shared().domain(name).disk(DiskSpec::holding("vda", Format::Qcow2, &raw)).booted(agent)
}

/// Opens the one disk.
async fn open(claimed: &dyn ClaimedVm, bench: &Bench, quiesce: Quiesce) -> Result<Box<dyn OpenVm>, Error> {
    let disks = vec![OpenDisk { name: "vda".parse().unwrap(), since: None }];
    claimed.open(&OpenRequest { disks, checkpoint: bench.checkpoint(), tracking: Tracking::Begins, quiesce }).await
}

/// What is said of a guest that was frozen for longer than one may be, and of an agent that did not tell libvirt within five
/// seconds that it is there.
const SLOW: [&str; 2] = ["the guest was thawed before the backup began", "Guest agent is not responding"];

/// How often libvirt, or the guest, may take longer than it has, as either can on a busy machine.
const TRIES: usize = 100;

/// Opens the one disk of a guest that freezes.
async fn open_frozen(bench: &Bench, domain: &Domain<'_>, quiesce: Quiesce) -> Box<dyn OpenVm> {
    for _ in 0..TRIES {
        match open(&*bench.claim(domain).await, bench, quiesce).await {
            Ok(view) if view.quiesced() == Quiesced::Frozen => return view,
            // One that prefers it goes on, and does not tell why.
            Ok(view) if quiesce == Quiesce::Preferred => view.close(Outcome::Abandoned).await.unwrap(),
            Err(error) if SLOW.iter().any(|why| error.chain().contains(why)) => {}
            other => panic!("{:?}", other.map(|view| view.quiesced()).map_err(|error| error.chain())),
        }
    }
    panic!("the guest is never frozen for long enough")
}

/// Opens and closes; what became of the wish.
async fn quiesced(bench: &Bench, domain: &Domain<'_>, quiesce: Quiesce) -> Result<Quiesced, Error> {
    let claimed = bench.claim(domain).await;
    let view = open(&*claimed, bench, quiesce).await;
    let view = view.inspect_err(|_| bench.assert_nothing_left(domain))?;
    let quiesced = view.quiesced();
    view.close(Outcome::Abandoned).await.unwrap();
    bench.assert_nothing_left(domain);
    Ok(quiesced)
}

/// What is said where a frozen guest is required that cannot be frozen; asked again where the machine was too busy to hear `why`.
async fn refused(bench: &Bench, domain: &Domain<'_>, why: &str) -> Error {
    for _ in 0..TRIES {
        let error = quiesced(bench, domain, Quiesce::Required).await.unwrap_err();
        if error.chain().contains(why) || !SLOW.iter().any(|slow| error.chain().contains(slow)) {
            return error;
        }
    }
    panic!("the guest never answers soon enough")
}

/// A guest that cannot be frozen: each wish has its outcome, and `why` is said.
async fn assert_unfrozen(bench: &Bench, domain: &Domain<'_>, why: &str) {
    assert_eq!(quiesced(bench, domain, Quiesce::Never).await.unwrap(), Quiesced::Skipped);
    assert_eq!(quiesced(bench, domain, Quiesce::Preferred).await.unwrap(), Quiesced::Failed);
    let error = refused(bench, domain, why).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
    assert!(error.chain().contains(why), "{} lacks {why}", error.chain());
    assert!(error.advice().unwrap().contains("--quiesce"));
    assert!(checkpoints(domain).is_empty());
}

#[test]
fn a_paused_vm_cannot_be_frozen() {
    let domain = Lab::shared().domain("paused").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    wait_for(assert_unfrozen(&Bench::new(Lab::shared()), &domain, "paused"));
}

#[test]
fn a_guest_without_an_agent_cannot_be_frozen() {
    let domain = Lab::shared().domain("agentless").disk(DiskSpec::qcow2("vda", 16 * MIB)).define();
    domain.start();
    wait_for(assert_unfrozen(&Bench::new(Lab::shared()), &domain, "guest agent"));
}

#[test]
fn a_working_guest_is_frozen_for_the_instant_and_thawed() {
    let domain = guest("freezing", Agent::Works);
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        for quiesce in [Quiesce::Required, Quiesce::Preferred] {
            let words = format!("not synced before {quiesce:?}");
            domain.guest().sh(&format!("echo {words} >/mnt/vda/file"));
            let view = open_frozen(&bench, &domain, quiesce).await;
            let (_, bytes) = super::read_all(&view.disks()[0], None).await;
            let disk = Lab::shared().scratch("frozen").join("vda.raw");
            std::fs::write(&disk, bytes).unwrap();
            let file = run(Command::new("debugfs").args(["-R", "cat file"]).arg(disk)).ok();
            assert_eq!(file.text(), words, "the filesystem was brought to the disk");
            view.close(Outcome::Abandoned).await.unwrap();
            bench.assert_nothing_left(&domain);
            let status = domain.guest().agent("guest-fsfreeze-status", &json!({}));
            assert_eq!(status, "thawed");
        }
    });
}

#[test]
fn a_guest_that_refuses_to_freeze_is_not_left_frozen() {
    let domain = guest("refusing", Agent::RefusesToFreeze);
    let bench = Bench::new(Lab::shared());
    wait_for(assert_unfrozen(&bench, &domain, "freeze"));
    domain.guest().sh("true");
}

#[test]
fn a_guest_whose_agent_hangs_holds_nothing_up() {
    let domain = guest("hung", Agent::Works);
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        domain.guest().hang_agent();
        assert_unfrozen(&bench, &domain, "agent").await;
    });
}

/// Longer than a test waits for anything.
const EVER: Duration = Duration::from_hours(1);

/// A watchdog process that is spoken to by the test instead of a run.
fn watchdog(bench: &Bench, domain: &Domain<'_>, frozen_at_most: Duration) -> (Child, ChildStdin) {
    let command = watchdog_command();
    let mut process = Command::new(&command[0]);
    let mut process = process.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let spec = json!({
        "uri": domain.lab().uri(), "vm": domain.name(), "uuid": domain.uuid(), "checkpoint": bench.checkpoint(),
        "files": [], "volumes": [],
        "freezing_at_most": EVER, "frozen_at_most": frozen_at_most,
        "run": std::process::id(), "silent_at_most": Duration::from_mins(1),
    });
    let mut input = process.stdin.take().unwrap();
    writeln!(input, "{spec}").unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "\"ready\""), "the watchdog watches");
    (process, input)
}

#[test]
fn a_watchdog_thaws_a_guest_that_stays_frozen_or_whose_run_died() {
    let domain = guest("held", Agent::Works);
    let bench = Bench::new(Lab::shared());

    let (mut process, mut input) = watchdog(&bench, &domain, Duration::from_secs(2));
    writeln!(input, "\"freezing\"").unwrap();
    domain.guest().freeze();
    // Before the watchdog is told and begins to count.
    assert!(domain.guest().frozen());
    writeln!(input, "\"frozen\"").unwrap();
    wait_until("the guest stays frozen", Duration::from_mins(5), || !domain.guest().frozen());
    drop(input);
    assert!(process.wait().unwrap().success());

    for step in ["freezing", "frozen"] {
        let (mut process, mut input) = watchdog(&bench, &domain, EVER);
        writeln!(input, "\"{step}\"").unwrap();
        domain.guest().freeze();
        assert!(domain.guest().frozen());
        drop(input);
        wait_until("the guest stays frozen", Duration::from_mins(5), || !domain.guest().frozen());
        assert!(process.wait().unwrap().success(), "it ends when its work is done");
    }

    // One that was told that all is well leaves the guest alone.
    let (mut process, mut input) = watchdog(&bench, &domain, EVER);
    domain.guest().freeze();
    writeln!(input, "\"done\"").unwrap();
    assert!(process.wait().unwrap().success());
    assert!(domain.guest().frozen());
    domain.guest().thaw();
}

/// Killed between the wish to freeze and libvirt's answer, a run leaves a watchdog that does not know whether the guest is frozen.
#[test]
fn a_watchdog_does_not_go_on_thawing_a_guest_that_has_no_agent() {
    let domain = Lab::shared().domain("agentless watched").disk(DiskSpec::qcow2("vda", 16 * MIB)).define();
    domain.start();
    let (mut process, mut input) = watchdog(&Bench::new(Lab::shared()), &domain, EVER);
    writeln!(input, "\"freezing\"").unwrap();
    drop(input);
    wait_until("the watchdog goes on", Duration::from_mins(5), || process.try_wait().unwrap().is_some());
    assert!(process.wait().unwrap().success());
}
