//! Removing checkpoints of ours that no point needs: KubeVirt never does, and each costs every write of the guest. Done
//! through the launcher's own libvirt.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use remora_core::{CheckpointName, Error, ErrorKind, RepositoryId, Result};
use virt::connect::Connect;
use virt::domain::Domain;

use super::cluster::LauncherUser;
use super::launcher::LIBVIRT;
use super::source::Vm;
use crate::connection::{DomainHandle, Libvirt, Repeat, USUAL};
use crate::{checkpoints, definition};

/// See [`remora_core::ports::ClaimedVm::retire`]. What KubeVirt's tracker starts the next increment from stays too.
pub(super) async fn retire(vm: &Vm, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()> {
    let what = format!("removing old checkpoints of the VM {:?} through its launcher's libvirt", vm.facts.vm.as_str());
    retire_through_launcher(vm, repository, keep).await.map_err(|error| {
        error
            .within(what)
            .advise_if_none("The next backup tries again; checkpoints that stay cost the guest's writes a little.")
    })
}

async fn retire_through_launcher(vm: &Vm, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()> {
    let mut keep = keep.clone();
    keep.extend(vm.cluster.latest_checkpoint().await?.and_then(|latest| latest.parse().ok()));
    // Who listens is checked on a connection of our own; libvirt's then goes to the same file, whatever is put in its place.
    let socket = vm.launcher.socket(LIBVIRT)?;
    drop(vm.launcher.connect(LIBVIRT).await?);
    let driver = match vm.instance.user {
        LauncherUser::Root => "system",
        LauncherUser::Qemu => "session",
    };
    let uri = format!("qemu+unix:///{driver}?socket=/proc/self/fd/{}", socket.as_raw_fd());
    let domain = find(vm, uri).await?;
    let xml = domain.call(USUAL, Repeat::Safe, |d| d.get_xml_desc(0)).await;
    let definition = definition::parse(&xml.map_err(|error| error.while_doing("reading its definition"))?)?;
    checkpoints::retire(&domain, &definition, repository, &keep).await
}

async fn find(vm: &Vm, uri: String) -> Result<DomainHandle> {
    let libvirt = Arc::new(Libvirt::new(uri));
    let Some((namespace, name)) = vm.facts.vm.as_str().split_once('/') else {
        return Err(Error::new(ErrorKind::Invalid, "its name has no namespace"));
    };
    let domain = format!("{namespace}_{name}");
    let lookup = move |connection: &Connect| Domain::lookup_by_name(connection, &domain)?.get_uuid_string();
    let uuid = libvirt.call(USUAL, Repeat::Safe, lookup).await;
    let uuid = uuid.map_err(|error| error.while_doing("looking for the VM"))?;
    Ok(DomainHandle { libvirt, vm: vm.facts.vm.clone(), uuid })
}
