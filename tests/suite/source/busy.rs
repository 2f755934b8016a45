//! One at a time: other runs, foreign jobs, and what dead runs leave.

use std::time::Duration;

use remora_core::ErrorKind;
use remora_core::ports::Patience;
use remora_tests::{DiskSpec, Domain, Lab, MIB, wait_until};

use super::{Bench, checkpoints, open_all, victim, wait_for};

/// Starts a job the way another program would, with exports of the given name.
fn begin_job(domain: &Domain<'_>, export: &str) {
    let (job, socket, scratch) = (domain.dir().join("job.xml"), domain.dir().join("f.sock"), domain.dir().join("f"));
    let xml = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks><disk name='vda' backup='yes' \
         type='file' exportname='{export}'><driver type='qcow2'/><scratch file='{}'/></disk></disks></domainbackup>",
        socket.display(),
        scratch.display()
    );
    std::fs::write(&job, xml).unwrap();
    domain.virsh("backup-begin", &[job.to_str().unwrap()]);
}

#[test]
fn a_foreign_job_is_named_waited_for_and_never_touched() {
    let domain = Lab::shared().domain("foreign").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        begin_job(&domain, "vda");
        let error = bench.try_claim(&domain, Patience::None).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy);
        // Whoever let libvirt wait for its lock, during 30 s, would be told of that instead.
        assert!(error.to_string().contains("pull backup job"), "{error}");
        assert!(!error.chain().contains("state change lock"), "{}", error.chain());
        assert!(error.advice().unwrap().contains("--wait"));
        let late = bench.try_claim(&domain, Patience::Wait(Duration::from_millis(500))).await.err().unwrap();
        assert_eq!(late.kind(), ErrorKind::Busy);

        let claim = bench.try_claim(&domain, Patience::Wait(Duration::from_mins(10)));
        let (claimed, ()) = tokio::join!(claim, async {
            // It waits once it holds the VM's lock, which another claim is told.
            let waits = async {
                let told = async || bench.try_claim(&domain, Patience::None).await.err().unwrap().to_string();
                while !told().await.contains("another run of remora") {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_mins(5), waits).await.expect("it does not wait");
            assert!(domain.try_virsh("backup-dumpxml", &[]).status.success(), "the foreign job still runs");
            domain.virsh("domjobabort", &[]);
        });
        drop(claimed.unwrap());
        bench.point(&domain, None).await;
    });
}

#[test]
fn another_run_of_ours_is_busy_until_it_ends() {
    let domain = Lab::shared().domain("ours").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let claimed = bench.claim(&domain).await;
        let view = open_all(&*claimed, &bench.checkpoint()).await.unwrap();
        drop(claimed);
        let error = bench.try_claim(&domain, Patience::None).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        view.confirm().await.unwrap();
        view.close(remora_core::ports::Outcome::Abandoned).await.unwrap();
        assert!(checkpoints(&domain).is_empty(), "an abandoned run's checkpoint is removed");
        bench.claim(&domain).await;
    });
}

#[test]
fn a_view_dropped_without_close_is_cleaned_up_by_its_watchdog() {
    let domain = Lab::shared().domain("dropped").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        let claimed = bench.claim(&domain).await;
        let view = open_all(&*claimed, &bench.checkpoint()).await.unwrap();
        assert_eq!(bench.left_behind(&domain).len(), 4, "a job, a socket, its folder, a scratch file");
        drop(view);
        bench.wait_for_the_watchdog(&domain);
        drop(claimed);
        bench.point(&domain, None).await;
    });
}

#[test]
fn a_killed_run_is_cleaned_up_by_its_watchdog() {
    let domain = Lab::shared().domain("victim").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    let mut run = victim(&bench, &domain);
    wait_until("the victim does not begin", Duration::from_mins(5), || bench.left_behind(&domain).len() == 4);
    run.kill().unwrap();
    run.wait().unwrap();
    bench.wait_for_the_watchdog(&domain);
    wait_for(async {
        let taken = bench.point(&domain, None).await;
        bench.claim(&domain).await.retire(bench.repository, &[taken.checkpoint.clone()].into()).await.unwrap();
        // The victim's repository is another one, and its checkpoint may be named by a point of it.
        assert_eq!(checkpoints(&domain).len(), 2);
    });
}

#[test]
fn what_a_dead_run_and_its_watchdog_left_is_ended_by_the_next_claim() {
    let domain = Lab::shared().domain("dead").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    let bench = Bench::new(Lab::shared());
    wait_for(async {
        begin_job(&domain, &format!("{}.vda", bench.checkpoint()));
        let sockets = bench.run_dir.join(domain.uuid());
        std::fs::create_dir(&sockets).unwrap();
        std::fs::write(sockets.join("0123"), "").unwrap();
        let scratch = |uuid: &str| domain.dir().join(format!(".remora-scratch-{uuid}-0123-vda"));
        let other = scratch("00000000-0000-0000-0000-000000000000");
        std::fs::write(scratch(domain.uuid()), "").unwrap();
        std::fs::write(&other, "").unwrap();
        bench.claim(&domain).await;
        assert!(other.exists(), "another VM's scratch file stays");
        std::fs::remove_file(other).unwrap();
        bench.assert_nothing_left(&domain);
    });
}
