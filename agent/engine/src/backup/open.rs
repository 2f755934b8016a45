//! State `open`: opens one instant of the VM, and settles what only the open view can tell.

use jiff::Timestamp;
use remora_core::plan::{DiskPlan, Opened, plan_opened};
use remora_core::point::{Decision, Quiesced};
use remora_core::ports::{OpenDisk, OpenRequest, OpenVm, Tracking};
use remora_core::{CheckpointName, ErrorKind, Result};

use super::{DiskRun, Run, broken};
use crate::cancel;

impl Run<'_> {
    pub(super) async fn open(&mut self, mut disks: Vec<DiskRun>) -> Result<Vec<DiskRun>> {
        cancel::check(&self.cancel)?;
        self.open_view(&mut disks).await?;
        // Opening is not interrupted, so that no half-open job is left; it has deadlines of its own.
        cancel::check(&self.cancel)?;
        self.settle(&mut disks)?;
        if self.opened()?.quiesced() == Quiesced::Failed {
            self.note("the guest could not be frozen: the point is crash-consistent".into());
        }
        Ok(disks)
    }

    /// Opens the view; once more without increments if the hypervisor finds a bitmap unusable after all.
    async fn open_view(&mut self, disks: &mut [DiskRun]) -> Result<()> {
        let request = self.open_request(disks);
        match self.claimed()?.open(&request).await {
            Ok(opened) => {
                self.opened = Some(opened);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Damaged && disks.iter().any(DiskRun::is_incremental) => {
                let why = format!("the hypervisor refused the increment: {}", error.chain());
                self.note(why.clone());
                disks.iter_mut().filter(|disk| disk.is_incremental()).for_each(|disk| reread(disk, why.clone()));
                let request = self.open_request(disks);
                self.opened = Some(self.claimed()?.open(&request).await?);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn open_request(&self, disks: &[DiskRun]) -> OpenRequest {
        let open = |disk: &DiskRun| OpenDisk { name: disk.state.name.clone(), since: disk.plan.since.clone() };
        OpenRequest {
            disks: disks.iter().map(open).collect(),
            checkpoint: CheckpointName::random(self.mover.repository()),
            tracking: Tracking::Begins,
            quiesce: self.request.quiesce,
        }
    }

    fn settle(&self, disks: &mut [DiskRun]) -> Result<()> {
        let opened = self.opened()?;
        check_names(opened, disks)?;
        let (instance, checkpoint) = (opened.instance(), opened.checkpoint());
        if checkpoint.repository() != self.mover.repository() {
            return Err(broken(format!("the source opened with {checkpoint}, a checkpoint of another repository")));
        }
        for (disk, view) in disks.iter_mut().zip(opened.disks()) {
            disk.checkpoint = view.checkpointed().then(|| checkpoint.clone());
            disk.size = view.size();
            let told = Opened { size: disk.size, instance: instance.as_deref(), no_increment: opened.no_increment() };
            let plan = plan_opened(disk.plan.clone(), &disk.state, &self.history, told, Timestamp::now());
            if plan.decision != disk.plan.decision {
                tracing::warn!(disk = %disk.state.name, reason = plan.reason, "the increment becomes a reread");
            }
            disk.plan = plan;
        }
        Ok(())
    }
}

/// Turns an increment into a reread.
pub(super) fn reread(disk: &mut DiskRun, reason: String) {
    tracing::warn!(disk = %disk.state.name, reason, "the increment becomes a reread");
    let lineage = disk.plan.lineage;
    disk.plan = DiskPlan { decision: Decision::Reread, reason, since: None, lineage, read_in_full: Timestamp::now() };
}

fn check_names(opened: &dyn OpenVm, disks: &[DiskRun]) -> Result<()> {
    let same = opened.disks().len() == disks.len()
        && disks.iter().zip(opened.disks()).all(|(disk, view)| disk.state.name == *view.name());
    if same { Ok(()) } else { Err(broken("the source opened other disks than it was asked to")) }
}
