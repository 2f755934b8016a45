//! Guests that freeze, cannot, will not, and do not answer.

use std::thread;
use std::time::{Duration, Instant};

use remora_core::point::{Quiesce, Quiesced};
use remora_core::ports::{OpenDisk, OpenRequest, Outcome};
use remora_core::{Error, ErrorKind};
use remora_tests::guest::Agent;
use remora_tests::{DiskSpec, Domain, Lab, MIB, wait_until};

use super::{Bench, checkpoints, victim, wait_for};

/// Opens and closes; what became of the wish.
async fn quiesced(bench: &Bench, domain: &Domain<'_>, quiesce: Quiesce) -> Result<Quiesced, Error> {
    let claimed = bench.claim(domain).await;
    let disks = vec![OpenDisk { name: "vda".parse().unwrap(), since: None }];
    let view = claimed.open(&OpenRequest { disks, checkpoint: bench.checkpoint(), quiesce }).await;
    let view = view.inspect_err(|_| bench.assert_nothing_left(domain))?;
    let quiesced = view.quiesced();
    view.close(Outcome::Abandoned).await.unwrap();
    bench.assert_nothing_left(domain);
    Ok(quiesced)
}

/// A guest that cannot be frozen: each wish has its outcome, and `why` is said.
async fn assert_unfrozen(bench: &Bench, domain: &Domain<'_>, why: &str) {
    assert_eq!(quiesced(bench, domain, Quiesce::Never).await.unwrap(), Quiesced::Skipped);
    assert_eq!(quiesced(bench, domain, Quiesce::Preferred).await.unwrap(), Quiesced::Failed);
    let error = quiesced(bench, domain, Quiesce::Required).await.unwrap_err();
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
    let domain = Lab::shared().domain("freezing").disk(DiskSpec::qcow2("vda", 64 * MIB)).booted(Agent::Works);
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        for quiesce in [Quiesce::Required, Quiesce::Preferred] {
            assert_eq!(quiesced(&bench, &domain, quiesce).await.unwrap(), Quiesced::Frozen);
            let status = domain.guest().agent("guest-fsfreeze-status", &serde_json::json!({}));
            assert_eq!(status, "thawed");
        }
    });
}

#[test]
fn a_guest_that_refuses_to_freeze_is_not_left_frozen() {
    let domain = Lab::shared().domain("refusing").disk(DiskSpec::qcow2("vda", 64 * MIB)).booted(Agent::RefusesToFreeze);
    let bench = Bench::new(Lab::shared());
    wait_for(assert_unfrozen(&bench, &domain, "freeze"));
    domain.guest().sh("true");
}

#[test]
fn a_guest_whose_agent_hangs_holds_nothing_up() {
    let domain = Lab::shared().domain("hung").disk(DiskSpec::qcow2("vda", 64 * MIB)).booted(Agent::Works);
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        domain.guest().hang_agent();
        let start = Instant::now();
        assert_unfrozen(&bench, &domain, "agent").await;
        assert!(start.elapsed() < Duration::from_mins(1), "took {:?}", start.elapsed());
    });
}

/// Keeps libvirt from starting a job for so long: QEMU's monitor is busy, which holds libvirt's lock on the domain.
fn hold_monitor(domain: &Domain<'_>, time: Duration) {
    domain.qemu_io("vda", &format!("sleep {}", time.as_millis()));
}

#[test]
fn a_guest_that_would_stay_frozen_for_too_long_is_thawed() {
    let domain = Lab::shared().domain("held").disk(DiskSpec::qcow2("vda", 64 * MIB)).booted(Agent::Works);
    let bench = Bench::new(Lab::shared());
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            wait_for(async {
                let claimed = bench.claim(&domain).await;
                scope.spawn(|| hold_monitor(&domain, Duration::from_secs(20)));
                let disks = vec![OpenDisk { name: "vda".parse().unwrap(), since: None }];
                let request = OpenRequest { disks, checkpoint: bench.checkpoint(), quiesce: Quiesce::Required };
                claimed.open(&request).await.err().expect("it was not frozen at the instant")
            })
        });
        wait_until("the guest is not frozen", Duration::from_secs(15), || domain.guest().frozen());
        wait_until("the guest stays frozen", Duration::from_secs(14), || !domain.guest().frozen());
        assert!(!run.is_finished(), "libvirt still waits for QEMU");
        let error = run.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
    });
    bench.assert_nothing_left(&domain);
    assert!(checkpoints(&domain).is_empty());
}

#[test]
fn a_guest_is_thawed_when_its_run_is_killed() {
    let domain = Lab::shared().domain("orphan").disk(DiskSpec::qcow2("vda", 64 * MIB)).booted(Agent::Works);
    let bench = Bench::new(Lab::shared());
    thread::scope(|scope| {
        let locked = bench.run_dir.join(format!("{}.lock", domain.uuid()));
        let mut run = victim(&bench, &domain, Quiesce::Required);
        // Its socket's folder is made after the claim and before the freeze.
        wait_until("the victim does not claim", Duration::from_secs(20), || locked.with_extension("").exists());
        let hold = scope.spawn(|| hold_monitor(&domain, Duration::from_secs(12)));
        wait_until("the guest is not frozen", Duration::from_secs(10), || domain.guest().frozen());
        run.kill().unwrap();
        run.wait().unwrap();
        wait_until("the guest stays frozen", Duration::from_secs(5), || !domain.guest().frozen());
        assert!(!hold.is_finished(), "this was the watchdog's thaw, not the run's");
    });
    bench.wait_until_nothing_is_left(&domain);
}
