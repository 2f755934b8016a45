//! A claimed VM: nobody else of ours touches it, dead runs' leftovers are gone, and its state is known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use remora_core::ports::{ClaimedVm, DiskSize, DiskState, OpenRequest, OpenVm, Patience, VmState};
use remora_core::{CheckpointName, Error, ErrorKind, RepositoryId, Result};
use tokio::time::{Instant, sleep};
use virt::domain::Domain;
use virt_sys as sys;

use crate::bitmaps::{self, Checkpoint};
use crate::connection::{CallError, DomainHandle, Repeat, USUAL};
use crate::definition::{self, Definition};
use crate::job::{self, RunningJob};
use crate::lock::{self, Locked, VmLock};
use crate::options::LibvirtOptions;
use crate::qemu::{self, BlockNode};
use crate::vm::Vm;
use crate::{checkpoints, files, identity, open, raw, scratch};

/// How often a busy VM is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The port's claimed VM.
#[derive(Debug)]
pub(crate) struct Claimed(Arc<Vm>);

impl Claimed {
    /// See [`remora_core::ports::Source::claim`].
    pub(crate) async fn claim(domain: DomainHandle, options: Arc<LibvirtOptions>, patience: Patience) -> Result<Self> {
        let deadline = Instant::now()
            + match patience {
                Patience::None => Duration::ZERO,
                Patience::Wait(limit) => limit,
            };
        let lock = take_lock(&domain, &options, deadline).await?;
        end_jobs(&domain, deadline).await?;
        let xml = domain.call(USUAL, Repeat::Safe, |d| d.get_xml_desc(0)).await;
        let xml = xml.map_err(|error| error.while_doing("reading its definition"))?;
        let definition = definition::parse(&xml)?;
        files::remove_left_behind(&options.run_dir, &domain.uuid, &scratch_folders(&options, &definition));
        let active = domain.is_active().await.map_err(|error| error.while_doing("asking whether it runs"))?;
        if !active {
            return Err(Error::new(ErrorKind::Unavailable, "it is shut off, so QEMU cannot serve its disks")
                .advise(format!("Start it: virsh start {:?}.", domain.vm.as_str())));
        }
        let state = look(&domain, &definition, xml).await?;
        Ok(Self(Arc::new(Vm::new(domain, options, definition, state, lock))))
    }
}

#[async_trait]
impl ClaimedVm for Claimed {
    fn state(&self) -> &VmState {
        &self.0.state
    }

    async fn open(&self, request: &OpenRequest) -> Result<Box<dyn OpenVm>> {
        let opened = open::open(&self.0, request).await;
        opened
            .map_err(|error| error.within(format_args!("opening the disks of the VM {:?}", self.0.domain.vm.as_str())))
    }

    async fn retire(&self, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()> {
        checkpoints::retire(&self.0.domain, &self.0.definition, repository, keep).await
    }
}

async fn take_lock(domain: &DomainHandle, options: &LibvirtOptions, deadline: Instant) -> Result<VmLock> {
    lock::prepare_run_dir(&options.run_dir)?;
    loop {
        match lock::try_lock(&options.run_dir, &domain.uuid)? {
            Locked::Ours(lock) => return Ok(lock),
            Locked::Theirs(holder) if Instant::now() >= deadline => {
                let who = holder.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                return Err(busy(&format!("another run of remora{who}")));
            }
            Locked::Theirs(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// Ends a dead run's job, and waits for others'.
async fn end_jobs(domain: &DomainHandle, deadline: Instant) -> Result<()> {
    loop {
        let other = match current_job(domain).await.map_err(|e| e.while_doing("asking for its running jobs"))? {
            None => return Ok(()),
            // We hold the lock, so its run is dead.
            Some(RunningJob::Ours(checkpoint)) => {
                tracing::info!(vm = %domain.vm, %checkpoint, "ending the job that a dead run left");
                job::end_ours(domain, &checkpoint).await?;
                continue;
            }
            Some(RunningJob::Foreign(what)) => what,
        };
        if Instant::now() >= deadline {
            return Err(busy(&other));
        }
        sleep(LOOK_EVERY).await;
    }
}

fn busy(what: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("{what} holds it"))
        .advise("Wait until that ends, or let this command wait for it with --wait.")
}

/// A job that keeps a backup from starting. libvirt would find out only after waiting 30 s.
async fn current_job(domain: &DomainHandle) -> std::result::Result<Option<RunningJob>, CallError> {
    let look = |domain: &Domain| {
        if let Some(job) = job::running(domain)? {
            return Ok(Some(job));
        }
        if !domain.is_active()? {
            return Ok(None);
        }
        let kind = sys::virDomainJobType::try_from(domain.get_job_info()?.r#type).unwrap_or(sys::VIR_DOMAIN_JOB_NONE);
        let runs = matches!(kind, sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED);
        Ok(runs.then(|| RunningJob::Foreign("a job of libvirt (see `virsh domjobinfo`)".into())))
    };
    domain.call(USUAL, Repeat::Safe, look).await
}

fn scratch_folders(options: &LibvirtOptions, definition: &Definition) -> Vec<PathBuf> {
    let folders = definition.disks.iter().map(|disk| scratch::folder(options.scratch.as_deref(), disk));
    folders.collect::<BTreeSet<_>>().into_iter().collect()
}

/// What the planning needs to know.
async fn look(domain: &DomainHandle, definition: &Definition, xml: String) -> Result<VmState> {
    let targets: Vec<_> = definition.disks.iter().map(|d| d.name.clone()).collect();
    let facts = domain.call(USUAL, Repeat::Safe, move |domain| {
        let sizes = targets.iter().map(|name| raw::disk_size(domain, name.as_str()));
        let sizes = sizes.collect::<std::result::Result<Vec<_>, _>>()?;
        Ok((sizes, raw::checkpoints(domain)?))
    });
    let (sizes, checkpoints) =
        facts.await.map_err(|error| error.while_doing("looking at its disks and checkpoints"))?;
    let (checkpoints, nodes) = (bitmaps::ours(&checkpoints), block_nodes(domain).await);
    let disks = definition.disks.iter().zip(sizes);
    let disks = disks.map(|(disk, size)| disk_state(domain, disk, size, &checkpoints, &nodes)).collect();
    let left_out = definition
        .unsupported
        .iter()
        .map(|(disk, why)| format!("disk {disk} is not backed up: {why}; files and block devices are, qcow2 and raw"));
    Ok(VmState { vm: domain.vm.clone(), definition: xml, disks, left_out: left_out.collect() })
}

fn disk_state(
    domain: &DomainHandle,
    disk: &definition::DiskDefinition,
    size: u64,
    checkpoints: &[Checkpoint],
    nodes: &BTreeMap<String, BlockNode>,
) -> DiskState {
    let node = disk.node().and_then(|node| nodes.get(&node));
    DiskState {
        name: disk.name.clone(),
        size: DiskSize::Exact(size),
        identity: identity::identify(&domain.uuid, disk, node),
        bitmaps: bitmaps::classify(disk, checkpoints, node),
    }
}

/// QEMU's view. Without it no bitmap is believed, which costs a reread and no data.
async fn block_nodes(domain: &DomainHandle) -> BTreeMap<String, BlockNode> {
    let answer = domain.call(USUAL, Repeat::Safe, |domain| domain.qemu_monitor_command(qemu::QUERY, 0)).await;
    match answer.map_err(|e| e.to_string()).and_then(|answer| qemu::parse(&answer).map_err(|e| e.to_string())) {
        Ok(nodes) => nodes,
        Err(error) => {
            tracing::warn!(vm = %domain.vm, error, "cannot ask QEMU about its bitmaps; all disks will be reread");
            BTreeMap::new()
        }
    }
}
