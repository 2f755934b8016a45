//! Removing checkpoints of ours, and bitmaps of ours whose checkpoint libvirt has forgotten.

use std::collections::BTreeSet;

use remora_core::{CheckpointName, Error, ErrorKind, RepositoryId, Result};
use virt::domain::Domain;
use virt::error::ErrorNumber;

use crate::connection::{DomainHandle, Repeat, USUAL};
use crate::definition::{Definition, DiskDefinition};
use crate::qemu;
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

/// Removes the checkpoints of `repository` that are not in `keep`, and such bitmaps that no checkpoint lists; all that
/// can be removed are, then the first error is returned.
pub(crate) async fn retire(
    domain: &DomainHandle,
    definition: &Definition,
    repository: RepositoryId,
    keep: &BTreeSet<CheckpointName>,
) -> Result<()> {
    let goes = |name: &CheckpointName| name.repository() == repository && !keep.contains(name);
    let mut first: Option<Error> = None;
    for old in listed(domain).await?.into_iter().filter(goes) {
        tracing::debug!(vm = %domain.vm, checkpoint = %old, "removing a checkpoint that no point needs");
        if let Err(error) = remove(domain, &old).await {
            first.get_or_insert(error);
        }
    }
    if let Err(error) = remove_forgotten(domain, definition, goes).await {
        first.get_or_insert(error);
    }
    first.map_or(Ok(()), Err)
}

/// The checkpoints of ours that libvirt knows, of all repositories.
async fn listed(domain: &DomainHandle) -> Result<BTreeSet<CheckpointName>> {
    let all = domain.call(USUAL, Repeat::Safe, raw::checkpoints).await;
    let all =
        all.map_err(|error| error.while_doing(format_args!("listing the checkpoints of {:?}", domain.vm.as_str())))?;
    Ok(all.iter().filter_map(|checkpoint| checkpoint.name.parse().ok()).collect())
}

/// Removes the bitmaps that `goes` and whose checkpoint libvirt does not know (`virsh checkpoint-delete --metadata`
/// leaves them): they would cost every write for ever. While the domain is off they stay until a later [`retire`].
async fn remove_forgotten(
    domain: &DomainHandle,
    definition: &Definition,
    goes: impl Fn(&CheckpointName) -> bool,
) -> Result<()> {
    let failed = "removing bitmaps whose checkpoint libvirt has forgotten";
    if !domain.is_active().await.map_err(|error| error.while_doing(failed))? {
        return Ok(());
    }
    let known = listed(domain).await?;
    let answer = domain.call(USUAL, Repeat::Safe, |domain| domain.qemu_monitor_command(qemu::QUERY, 0)).await;
    let nodes = qemu::parse(&answer.map_err(|error| error.while_doing(failed))?)
        .map_err(|error| Error::new(ErrorKind::Failed, failed).because(error))?;
    for node in definition.disks.iter().filter_map(DiskDefinition::node) {
        let bitmaps = nodes.get(&node).into_iter().flat_map(|node| &node.bitmaps);
        for (name, _) in bitmaps.filter(|(_, bitmap)| !bitmap.busy) {
            if !name.parse().is_ok_and(|name| goes(&name) && !known.contains(&name)) {
                continue;
            }
            tracing::debug!(vm = %domain.vm, bitmap = name, node, "removing a bitmap whose checkpoint libvirt has forgotten");
            let command = qemu::remove_bitmap(&node, name);
            let what = || format!("removing the bitmap {name} of {node}");
            let answer = domain.call(USUAL, Repeat::Safe, move |domain| domain.qemu_monitor_command(&command, 0));
            if let Some(why) = qemu::refusal(&answer.await.map_err(|error| error.while_doing(what()))?) {
                return Err(Error::new(ErrorKind::Failed, what()).because(why));
            }
        }
    }
    Ok(())
}

fn remove_now(domain: &Domain, name: &str) -> std::result::Result<Removed, virt::error::Error> {
    match raw::delete_checkpoint(domain, name, Delete::Whole) {
        Ok(()) => Ok(Removed::Yes),
        Err(error) if error.code() == ErrorNumber::NoDomainCheckpoint => Ok(Removed::Yes),
        Err(_) if !domain.is_active()? => Ok(Removed::Later),
        // "bitmap 'x' not found in backing chain of 'vda'": it died with QEMU; there is nothing more to remove.
        Err(error) if error.code() == ErrorNumber::InternalError && error.message().contains("not found") => {
            raw::delete_checkpoint(domain, name, Delete::MetadataOnly).map(|()| Removed::Yes)
        }
        Err(error) => Err(error),
    }
}
