//! What goes wrong in the middle of a backup, and what is said of it.

use std::time::Duration;

use remora_core::ports::{ClaimedVm, OpenVm, Outcome};
use remora_core::{ByteRange, Error, ErrorKind};
use remora_tests::{DiskSpec, Domain, Lab, MIB, Small, wait_until};

use super::{Bench, checkpoints, open_all, read_all, wait_for};

async fn opened(bench: &Bench, domain: &Domain<'_>) -> (Box<dyn ClaimedVm>, Box<dyn OpenVm>) {
    let claimed = bench.claim(domain).await;
    let view = open_all(&*claimed, &bench.checkpoint()).await.unwrap();
    (claimed, view)
}

/// The error that reading gives once the job has broken.
async fn read_error(view: &dyn OpenVm) -> Error {
    let disk = &view.disks()[0];
    for at in (0..).map(|n| n * MIB % disk.size()) {
        if let Err(error) = disk.read(ByteRange::at(at, MIB)).await {
            return error;
        }
    }
    unreachable!()
}

#[test]
fn a_vm_shut_off_in_the_middle_is_said_so() {
    let domain = Lab::shared().domain("off").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let (claimed, view) = opened(&bench, &domain).await;
        domain.destroy();
        let error = read_error(&*view).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("shut off"), "{}", error.chain());
        let unconfirmed = view.confirm().await.unwrap_err();
        assert!(unconfirmed.to_string().contains("shut off"), "{}", unconfirmed.chain());
        view.close(Outcome::Abandoned).await.unwrap();
        bench.assert_nothing_left(&domain);
        drop(claimed);

        domain.start_paused();
        bench.point(&domain, None).await.assert_is("vda", &domain.truth("vda"));
        bench.claim(&domain).await.retire(bench.repository, &[].into()).await.unwrap();
        assert!(checkpoints(&domain).is_empty(), "what could not be removed while it was off is retired later");
    });
}

#[test]
fn a_job_ended_by_somebody_else_is_said_so() {
    let domain = Lab::shared().domain("aborted").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let (_claimed, view) = opened(&bench, &domain).await;
        domain.virsh("domjobabort", &[]);
        for error in [read_error(&*view).await, view.confirm().await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("ended by somebody else"), "{}", error.chain());
        }
        view.close(Outcome::Abandoned).await.unwrap();
        bench.assert_nothing_left(&domain);
        assert!(checkpoints(&domain).is_empty());
    });
}

#[test]
fn libvirtd_restarted_or_killed_in_the_middle_costs_nothing() {
    // A lab of its own: the other tests use the shared one's libvirtd.
    let lab = Lab::start();
    let domain = lab.domain("lasting").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(&lab);
    wait_for(async {
        domain.write("vda", 0x11, MIB, 4 * MIB);
        let mut before = None;
        for restart in [Lab::restart_libvirtd, Lab::crash_libvirtd] {
            let truth = domain.truth("vda");
            let (claimed, view) = opened(&bench, &domain).await;
            tokio::task::block_in_place(|| restart(&lab));
            let (_, bytes) = read_all(&view.disks()[0], None).await;
            assert!(bytes == std::fs::read(truth).unwrap());
            view.confirm().await.unwrap();
            view.close(Outcome::Stored).await.unwrap();
            bench.assert_nothing_left(&domain);
            drop(claimed);
            let now = bench.point(&domain, before.as_ref()).await;
            now.assert_is("vda", &domain.truth("vda"));
            before = Some(now);
        }
    });
}

#[test]
fn before_scratch_is_full_the_job_ends_and_no_write_of_the_guest_ever_fails() {
    let small = Small::new(64);
    let lab = Lab::start(); // It sees what is mounted before it.
    let domain = lab.domain("scratch").disk(DiskSpec::qcow2("vda", 512 * MIB)).paused();
    let bench = Bench::with_scratch(&lab, Some(small.path()));
    wait_for(async {
        domain.write("vda", 0x11, 0, 256 * MIB);
        let (_claimed, view) = opened(&bench, &domain).await;
        let before = small.used();
        domain.write("vda", 0x22, 0, MIB);
        assert!(small.used() >= before + MIB, "the scratch file lies in the small filesystem and takes the old bytes");
        tokio::task::block_in_place(|| {
            let ended = || !domain.try_virsh("backup-dumpxml", &[]).status.success();
            let mut waited = false;
            // Until well after the job was ended; `write` panics if the guest would see an error.
            for at in 1..200 {
                domain.write("vda", 0x22, at * MIB, MIB);
                // On a busy machine the watchdog may get no processor for as long as it takes to fill the rest.
                if !waited && small.used() >= 64 * MIB * 4 / 5 {
                    wait_until("the job does not end", Duration::from_mins(5), ended);
                    waited = true;
                }
            }
            // It may have ended, and its file have gone, between a write and the look at what that took.
            assert!(ended(), "the scratch file took {} bytes", small.used());
        });
        assert_eq!(domain.writes("vda").failed, 0);
        for error in [read_error(&*view).await, view.confirm().await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", error.chain());
            assert!(error.to_string().contains(small.path().to_str().unwrap()), "{}", error.chain());
            assert!(error.advice().unwrap().contains("--scratch"));
        }
        view.close(Outcome::Abandoned).await.unwrap();
        bench.assert_nothing_left(&domain);
        assert!(checkpoints(&domain).is_empty());
        assert_eq!(small.used(), 0, "the scratch file is gone");
    });
}

#[test]
fn too_little_room_for_scratch_is_refused_before_anything_happens() {
    let lab = Lab::shared();
    let domain = lab.domain("noroom").disk(DiskSpec::qcow2("vda", 512 * MIB)).paused();
    let small = Small::new(8);
    let bench = Bench::with_scratch(lab, Some(small.path()));
    wait_for(async {
        let claimed = bench.claim(&domain).await;
        let error = open_all(&*claimed, &bench.checkpoint()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        bench.assert_nothing_left(&domain);
        assert!(checkpoints(&domain).is_empty());
    });
}
