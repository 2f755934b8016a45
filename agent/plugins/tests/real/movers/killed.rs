//! Runs whose mover's process is killed in the middle of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_core::plan::Asked;
use remora_core::point::Decision;
use remora_core::testing::{Fault, Faults, FaultyMover};
use remora_engine::{BackupReport, SPOT_CHECKS};
use remora_plugins::movers::{Patience, VolumeMover};

use super::volumes::{Lab, restored};

/// What is done before a process is killed; it is told how many were.
type Before = Arc<dyn Fn(usize) + Send + Sync>;

/// Kills the process of a mover at calls of its port.
#[derive(Clone)]
struct Killer {
    mover: VolumeMover,
    faults: Faults,
    times: usize,
    before: Before,
    killed: Arc<Mutex<Vec<i32>>>,
}

impl Killer {
    /// At that call from now on, and at each later one that finds another process, until there were enough.
    fn arm(&self, call: u64) {
        let killer = self.clone();
        self.faults.arm(call, Fault::Call(Arc::new(move || killer.strike())));
    }

    fn strike(&self) {
        let mut killed = self.killed.lock().unwrap();
        if let Some(pid) = self.mover.process().filter(|pid| killed.last() != Some(pid)) {
            (self.before)(killed.len());
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            killed.push(pid);
        }
        if killed.len() < self.times {
            drop(killed);
            self.arm(0);
        }
    }
}

/// A run in which the process of the mover is killed so many times, first at the call of its port of that number; and which were.
pub(super) async fn run(lab: &Lab, first: u64, times: usize, before: Before) -> (BackupReport, Vec<i32>) {
    let (mover, faults) = (lab.mover.clone(), Faults::default());
    let killer = Killer { mover: mover.clone(), faults: faults.clone(), times, before, killed: Arc::default() };
    killer.arm(first);
    let report = lab.try_backup_by(&FaultyMover { inner: mover, faults }, Asked::Auto, SPOT_CHECKS).await;
    // It holds itself.
    killer.faults.disarm();
    let gone = killer.killed.lock().unwrap().clone();
    (report.unwrap_or_else(|e| panic!("after {gone:?} were killed: {}", e.chain())), gone)
}

/// An appliance behind a mover whose calls are made again as often as a run may lose them here.
pub(super) fn patient_lab() -> Lab {
    let mut lab = Lab::new();
    lab.folder.movers.patience = Patience { retries: 20, give_up: Duration::from_mins(10) };
    lab.mover = lab.folder.movers.open_points("array").unwrap();
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_whose_process_dies_three_times_in_the_middle_of_a_run_goes_on_in_others() {
    let lab = patient_lab();
    // `history` starts the process. It is killed at `begin`, while disks are written, and at `commit` if not before.
    let (report, killed) = run(&lab, 1, 3, Arc::new(|_| ())).await;
    assert_eq!((killed.len(), report.point.decision), (3, Decision::Full), "{killed:?}");
    assert_eq!(lab.points().await, std::slice::from_ref(&report.point.id));
    for (n, bytes) in lab.disks().iter().enumerate() {
        assert!(restored(&lab.mover, &report.point.id, n).await == **bytes, "disk {n}");
    }
    assert!(!killed.contains(&lab.mover.process().unwrap()));
    // Nothing of it is in the way of the next one.
    lab.change_something(3);
    assert_eq!(lab.backup().await.point.decision, Decision::Incremental);
}
