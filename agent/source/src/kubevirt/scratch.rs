//! The scratch PVC: QEMU keeps there the old bytes of what the guest overwrites while the job runs. When it fills up it
//! is the *guest* that gets the error, so it is watched through the launcher's folder, where its mount shows up, and the
//! job is ended before that.

use std::sync::Arc;
use std::time::Duration;

use remora_core::ErrorKind;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::Instrument;

use super::job::KubevirtJob;
use super::launcher::Launcher;
use super::source::Vm;
use crate::disk::{Disk, JobWatch};
use crate::scratch::Volume;
use crate::state::Broken;

/// How often its room is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// So often in a row its room cannot be seen before it counts as detached.
const MISSED: u32 = 3;

/// How long a filesystem may take to tell its room at the start.
const ANSWER: Duration = Duration::from_secs(10);

/// Watches a scratch PVC until it is dropped.
pub(super) struct ScratchWatch(JoinHandle<()>);

impl Drop for ScratchWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Watched {
    launcher: Launcher,
    /// The attached volume's name in the launcher.
    volume: String,
    room: Volume,
    job: Arc<KubevirtJob>,
    disks: Vec<Arc<Disk>>,
}

impl ScratchWatch {
    /// Looks once, and goes on until it is dropped; none if its room cannot be seen from here.
    pub(super) async fn start(vm: &Vm, volume: &str, job: &Arc<KubevirtJob>, disks: &[Arc<Disk>]) -> Option<Self> {
        let (launcher, job, disks) = (vm.launcher.clone(), Arc::clone(job), disks.to_vec());
        let looked = timeout(ANSWER, free(&launcher, volume)).await;
        let free_before = looked.unwrap_or_else(|_| Err("its filesystem does not answer".into())).inspect_err(|error| {
            tracing::warn!(vm = %vm.facts.vm, volume, error, "the scratch PVC's room cannot be seen, so it is not watched");
        });
        let at_most = vm.facts.volumes.iter().map(|volume| volume.capacity).fold(0, u64::saturating_add);
        let room = Volume { folder: launcher.folder().into(), free_before: free_before.ok()?, at_most };
        let watched = Watched { launcher, volume: volume.to_owned(), room, job, disks };
        Some(Self(tokio::spawn(watched.watch().in_current_span())))
    }
}

impl Watched {
    async fn watch(self) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missed = 0;
        loop {
            ticks.tick().await;
            match free(&self.launcher, &self.volume).await {
                Ok(free) if self.room.must_stop(free) => return self.stop(full(self.room.free_before, free)).await,
                Ok(_) => missed = 0,
                Err(error) => {
                    missed += 1;
                    tracing::debug!(volume = self.volume, error, "the scratch PVC's room cannot be seen");
                    // Its mount goes with the job, which is told of a little later.
                    if missed >= MISSED && matches!(self.job.why_broken().await, Ok(None)) {
                        return self.stop(gone()).await;
                    }
                }
            }
        }
    }

    async fn stop(&self, broken: Broken) {
        tracing::warn!(volume = self.volume, why = broken.what, "the backup is ended before the guest sees errors");
        let end = self.job.break_off(broken);
        let disconnect = async {
            for disk in &self.disks {
                disk.disconnect().await;
            }
        };
        tokio::join!(end, disconnect);
    }
}

fn full(before: u64, free: u64) -> Broken {
    Broken {
        kind: ErrorKind::NoSpace,
        what: format!("the guest writes so much that the scratch PVC fills up: {free} of {before} bytes are left"),
        advice: "Back up when the guest writes less, or give the run a larger scratch PVC.",
    }
}

fn gone() -> Broken {
    Broken {
        kind: ErrorKind::Unavailable,
        what: "the scratch PVC was detached while the backup ran".into(),
        advice: "Back up again. If that does not help, see the log of virt-controller.",
    }
}

/// Bytes free on the attached volume of that name. Hangs, with one thread, as long as the PVC's server does.
async fn free(launcher: &Launcher, volume: &str) -> Result<u64, String> {
    let (launcher, volume) = (launcher.clone(), volume.to_owned());
    match spawn_blocking(move || launcher.free(&volume)).await {
        Ok(Ok(free)) => Ok(free),
        Ok(Err(error)) => Err(error.chain()),
        Err(error) => Err(error.to_string()),
    }
}
