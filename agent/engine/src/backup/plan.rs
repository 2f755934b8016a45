//! State `plan`: claims the VM, looks at what the repository holds, and decides for each disk.

use jiff::Timestamp;
use remora_core::plan::plan;
use remora_core::ports::{DiskReads, DiskState, VmState};
use remora_core::{DiskName, Error, ErrorKind, Result};

use super::{DiskRun, Run};
use crate::cancel::or_cancelled;

impl Run<'_> {
    pub(super) async fn plan(&mut self) -> Result<Vec<DiskRun>> {
        let claim = self.source.claim(&self.request.vm, self.request.patience);
        let claimed = or_cancelled(&self.cancel, claim).await?;
        self.history = or_cancelled(&self.cancel, self.mover.history(&self.request.vm)).await?;
        if self.request.disks.is_none() {
            claimed.state().left_out.iter().for_each(|disk| self.note(disk.clone()));
        }
        let now = Timestamp::now();
        let chosen = choose(claimed.state(), self.request.disks.as_deref())?;
        let disks = chosen.into_iter().map(|state| {
            let plan = plan(&state, &self.history, self.request.asked, now);
            tracing::info!(disk = %state.name, decision = %plan.decision, reason = plan.reason, "planned");
            let (size, reads) = (state.size.guess(), DiskReads::default());
            DiskRun { state, plan, size, checkpoint: None, changed: 0, reads }
        });
        let disks = disks.collect();
        self.claimed = Some(claimed);
        Ok(disks)
    }
}

/// The disks that were asked for, in the VM's order; all if none were named.
fn choose(vm: &VmState, asked: Option<&[DiskName]>) -> Result<Vec<DiskState>> {
    if vm.disks.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "the VM has no disk that can be backed up")
            .advise("CD-ROMs and empty drives are left out; attach a disk."));
    }
    let Some(asked) = asked else { return Ok(vm.disks.clone()) };
    if asked.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "no disk was chosen"));
    }
    if let Some(missing) = asked.iter().find(|name| vm.disks.iter().all(|disk| disk.name != **name)) {
        let names: Vec<_> = vm.disks.iter().map(|disk| disk.name.as_str()).collect();
        return Err(Error::new(ErrorKind::NotFound, format!("the VM has no disk {missing}"))
            .advise(format!("Its disks are: {}.", names.join(", "))));
    }
    Ok(vm.disks.iter().filter(|disk| asked.contains(&disk.name)).cloned().collect())
}
