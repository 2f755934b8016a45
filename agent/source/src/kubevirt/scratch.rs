//! The scratch PVC: QEMU keeps there the old bytes of what the guest overwrites while the job runs. When it fills up it
//! is the *guest* that gets the error, so it is watched through the launcher's folder, where its mount shows up, and the
//! job is ended before that. A job whose scratch PVC cannot be watched, or is too small from the start, is not read.

use std::sync::Arc;
use std::time::Duration;

use remora_core::ports::DiskView;
use remora_core::{Error, ErrorKind, Result};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::Instrument;

use super::cluster::VolumeFacts;
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
    /// Looks once, and goes on until it is dropped.
    pub(super) async fn start(vm: &Vm, volume: &str, job: &Arc<KubevirtJob>, disks: &[Arc<Disk>]) -> Result<Self> {
        let (launcher, job, disks) = (vm.launcher.clone(), Arc::clone(job), disks.to_vec());
        let late = || {
            let what = format!("its filesystem does not answer within {} s", ANSWER.as_secs());
            Error::new(ErrorKind::Unavailable, what)
        };
        let looked = timeout(ANSWER, free(&launcher, volume)).await;
        let free_before = looked.unwrap_or_else(|_| Err(late())).map_err(unseen)?;
        // KubeVirt has all disks in the job, those too that are not read.
        let size = |volume: &VolumeFacts| {
            let read = disks.iter().find(|disk| disk.name().as_str() == volume.name);
            read.map_or(volume.capacity, |disk| disk.size())
        };
        let at_most = vm.facts.volumes.iter().map(size).fold(0, u64::saturating_add);
        let room = Volume { folder: launcher.folder().into(), free_before, at_most };
        check_room(&room)?;
        let watched = Watched { launcher, volume: volume.to_owned(), room, job, disks };
        Ok(Self(tokio::spawn(watched.watch().in_current_span())))
    }
}

fn unseen(error: Error) -> Error {
    let what = "the room of the scratch PVC cannot be seen, so nobody would notice that it fills up and the guest's writes fail";
    Error::new(ErrorKind::Unavailable, what).because(error).advise(
        "The agent needs the kubelet's folder of pods mounted with mountPropagation: HostToContainer, and the capability \
         DAC_OVERRIDE: see deploy/base/agent.yaml. If it has both, back up again.",
    )
}

/// The PVC is a tenth larger than the PVCs of the disks; that much the guest may have overwritten before the first look.
fn check_room(room: &Volume) -> Result<()> {
    let Volume { free_before, at_most, .. } = *room;
    if free_before >= at_most - at_most / 10 {
        return Ok(());
    }
    let what = format!(
        "the scratch PVC has {free_before} bytes free, and the disks, which the guest may overwrite meanwhile, have {at_most}"
    );
    Err(Error::new(ErrorKind::NoSpace, what).advise(
        "It is made as large as the PVCs of the disks say that they are: if a disk is larger, have its PVC say so; else name a \
         StorageClass in spec.scratch that has the room.",
    ))
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
                    tracing::debug!(
                        volume = self.volume,
                        error = error.chain(),
                        "the scratch PVC's room cannot be seen"
                    );
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
async fn free(launcher: &Launcher, volume: &str) -> Result<u64> {
    let (launcher, volume) = (launcher.clone(), volume.to_owned());
    let looked = spawn_blocking(move || launcher.free(&volume)).await;
    looked.unwrap_or_else(|died| Err(Error::new(ErrorKind::Failed, "looking at it").because(died)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_the_disks_do_not_fit_in_is_refused_whatever_their_pvcs_say() {
        const GIB: u64 = 1 << 30;
        let check = |free_before: u64, at_most: u64| check_room(&Volume { folder: "/s".into(), free_before, at_most });
        // As large as asked for, a part of it overwritten already, and a folder of a larger filesystem.
        for (free, disks) in [(11 * GIB, 10 * GIB), (10 * GIB, 10 * GIB), (9 * GIB, 10 * GIB), (900 * GIB, 10 * GIB)] {
            assert!(check(free, disks).is_ok(), "{free} for {disks}");
        }
        // A disk of 16 times its PVC, and a filesystem that is full.
        for (free, disks) in [(11 * GIB, 160 * GIB), (9 * GIB - 1, 10 * GIB), (0, 1), (u64::MAX / 2, u64::MAX)] {
            let error = check(free, disks).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert!(error.to_string().contains(&format!("has {free} bytes free")), "{error}");
        }
    }
}
