//! Removing checkpoints of ours.

use std::collections::BTreeSet;

use remora_core::{CheckpointName, Error, RepositoryId, Result};
use virt::domain::Domain;
use virt::error::ErrorNumber;

use crate::connection::{DomainHandle, Repeat, USUAL};
use crate::raw::{self, Delete};

/// What became of the wish to remove a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removed {
    Yes,
    /// The domain is off: libvirt could only forget it, and its bitmap would stay in the image for ever. A later
    /// [`retire`] removes it.
    Later,
}

/// Removes one checkpoint; one that is not there is fine.
pub(crate) async fn remove(domain: &DomainHandle, checkpoint: &CheckpointName) -> Result<()> {
    let name = checkpoint.clone();
    match domain.call(USUAL, Repeat::Safe, move |domain| remove_now(domain, name.as_str())).await {
        Ok(Removed::Yes) => Ok(()),
        Ok(Removed::Later) => {
            tracing::info!(%checkpoint, "the checkpoint stays until the next backup: the VM is shut off");
            Ok(())
        }
        Err(error) => Err(error.while_doing(format_args!("removing the checkpoint {checkpoint}"))),
    }
}

/// Removes the checkpoints of `repository` that are not in `keep`; all that can be removed are, then the first error
/// is returned.
pub(crate) async fn retire(
    domain: &DomainHandle,
    repository: RepositoryId,
    keep: &BTreeSet<CheckpointName>,
) -> Result<()> {
    let all = domain.call(USUAL, Repeat::Safe, raw::checkpoints).await;
    let all =
        all.map_err(|error| error.while_doing(format_args!("listing the checkpoints of {:?}", domain.vm.as_str())))?;
    let mut first: Option<Error> = None;
    for old in all.iter().filter_map(|c| c.name.parse::<CheckpointName>().ok()) {
        if old.repository() != repository || keep.contains(&old) {
            continue;
        }
        tracing::debug!(vm = %domain.vm, checkpoint = %old, "removing a checkpoint that no point needs");
        if let Err(error) = remove(domain, &old).await {
            first.get_or_insert(error);
        }
    }
    first.map_or(Ok(()), Err)
}

fn remove_now(domain: &Domain, name: &str) -> std::result::Result<Removed, virt::error::Error> {
    match raw::delete_checkpoint(domain, name, Delete::Whole) {
        Ok(()) => Ok(Removed::Yes),
        Err(error) if error.code().is(ErrorNumber::NoDomainCheckpoint) => Ok(Removed::Yes),
        Err(_) if !domain.is_active()? => Ok(Removed::Later),
        // "bitmap 'x' not found in backing chain of 'vda'": it died with QEMU; there is nothing more to remove.
        Err(error) if error.code().is(ErrorNumber::InternalError) && error.message().contains("not found") => {
            raw::delete_checkpoint(domain, name, Delete::MetadataOnly).map(|()| Removed::Yes)
        }
        Err(error) => Err(error),
    }
}
