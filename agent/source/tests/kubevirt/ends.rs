//! Backups that end, or change hands, while they are read: the run fails with the reason, and there is no point.

use std::fs;
use std::sync::Arc;

use remora_core::ErrorKind;
use remora_core::plan::Asked;
use remora_core::point::Decision;
use remora_core::ports::NoProgress;
use remora_source::kubevirt::JobFacts;
use remora_tests::{MIB, Small};

use crate::bench::{After, Bench, decisions};
use crate::wait_for;

#[test]
fn a_backup_that_is_deleted_or_expires_in_the_middle_fails_the_run() {
    wait_for(async {
        let bench = Bench::new().await;
        bench.run().await;
        for how in ["it is completed", "it is being deleted"] {
            let cluster = Arc::clone(&bench.cluster);
            let error = bench.fail(Asked::Reread, After::first_bytes(move || cluster.end_job(how))).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.chain().contains("ended by somebody else"), "{}", error.chain());
            // KubeVirt has advanced its tracker to what nobody stored; one reread, and all is as before.
            bench.domain.write("vda", 5, 9 * MIB, MIB);
            let next = bench.run().await;
            assert_eq!(decisions(&next), [Decision::Reread, Decision::Reread], "{}", next.point.reason);
            bench.assert_is_now(&next.point);
        }
    });
}

#[test]
fn a_backup_that_ends_while_its_disks_are_being_opened_is_told_as_that() {
    wait_for(async {
        let bench = Bench::new().await;
        bench.run().await;
        let cluster = Arc::clone(&bench.cluster);
        bench.cluster.state().on_latest = Some(Box::new(move || cluster.end_job("it is being deleted")));
        let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
        assert!(error.chain().contains("ended by somebody else"), "{}", error.chain());
        assert!(error.advice().unwrap().contains("VirtualMachineBackups"), "{error:?}");
    });
}

#[test]
fn qemu_killed_in_the_middle_fails_the_run() {
    wait_for(async {
        let bench = Bench::new().await;
        let (domain, cluster) = (Arc::clone(&bench.domain), Arc::clone(&bench.cluster));
        let kill = move || {
            domain.sigkill_qemu();
            cluster.new_instance("vmi-2");
        };
        let error = bench.fail(Asked::Reread, After::first_bytes(kill)).await;
        assert!(error.chain().contains("stopped or restarted"), "{}", error.chain());
        bench.domain.start_paused();
        let next = bench.run().await;
        bench.assert_is_now(&next.point);
    });
}

#[test]
fn a_backup_that_is_not_ours_any_more_before_the_commit_makes_no_point() {
    wait_for(async {
        let bench = Bench::new().await;
        for (job, word) in [
            (JobFacts { backup: Some("nightly".into()), ..JobFacts::default() }, "nightly"),
            (JobFacts { ended: Some("time to live ran out".into()), ..JobFacts::default() }, "time to live"),
            (JobFacts { checkpoint: Some("nightly-1".into()), ..JobFacts::default() }, "nightly-1"),
        ] {
            let cluster = Arc::clone(&bench.cluster);
            let changed = move || {
                let mut state = cluster.state();
                let backup = job.backup.or_else(|| state.wishes.last().map(|wish| wish.backup.to_string()));
                state.job = Some(JobFacts { instance: Some("vmi-1".into()), backup, ..job });
            };
            let error = bench.fail(Asked::Reread, After::first_bytes(changed)).await;
            bench.cluster.state().job = None;
            assert!(error.chain().contains(word), "{}", error.chain());
        }
    });
}

#[test]
fn a_scratch_pvc_that_is_detached_ends_the_backup_before_the_guest_sees_an_error() {
    wait_for(async {
        let bench = Bench::new().await;
        let folder = bench.node.volume("hotplug-disks").join("r-scratch");
        let scratch = Small::at(folder.clone(), 100);
        bench.cluster.state().scratch = Some("r-scratch".into());
        let cluster = Arc::clone(&bench.cluster);
        let detach = move || {
            drop(scratch);
            fs::remove_dir(&folder).unwrap();
            let limit = std::time::Duration::from_mins(5);
            remora_tests::wait_until("the backup goes on without its scratch PVC", limit, || !cluster.has_backup());
        };
        let error = bench.fail(Asked::Reread, After::first_bytes(detach)).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
        assert!(error.chain().contains("scratch PVC was detached"), "{}", error.chain());
    });
}

#[test]
fn a_scratch_pvc_that_fills_up_ends_the_backup_before_the_guest_sees_an_error() {
    wait_for(async {
        let bench = Bench::new().await;
        let _scratch = Small::at(bench.node.volume("hotplug-disks").join("r-scratch"), 100);
        bench.cluster.state().scratch = Some("r-scratch".into());
        let (folder, cluster) = (bench.node.volume("hotplug-disks").join("r-scratch"), Arc::clone(&bench.cluster));
        let fill = move || {
            fs::write(folder.join("vda.qcow2"), vec![1; 85 * MIB as usize]).unwrap();
            remora_tests::wait_until(
                "the backup goes on though its scratch PVC is full",
                std::time::Duration::from_mins(5),
                || !cluster.has_backup(),
            );
        };
        let error = bench.fail(Asked::Reread, After::first_bytes(fill)).await;
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", error.chain());
        assert!(error.chain().contains("scratch PVC fills up"), "{}", error.chain());
    });
}

#[test]
fn a_scratch_pvc_that_cannot_be_seen_ends_the_backup_with_what_the_agent_lacks() {
    wait_for(async {
        let bench = Bench::new().await;
        let folder = bench.node.volume("hotplug-disks").join("r-scratch");
        bench.cluster.state().scratch = Some("r-scratch".into());
        // Without propagation of mounts the folder may be there, with the room of the node's own filesystem.
        for there in [false, true] {
            if there {
                fs::create_dir(&folder).unwrap();
            }
            let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
            assert!(error.chain().contains("room of the scratch PVC cannot be seen"), "{}", error.chain());
            assert!(error.advice().unwrap().contains("mountPropagation: HostToContainer"), "{error:?}");
            assert_eq!(error.chain().contains("nothing is mounted on its folder"), there, "{}", error.chain());
        }
        let _scratch = Small::at(folder, 100);
        bench.run().await;
    });
}

#[test]
fn a_scratch_pvc_that_the_disks_do_not_fit_in_ends_the_backup_before_it_is_full() {
    wait_for(async {
        let bench = Bench::new().await;
        let _scratch = Small::at(bench.node.volume("hotplug-disks").join("r-scratch"), 40);
        {
            let mut state = bench.cluster.state();
            state.scratch = Some("r-scratch".into());
            // What the PVCs say is not what the disks have.
            state.facts.volumes.iter_mut().for_each(|volume| volume.capacity = 16 * MIB);
        }
        let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", error.chain());
        assert!(
            error.chain().contains(&format!("the disks, which the guest may overwrite meanwhile, have {}", 72 * MIB)),
            "{}",
            error.chain()
        );
        assert!(error.advice().unwrap().contains("spec.scratch"), "{error:?}");
    });
}
