//! Opening one instant of a VM: which disks, then the job. Whatever fails, nothing is left behind.

use std::sync::Arc;

use remora_core::ports::{Bitmaps, OpenDisk, OpenRequest, OpenVm, Outcome, Tracking};
use remora_core::{Error, ErrorKind, Result};

use crate::backup_xml::Checkpointed;
use crate::definition::SourceKind;
use crate::own_job::{Chosen, Job};
use crate::scratch;
use crate::view::{self, View};
use crate::vm::Vm;

/// See [`remora_core::ports::ClaimedVm::open`].
pub(crate) async fn open(vm: &Arc<Vm>, request: &OpenRequest) -> Result<Box<dyn OpenVm>> {
    let chosen = choose(vm, request)?;
    let mut job = Job::prepare(vm, &request.checkpoint, chosen).await?;
    let opened = async {
        let (time, quiesced) = job.begin(request.quiesce).await?;
        let disks = view::connect(&job).await?;
        Ok((time, quiesced, disks))
    };
    match opened.await {
        Ok((time, quiesced, disks)) => Ok(Box::new(View::new(job, time, quiesced, disks))),
        Err(error) => {
            if let Err(second) = job.end(Outcome::Abandoned).await {
                tracing::warn!(vm = %vm.domain.vm, error = second.chain(), "cannot clean up after a failed start; the watchdog goes on");
            }
            Err(error)
        }
    }
}

fn choose(vm: &Vm, request: &OpenRequest) -> Result<Vec<Chosen>> {
    if request.disks.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "no disk is chosen"));
    }
    let mut chosen = Vec::new();
    for wanted in &request.disks {
        if chosen.iter().any(|c: &Chosen| c.name == wanted.name) {
            return Err(Error::new(ErrorKind::Invalid, format!("disk {} is chosen twice", wanted.name)));
        }
        chosen.push(choose_disk(vm, wanted, request)?);
    }
    Ok(chosen)
}

fn choose_disk(vm: &Vm, wanted: &OpenDisk, request: &OpenRequest) -> Result<Chosen> {
    let unknown = || {
        let known: Vec<_> = vm.state.disks.iter().map(|d| d.name.to_string()).collect();
        Error::new(ErrorKind::NotFound, format!("there is no disk {} to back up", wanted.name))
            .advise(format!("It has these: {}.", known.join(", ")))
    };
    let state = vm.state.disks.iter().find(|d| d.name == wanted.name).ok_or_else(unknown)?;
    let definition = vm.definition.disks.iter().find(|d| d.name == wanted.name).ok_or_else(unknown)?;
    let checkpointed = match (request.tracking, &state.bitmaps) {
        (Tracking::Begins, Bitmaps::Able { .. }) => Checkpointed::Yes,
        (Tracking::AsBefore, _) | (_, Bitmaps::Unable(_)) => Checkpointed::No,
    };
    if let (Some(since), Checkpointed::No) = (&wanted.since, checkpointed) {
        return Err(Error::new(ErrorKind::Invalid, format!("disk {} cannot hold the checkpoint {since}", wanted.name)));
    }
    let scratch_folder = scratch::folder(vm.options.scratch.as_deref(), definition);
    if vm.options.scratch.is_some() || definition.kind == SourceKind::Block {
        std::fs::create_dir_all(&scratch_folder).map_err(|source| {
            Error::io(format!("making the folder for scratch files {}", scratch_folder.display()), source)
        })?;
    }
    let scratch = scratch_folder.join(scratch::file_name(&vm.domain.uuid, &request.checkpoint, &wanted.name));
    let (name, since) = (wanted.name.clone(), wanted.since.clone());
    Ok(Chosen { name, size: state.size.guess(), since, checkpointed, scratch, scratch_folder })
}
