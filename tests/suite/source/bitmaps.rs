//! Which checkpoints an increment can start from, and that increments are exact.

use remora_core::point::Quiesce;
use remora_core::ports::{Bitmaps, OpenDisk, OpenRequest, Tracking};
use remora_core::{DiskName, ErrorKind};
use remora_tests::{DiskSpec, KIB, Lab, MIB};

use super::{Bench, ExtentState, Taken, bitmaps, checkpoints, open_all, wait_for};

/// The next increment cannot start from `taken`: it is not usable, and if it is tried all the same libvirt refuses,
/// the error is `Damaged`, and nothing is left behind.
async fn assert_no_increment(bench: &Bench, domain: &remora_tests::Domain<'_>, taken: &Taken, why: Option<&str>) {
    let claimed = bench.claim(domain).await;
    let (usable, broken) = bitmaps(&*claimed, "vda");
    assert!(!usable.contains(&taken.checkpoint));
    match why {
        Some(why) => assert!(broken.iter().any(|b| b.contains(why)), "{broken:?} lacks {why}"),
        None => assert_eq!(broken, [] as [String; 0]),
    }
    let before = checkpoints(domain);
    let disks = vec![OpenDisk { name: "vda".parse().unwrap(), since: Some(taken.checkpoint.clone()) }];
    let request =
        OpenRequest { disks, checkpoint: bench.checkpoint(), tracking: Tracking::Begins, quiesce: Quiesce::Never };
    let error = claimed.open(&request).await.err().expect("libvirt refuses");
    assert_eq!(error.kind(), ErrorKind::Damaged, "{}", error.chain());
    assert_eq!(checkpoints(domain), before);
    bench.assert_nothing_left(domain);
    // And a full one works without any clean-up.
    drop(claimed);
    bench.point(domain, None).await.assert_is("vda", &domain.truth("vda"));
}

#[test]
fn a_full_then_an_increment_read_what_qemu_held_and_only_what_changed() {
    let domain = Lab::shared().domain("naïve vm <& co>").disk(DiskSpec::qcow2("vda", 64 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        domain.write("vda", 0x11, 0, 3 * MIB);
        assert_eq!(bitmaps(&*bench.claim(&domain).await, "vda"), (vec![], vec![]), "no checkpoint yet");
        let truth = domain.truth("vda");
        let full = bench.point(&domain, None).await;
        full.assert_is("vda", &truth);
        assert_eq!(full.disk("vda").changed(), [(0, 64 * MIB)]);

        domain.write("vda", 0x22, 8 * MIB, 4 * KIB);
        domain.write("vda", 0x33, 64 * MIB - 512, 512);
        domain.discard("vda", MIB, MIB);
        assert_eq!(bitmaps(&*bench.claim(&domain).await, "vda"), (vec![full.checkpoint.clone()], vec![]));
        let truth = domain.truth("vda");
        let increment = bench.point(&domain, Some(&full)).await;
        increment.assert_is("vda", &truth);
        let disk = increment.disk("vda");
        assert_eq!(disk.changed(), [(MIB, 2 * MIB), (8 * MIB, 8 * MIB + 64 * KIB), (64 * MIB - 64 * KIB, 64 * MIB)]);
        assert!(disk.ranges(ExtentState::Zero).contains(&(MIB, 2 * MIB)), "what was discarded is not read");
    });
}

#[test]
fn writes_during_the_job_are_in_the_next_point_only() {
    let domain = Lab::shared().domain("instant").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        domain.write("vda", 0x11, 0, 16 * MIB);
        let truth = domain.truth("vda");
        let claimed = bench.claim(&domain).await;
        let checkpoint = bench.checkpoint();
        let view = open_all(&*claimed, &checkpoint).await.unwrap();
        domain.write("vda", 0x22, MIB, MIB);
        let (_, bytes) = super::read_all(&view.disks()[0], None).await;
        assert!(bytes == std::fs::read(truth).unwrap(), "the view shows one instant");
        view.close(remora_core::ports::Outcome::Stored).await.unwrap();
        drop(claimed);
        let full = Taken {
            checkpointed: ["vda".parse().unwrap()].into(),
            disks: vec![super::TakenDisk { name: "vda".parse().unwrap(), extents: Vec::new(), bytes }],
            checkpoint,
        };
        let increment = bench.point(&domain, Some(&full)).await;
        assert_eq!(increment.disk("vda").changed(), [(MIB, 2 * MIB)]);
        increment.assert_is("vda", &domain.truth("vda"));
    });
}

#[test]
fn a_raw_disk_is_read_whole_beside_an_increment() {
    let lab = Lab::shared();
    let disks = [DiskSpec::qcow2("vda", 16 * MIB), DiskSpec::raw("vdb", 8 * MIB)];
    let domain = disks.into_iter().fold(lab.domain("raw"), remora_tests::DomainBuilder::disk).paused();
    let bench = Bench::new(lab);
    wait_for(async {
        let state = bench.claim(&domain).await.state().clone();
        assert!(matches!(&state.disks[1].bitmaps, Bitmaps::Unable(why) if why.contains("raw")), "{state:?}");
        let full = bench.point(&domain, None).await;
        assert_eq!(full.checkpointed.iter().map(DiskName::as_str).collect::<Vec<_>>(), ["vda"]);
        domain.write("vda", 0x22, 0, 4 * KIB);
        domain.write("vdb", 0x33, MIB, 4 * KIB);
        let truths = domain.truths(&["vda", "vdb"]);
        let second = bench.point(&domain, Some(&full)).await;
        second.assert_is("vda", &truths[0]);
        second.assert_is("vdb", &truths[1]);
        assert_eq!(second.disk("vda").changed(), [(0, 64 * KIB)]);
        assert_eq!(second.disk("vdb").changed(), [(0, 8 * MIB)]);
    });
}

#[test]
fn a_vm_with_raw_disks_only_gets_no_checkpoint() {
    let domain = Lab::shared().domain("rawonly").disk(DiskSpec::raw("vda", 4 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        domain.write("vda", 0x11, MIB, 4 * KIB);
        let taken = bench.point(&domain, None).await;
        taken.assert_is("vda", &domain.truth("vda"));
        assert!(taken.checkpointed.is_empty() && checkpoints(&domain).is_empty());
    });
}

#[test]
fn shut_off_and_started_again_the_increment_is_exact() {
    let domain = Lab::shared().domain("restarted").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let full = bench.point(&domain, None).await;
        domain.write("vda", 0x22, MIB, 4 * KIB);
        domain.destroy();
        let off = bench.try_claim(&domain, remora_core::ports::Patience::None).await.err().unwrap();
        assert_eq!(off.kind(), ErrorKind::Unavailable);
        assert!(off.advice().unwrap().contains("virsh start"), "{:?}", off.advice());
        domain.start_paused();
        domain.write("vda", 0x33, 2 * MIB, 4 * KIB);
        let truth = domain.truth("vda");
        let increment = bench.point(&domain, Some(&full)).await;
        increment.assert_is("vda", &truth);
        let data = [(MIB, MIB + 64 * KIB), (2 * MIB, 2 * MIB + 64 * KIB)];
        assert_eq!(increment.disk("vda").changed(), data);
    });
}

#[test]
fn after_a_kill_of_qemu_the_bitmap_is_broken() {
    let domain = Lab::shared().domain("killed with bitmaps").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let full = bench.point(&domain, None).await;
        // Made before this start, so its bitmap is in the image, marked as in use.
        domain.destroy();
        domain.start_paused();
        let second = bench.point(&domain, Some(&full)).await;
        domain.sigkill_qemu();
        domain.start_paused();
        let (usable, broken) = bitmaps(&*bench.claim(&domain).await, "vda");
        assert_eq!(usable, []);
        assert!(broken.iter().any(|why| why.contains("inconsistent")), "{broken:?}");
        assert_no_increment(&bench, &domain, &full, Some("inconsistent")).await;
        assert_no_increment(&bench, &domain, &second, Some("missing")).await;
    });
}

#[test]
fn a_checkpoint_deleted_behind_our_back_is_gone() {
    let domain = Lab::shared().domain("deleted").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let full = bench.point(&domain, None).await;
        domain.virsh("checkpoint-delete", &[full.checkpoint.as_str()]);
        assert_no_increment(&bench, &domain, &full, None).await;
        let full = bench.point(&domain, None).await;
        domain.virsh("checkpoint-delete", &[full.checkpoint.as_str(), "--metadata"]);
        assert_no_increment(&bench, &domain, &full, Some("forgotten")).await;
    });
}

#[test]
fn two_repositories_keep_their_own_checkpoints() {
    let domain = Lab::shared().domain("shared").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let [one, two] = [(); 2].map(|()| Bench::new(Lab::shared()));
    wait_for(async {
        let first = one.point(&domain, None).await;
        domain.write("vda", 0x22, MIB, 4 * KIB);
        let other = two.point(&domain, None).await;
        domain.write("vda", 0x33, 2 * MIB, 4 * KIB);
        let second = one.point(&domain, Some(&first)).await;
        let data = [(MIB, MIB + 64 * KIB), (2 * MIB, 2 * MIB + 64 * KIB)];
        assert_eq!(second.disk("vda").changed(), data);

        let keep = [second.checkpoint.clone()].into();
        one.claim(&domain).await.retire(one.repository, &keep).await.unwrap();
        let left = [&second, &other].map(|t| t.checkpoint.to_string()).into();
        assert_eq!(checkpoints(&domain), left, "only what the first repository no longer needs is gone");
        let truth = domain.truth("vda");
        let second = two.point(&domain, Some(&other)).await;
        assert_eq!(second.disk("vda").changed(), data[1..]);
        second.assert_is("vda", &truth);
    });
}

#[test]
fn checkpoints_are_retired_though_their_bitmaps_are_gone_or_broken() {
    let domain = Lab::shared().domain("retired").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        bench.point(&domain, None).await;
        domain.destroy();
        domain.start_paused();
        bench.point(&domain, None).await;
        domain.sigkill_qemu();
        domain.start_paused();
        domain.virsh("checkpoint-create-as", &["foreign", "--diskspec", "vda"]);
        bench.claim(&domain).await.retire(bench.repository, &[].into()).await.unwrap();
        assert_eq!(checkpoints(&domain), ["foreign".to_owned()].into());
        assert_eq!(bitmaps(&*bench.claim(&domain).await, "vda"), (vec![], vec![]), "the image holds none of ours");
    });
}
