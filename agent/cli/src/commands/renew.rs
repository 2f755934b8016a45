//! What follows a new point in an immutable repository.

use remora_core::VmName;
use remora_engine::or_cancelled;
use remora_vault::{Locked, Vault};

use crate::context::Context;
use crate::output::printable;

/// Keeps what the VM's points need from being deleted for longer, if that is due. The point is made by now, and half of
/// the time is left: so what fails is told, and the next run tries it again.
pub(super) async fn renew(context: &Context, vault: &Vault, vm: &VmName) -> Option<Locked> {
    match or_cancelled(&context.cancel, vault.renew(vm)).await {
        Ok(locked) => locked,
        Err(error) => {
            let error = printable(&error.chain());
            tracing::warn!(vm = vm.as_str(), error, "what the VM's points need could not be locked for longer");
            None
        }
    }
}
