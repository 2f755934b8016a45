//! Backups that do not start: the run gives up in time, says why, and leaves nothing.

use std::sync::Arc;

use remora_core::ErrorKind;
use remora_core::plan::Asked;
use remora_core::point::Decision;
use remora_core::ports::{NoProgress, Outcome};
use remora_source::kubevirt::{ChangedBlockTracking, Depth, JobFacts, SCRATCH_NOT_ATTACHABLE};
use remora_tests::MIB;

use crate::bench::{Bench, decisions};
use crate::cluster::Start;
use crate::wait_for;

#[test]
fn an_increment_that_kubevirt_cannot_start_is_given_up_and_repeated_once_as_a_reread() {
    wait_for(async {
        let bench = Bench::new().await;
        bench.run().await;
        bench.domain.write("vda", 5, 9 * MIB, MIB);
        bench.cluster.state().start = Start::NoIncrement;
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Decision::Reread, Decision::Reread]);
        assert!(next.point.reason.contains("failed to send Start backup command"), "{}", next.point.reason);
        bench.assert_is_now(&next.point);
        let state = bench.cluster.state();
        let depths: Vec<_> = state.wishes.iter().map(|wish| wish.depth).collect();
        assert_eq!(depths, [Depth::Full, Depth::SinceLatest, Depth::Full]);
        let outcomes: Vec<_> = state.ended.iter().map(|(_, outcome)| *outcome).collect();
        assert_eq!(outcomes, [Outcome::Stored, Outcome::Abandoned, Outcome::Stored]);
        assert!(state.wishes[1].backup != state.wishes[2].backup);
    });
}

#[test]
fn an_increment_whose_scratch_pvc_does_not_get_to_the_node_is_not_repeated() {
    wait_for(async {
        let bench = Bench::new().await;
        bench.run().await;
        bench.cluster.state().start = Start::Unattached("no node has it");
        let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
        assert_eq!(error.name(), Some(SCRATCH_NOT_ATTACHABLE), "{}", error.chain());
        assert!(error.chain().contains("no node has it") && error.advice().is_some(), "{error:?}");
        let depths: Vec<_> = bench.cluster.state().wishes.iter().map(|wish| wish.depth).collect();
        assert_eq!(depths, [Depth::Full, Depth::SinceLatest]);
        // KubeVirt's tracker has not moved on, so nothing is lost by it.
        bench.domain.write("vda", 5, 9 * MIB, MIB);
        bench.cluster.state().start = Start::Works;
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Decision::Incremental, Decision::Incremental], "{}", next.point.reason);
        bench.assert_is_now(&next.point);
    });
}

#[test]
fn an_increment_whose_start_no_watch_tells_of_is_found_by_asking() {
    wait_for(async {
        let bench = Bench::new().await;
        bench.run().await;
        bench.domain.write("vda", 5, 9 * MIB, MIB);
        bench.cluster.state().deaf = true;
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Decision::Incremental, Decision::Incremental], "{}", next.point.reason);
        bench.assert_is_now(&next.point);
        assert_eq!(bench.cluster.state().wishes.len(), 2, "it was asked for once");
    });
}

#[test]
fn a_job_whose_scratch_pvc_is_detached_as_it_begins_is_not_read_but_asked_for_anew() {
    wait_for(async {
        let bench = Bench::new().await;
        bench.cluster.state().start = Start::Detaches(2);
        assert_eq!(decisions(&bench.run().await), [Decision::Full, Decision::Full]);
        bench.domain.write("vda", 5, 9 * MIB, MIB);
        bench.cluster.state().start = Start::Detaches(1);
        let next = bench.run().await;
        assert_eq!(decisions(&next), [Decision::Reread, Decision::Reread]);
        assert!(next.point.reason.contains("detached the scratch PVC"), "{}", next.point.reason);
        bench.assert_is_now(&next.point);
        {
            let state = bench.cluster.state();
            let outcomes: Vec<_> = state.ended.iter().map(|(_, outcome)| *outcome).collect();
            let [no, yes] = [Outcome::Abandoned, Outcome::Stored];
            assert_eq!(outcomes, [no, no, yes, no, yes]);
            let names: std::collections::BTreeSet<_> = state.wishes.iter().map(|wish| &wish.backup).collect();
            assert_eq!(names.len(), 5, "{names:?}");
        }
        bench.cluster.state().start = Start::Detaches(9);
        let error = bench.fail(Asked::Reread, Arc::new(NoProgress)).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
        assert!(error.chain().contains("detached the scratch PVC"), "{}", error.chain());
    });
}

#[test]
fn a_backup_that_does_not_start_fails_the_run_with_what_is_known() {
    wait_for(async {
        let bench = Bench::new().await;
        let cases = [
            (Start::Never("the volume cannot be attached"), ErrorKind::Unavailable, "the volume cannot be attached"),
            (Start::Queued("backup x of this VM runs"), ErrorKind::Busy, "backup x of this VM runs"),
            (Start::Fails, ErrorKind::Unavailable, "SourceUnhealthy): it is paused"),
            (Start::Deleted, ErrorKind::Unavailable, "it is being deleted"),
        ];
        for (start, kind, word) in cases {
            bench.cluster.state().start = start;
            let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
            assert_eq!(error.kind(), kind, "{}", error.chain());
            assert!(error.chain().contains(word), "{}", error.chain());
        }
        bench.cluster.state().start = Start::Works;
        assert_eq!(decisions(&bench.run().await), [Decision::Full, Decision::Full]);
    });
}

#[test]
fn a_vm_that_cannot_be_backed_up_says_what_to_do() {
    wait_for(async {
        let bench = Bench::new().await;
        let instance = bench.cluster.state().facts.instance.take();
        let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.chain().contains("halted") && error.advice().unwrap().contains("Back it up again"), "{error:?}");
        bench.cluster.state().facts.instance = instance;
        for (word, what, advice) in [
            ("PendingRestart", "next start", "Restart"),
            ("Initializing", "being set up", "in a minute"),
            ("Disabled", "is off", "label"),
            ("", "is off", "changedBlockTrackingLabelSelectors"),
            ("IncrementalBackupFeatureGateDisabled", "feature gate", "UtilityVolumes"),
        ] {
            bench.cluster.state().facts.tracking = ChangedBlockTracking::Not(word.into());
            let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{word}");
            assert!(error.chain().contains(what) && error.advice().unwrap().contains(advice), "{word}: {error:?}");
        }
        bench.cluster.state().facts.tracking = ChangedBlockTracking::Enabled;
        bench.cluster.state().volumes = Some(["root-disk".to_owned()].into());
        let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
        assert!(error.chain().contains("leaves out disk data"), "{}", error.chain());
        assert_eq!(bench.cluster.state().wishes.len(), 1, "only the last was worth a backup");
    });
}

#[test]
fn a_job_that_is_not_ours_is_not_read() {
    wait_for(async {
        let bench = Bench::new().await;
        let ours = JobFacts { instance: Some("vmi-1".into()), ..JobFacts::default() };
        let other = "nightly-of-somebody";
        for (job, word) in [
            (JobFacts { backup: Some(other.into()), ..ours.clone() }, other),
            (ours.clone(), "ended by somebody else"),
            (JobFacts { instance: Some("vmi-9".into()), ..ours.clone() }, "stopped or restarted"),
            (JobFacts::default(), "stopped or restarted"),
        ] {
            bench.cluster.state().job = Some(job);
            let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.chain().contains(word), "{}", error.chain());
        }
    });
}
