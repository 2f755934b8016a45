//! Which VMs a backup policy is for.

use async_trait::async_trait;
use bumpalo::Bump;
use remora_core::Result;
use remora_core::policy::{Select, Selection, VmFacts};

use super::{BATCH, off_thread, policy, reason, same_length, translate};
use crate::host::{Reuse, Selecting};

policy! {
    /// A component that selects VMs.
    SelectPolicy, Selecting, super::DEADLINE
}

impl SelectPolicy {
    fn canary(&self) -> Result<()> {
        self.ask(Reuse::Never, &[translate::nobody()]).map(|_| ())
    }

    pub(super) fn ask(&self, reuse: Reuse, vms: &[VmFacts]) -> Result<Vec<Selection>> {
        let arena = Bump::new();
        let vms: Vec<_> = vms.iter().map(|vm| translate::select::vm(vm, &arena)).collect();
        let verdicts = self.0.call(reuse, self.0.deadline(), "`select`", |world, store| {
            world.remora_policy_select().call_select(store, &vms)
        })?;
        same_length(vms.len(), verdicts.len())?;
        let selection = |v: crate::host::select::exports::remora::policy::select::Verdict| Selection {
            selected: v.selected,
            reason: reason(v.reason),
        };
        Ok(verdicts.into_iter().map(selection).collect())
    }
}

#[async_trait]
impl Select for SelectPolicy {
    async fn select(&self, vms: &[VmFacts]) -> Result<Vec<Selection>> {
        let mut all = Vec::with_capacity(vms.len());
        for batch in vms.chunks(BATCH) {
            let (policy, batch) = (self.clone(), batch.to_vec());
            all.extend(off_thread(self.0.deadline(), move || policy.ask(Reuse::Never, &batch)).await?);
        }
        Ok(all)
    }
}
