//! Runs that make points: what is full, incremental and reread, and that each point is what QEMU held.

use remora_core::point::{Decision, Quiesce, Quiesced};
use remora_core::ports::NoProgress;
use remora_core::{DiskName, ErrorKind};
use remora_source::kubevirt::{Depth, Freeze, QuiesceFacts};
use remora_tests::MIB;
use std::sync::Arc;

use crate::bench::{Bench, decisions};
use crate::cluster::{LEFT_OUT, Start};
use crate::wait_for;
use Decision::{Full, Incremental, Reread};

#[test]
fn full_then_increments_whose_points_are_the_disks_and_whose_checkpoints_do_not_pile_up() {
    wait_for(async {
        let bench = Bench::new().await;
        let full = bench.run().await;
        assert_eq!((decisions(&full), full.notes.as_slice()), (vec![Full, Full], &[LEFT_OUT.to_owned()][..]));
        bench.assert_is_now(&full.point);
        for round in 0..5 {
            bench.domain.write("vda", 10 + round, u64::from(round) * 7 * MIB + 512, 70_000);
            let next = bench.run().await;
            assert_eq!(
                (decisions(&next), next.notes.as_slice()),
                (vec![Incremental, Incremental], &[LEFT_OUT.to_owned()][..])
            );
            assert!(next.point.disks[0].read < 4 * MIB, "{} bytes were read", next.point.disks[0].read);
            bench.assert_is_now(&next.point);
            let named = next.point.disks[0].checkpoint.as_ref().unwrap();
            assert_eq!(named.repository(), next.point.repository);
            assert_eq!(Some(named.as_str()), bench.cluster.latest().as_deref());
            assert_eq!(bench.checkpoints(), [named.to_string()].into(), "older checkpoints stay");
        }
        let wishes = std::mem::take(&mut bench.cluster.state().wishes);
        let depths: Vec<_> = wishes.iter().map(|wish| wish.depth).collect();
        assert_eq!((depths[0], &depths[1..]), (Depth::Full, &[Depth::SinceLatest; 5][..]));
        let newest = bench.points().await.pop().unwrap();
        let disk = &newest.disks[0];
        assert!(disk.instance.as_ref().unwrap().starts_with("vmi vmi-1 boot "), "{:?}", disk.instance);
        assert_eq!(newest.definition, r#"{"kind": "VirtualMachine"}"#);
        assert_eq!(disk.identity.inode.as_deref(), Some("uid-of-root-disk"));
    });
}

#[test]
fn a_tracker_that_was_advanced_behind_our_back_makes_a_reread_however_late_that_happens() {
    wait_for(async {
        let bench = Bench::new().await;
        let repository = bench.run().await.point.repository;
        // Before the run: the planning sees it.
        bench.domain.write("vda", 5, 9 * MIB, MIB);
        bench.cluster.backup_that_nobody_reads(repository);
        bench.domain.write("vdb", 6, 5 * MIB, 4096);
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Reread, Reread], "{}", next.point.reason);
        assert_eq!(bench.cluster.state().wishes.last().unwrap().depth, Depth::Full);
        bench.assert_is_now(&next.point);
        // After the planning: KubeVirt makes an increment, of another checkpoint than ours.
        bench.domain.write("vda", 7, 11 * MIB, MIB);
        let cluster = Arc::clone(&bench.cluster);
        bench.cluster.state().before_start = Some(Box::new(move || cluster.backup_that_nobody_reads(repository)));
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Reread, Reread]);
        assert!(next.point.reason.contains("tracker moved on to r-"), "{}", next.point.reason);
        assert_eq!(bench.cluster.state().wishes.last().unwrap().depth, Depth::SinceLatest, "one job serves both");
        bench.assert_is_now(&next.point);
        // A full, though an increment was asked for.
        bench.cluster.state().start = Start::AlwaysFull;
        let next = bench.run().await;
        assert_eq!((decisions(&next), next.point.reason.contains("made a full")), (vec![Reread, Reread], true));
        bench.cluster.state().start = Start::Works;
        bench.domain.write("vda", 8, 13 * MIB, 512);
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Incremental, Incremental]);
        bench.assert_is_now(&next.point);
    });
}

#[test]
fn a_restart_makes_a_reread_for_the_pvc_may_have_been_written_meanwhile() {
    wait_for(async {
        let bench = Bench::new().await;
        bench.run().await;
        bench.domain.destroy();
        let data = bench.domain.image("vda").data.unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(data).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[9; 4096], 30 * MIB).unwrap();
        bench.domain.start_paused();
        bench.cluster.new_instance("vmi-2");
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Reread, Reread]);
        assert!(next.point.reason.contains("while its QEMU was not running"), "{}", next.point.reason);
        bench.assert_is_now(&next.point);
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Incremental, Incremental]);
        // The same process, so only the VMI's UID tells.
        bench.cluster.new_instance("vmi-3");
        assert_eq!(decisions(&bench.run().await), [Reread, Reread]);
    });
}

#[test]
fn a_disk_that_joined_later_makes_all_disks_full_or_reread() {
    wait_for(async {
        let bench = Bench::new().await;
        let mut request = bench.request();
        request.disks = Some(vec![DiskName::new("root-disk").unwrap()]);
        let first = bench.try_run(request, Arc::new(NoProgress)).await.unwrap();
        assert_eq!(decisions(&first), [Full]);
        // Of one disk an increment would do, but not of the other: of none, then.
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Reread, Full], "{}", next.point.reason);
        assert_eq!(bench.cluster.state().wishes.last().unwrap().depth, Depth::Full);
        bench.assert_is_now(&next.point);
        // The tracker's checkpoint does not cover a disk.
        bench.cluster.state().facts.latest.as_mut().unwrap().volumes.remove("data");
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Reread, Reread]);
        assert!(next.point.reason.contains("data joined the VM later"), "{}", next.point.reason);
        bench.assert_is_now(&next.point);
    });
}

#[test]
fn what_became_of_freezing_is_kubevirts_to_say_and_ours_to_judge() {
    wait_for(async {
        let bench = Bench::new().await;
        let with = |quiesce| remora_engine::BackupRequest { quiesce, ..bench.request() };
        let cases = [
            (Quiesce::Preferred, QuiesceFacts::Succeeded, Ok(Quiesced::Frozen)),
            (Quiesce::Required, QuiesceFacts::Succeeded, Ok(Quiesced::Frozen)),
            (Quiesce::Preferred, QuiesceFacts::Failed("no agent".into()), Ok(Quiesced::Failed)),
            (Quiesce::Preferred, QuiesceFacts::Unknown, Ok(Quiesced::Failed)),
            (Quiesce::Never, QuiesceFacts::Succeeded, Ok(Quiesced::Skipped)),
            (Quiesce::Required, QuiesceFacts::Failed("no agent".into()), Err("no agent")),
            (Quiesce::Required, QuiesceFacts::Unknown, Err("does not say")),
        ];
        for (asked, told, wanted) in cases {
            let points = bench.points().await.len();
            bench.cluster.state().quiesced = told.clone();
            let done = bench.try_run(with(asked), Arc::new(NoProgress)).await;
            let freeze = bench.cluster.state().wishes.last().unwrap().freeze;
            assert_eq!(freeze == Freeze::Skip, asked == Quiesce::Never);
            match wanted {
                Ok(quiesced) => {
                    let report = done.unwrap();
                    assert_eq!(report.point.quiesced, quiesced, "{asked:?} {told:?}");
                    let noted = report.notes.iter().any(|note| note.contains("crash-consistent"));
                    assert_eq!(noted, quiesced == Quiesced::Failed, "{:?}", report.notes);
                }
                Err(word) => {
                    let error = done.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Refused, "{asked:?} {told:?}");
                    assert!(error.chain().contains(word), "{}", error.chain());
                    assert_eq!(bench.points().await.len(), points);
                }
            }
        }
    });
}
