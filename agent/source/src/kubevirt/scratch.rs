//! The scratch PVC: QEMU keeps there the old bytes of what the guest overwrites while the job runs. When it fills up it
//! is the *guest* that gets the error, so it is watched through the launcher's folder, where its mount shows up, and the
//! job is ended before that.

use std::sync::Arc;
use std::time::Duration;

use remora_core::ErrorKind;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

use super::job::KubevirtJob;
use super::launcher::Launcher;
use super::source::Vm;
use crate::disk::Disk;
use crate::scratch::Volume;
use crate::state::Broken;

/// How often its room is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    /// The most that the scratch files can grow to: the disks' sizes together.
    at_most: u64,
    job: Arc<KubevirtJob>,
    disks: Vec<Arc<Disk>>,
}

impl ScratchWatch {
    pub(super) fn start(vm: &Vm, volume: String, job: &Arc<KubevirtJob>, disks: &[Arc<Disk>]) -> Self {
        let at_most = vm.facts.volumes.iter().map(|volume| volume.capacity).fold(0, u64::saturating_add);
        let (launcher, job, disks) = (vm.launcher.clone(), Arc::clone(job), disks.to_vec());
        Self(tokio::spawn(Watched { launcher, volume, at_most, job, disks }.watch()))
    }
}

impl Watched {
    async fn watch(self) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut before, mut warned): (Option<Volume>, bool) = (None, false);
        loop {
            ticks.tick().await;
            let free = match self.free().await {
                Ok(free) => free,
                Err(error) if !warned => {
                    warned = true;
                    tracing::warn!(
                        volume = self.volume,
                        error,
                        "the scratch PVC's room cannot be seen, so it is not watched"
                    );
                    continue;
                }
                Err(_) => continue,
            };
            let volume = before.get_or_insert_with(|| Volume {
                folder: self.launcher.folder().into(),
                free_before: free,
                at_most: self.at_most,
            });
            if volume.must_stop(free) {
                return self.stop(volume.free_before, free).await;
            }
        }
    }

    async fn free(&self) -> Result<u64, String> {
        let (launcher, volume) = (self.launcher.clone(), self.volume.clone());
        // A PVC may be on a server that does not answer.
        match spawn_blocking(move || launcher.free(&volume)).await {
            Ok(Ok(free)) => Ok(free),
            Ok(Err(error)) => Err(error.chain()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn stop(&self, before: u64, free: u64) {
        tracing::warn!(
            volume = self.volume,
            before,
            free,
            "the scratch PVC fills up: the backup is ended before the guest sees errors"
        );
        let broken = Broken {
            kind: ErrorKind::NoSpace,
            what: format!("the guest writes so much that the scratch PVC fills up: {free} of {before} bytes are left"),
            advice: "Back up when the guest writes less, or give the run a larger scratch PVC.",
        };
        let end = self.job.break_off(broken);
        let disconnect = async {
            for disk in &self.disks {
                disk.disconnect().await;
            }
        };
        tokio::join!(end, disconnect);
    }
}
