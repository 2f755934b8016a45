//! An open instant of a VM: its disks over NBD, and the questions whether it still is that instant.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use remora_core::point::Quiesced;
use remora_core::ports::{DiskView, OpenVm, Outcome};
use remora_core::{ByteRange, CheckpointName, DiskName, Error, ErrorKind, Extent, Result};
use remora_nbd::{Client, ConnectOptions, NbdError};
use tokio::time::{Instant, sleep};

use crate::backup_xml::Checkpointed;
use crate::connection::{DomainHandle, Repeat, USUAL};
use crate::extents::{self, ALLOCATION, dirty_context};
use crate::job::{self, RunningJob, export_name};
use crate::own_job::{Chosen, Job};
use crate::state::{Broken, JobState};

/// How long QEMU may take for one answer; a guest that keeps its storage busy makes it slow.
const ANSWER: Duration = Duration::from_mins(2);

/// How many requests a disk's connection takes at once, each of a quarter of a piece at most. More cost QEMU more.
const IN_FLIGHT: usize = 8;

/// The most that one block status request asks for: a multiple of every bitmap granularity, below 4 GiB.
const STATUS_STEP: u64 = 2 << 30;

/// How long the watchdog's reason for an ended job may take to arrive.
const REASON_ARRIVES: Duration = Duration::from_millis(500);

/// How long after a broken connection libvirt may still believe that QEMU, or the job, runs.
const END_IS_KNOWN: Duration = Duration::from_secs(5);

/// How often it is asked meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The port's open VM.
pub(crate) struct View {
    job: Option<Job>,
    time: Timestamp,
    quiesced: Quiesced,
    instance: Option<String>,
    disks: Vec<Arc<Disk>>,
    views: Vec<Arc<dyn DiskView>>,
}

impl View {
    pub(crate) fn new(job: Job, time: Timestamp, quiesced: Quiesced, disks: Vec<Disk>) -> Self {
        let instance = disks.first().and_then(|disk| disk.client.peer_pid()).and_then(instance);
        let disks: Vec<_> = disks.into_iter().map(Arc::new).collect();
        let views = disks.iter().map(|disk| Arc::clone(disk) as Arc<dyn DiskView>).collect();
        Self { job: Some(job), time, quiesced, instance, disks, views }
    }

    fn job(&self) -> &Job {
        self.job.as_ref().expect("only close and drop take it")
    }
}

#[async_trait]
impl OpenVm for View {
    fn disks(&self) -> &[Arc<dyn DiskView>] {
        &self.views
    }

    fn checkpoint(&self) -> CheckpointName {
        self.job().checkpoint.clone()
    }

    fn no_increment(&self) -> Option<&str> {
        // libvirt refuses a job whose increments it cannot have.
        None
    }

    fn time(&self) -> Timestamp {
        self.time
    }

    fn quiesced(&self) -> Quiesced {
        self.quiesced
    }

    fn instance(&self) -> Option<String> {
        self.instance.clone()
    }

    async fn confirm(&self) -> Result<()> {
        let job = self.job();
        match why_broken(&job.vm.domain, &job.checkpoint, &job.state).await {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(error),
            Err(error) => Err(error.within("asking whether the backup job still runs")),
        }
    }

    async fn close(mut self: Box<Self>, outcome: Outcome) -> Result<()> {
        for disk in &self.disks {
            disk.client.disconnect().await;
        }
        let job = self.job.take().expect("only close and drop take it");
        let vm = job.vm.domain.vm.clone();
        let ended = job.end(outcome).await;
        ended.map_err(|error| error.within(format_args!("closing the backup of the VM {:?}", vm.as_str())))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(job) = &self.job {
            tracing::warn!(vm = %job.vm.domain.vm, "a backup was dropped without being closed; its watchdog ends the job");
        }
    }
}

/// One disk of the job.
#[derive(Debug)]
pub(crate) struct Disk {
    name: DiskName,
    checkpointed: Checkpointed,
    /// The context that tells what changed, for an increment.
    dirty: Option<String>,
    client: Client,
    domain: DomainHandle,
    checkpoint: CheckpointName,
    state: Arc<JobState>,
}

/// Connects to the exports of a job that has begun.
pub(crate) async fn connect(job: &Job) -> Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for chosen in &job.chosen {
        disks.push(connect_disk(job, chosen).await?);
    }
    Ok(disks)
}

async fn connect_disk(job: &Job, chosen: &Chosen) -> Result<Disk> {
    // On a full job libvirt takes an export bitmap and ignores it, so only increments ask for one.
    let dirty = chosen.since.is_some().then(|| dirty_context(job.checkpoint.as_str()));
    let contexts: Vec<_> = [ALLOCATION.to_owned()].into_iter().chain(dirty.clone()).collect();
    let options = ConnectOptions {
        export: export_name(&job.checkpoint, &chosen.name),
        contexts: contexts.clone(),
        request_timeout: ANSWER,
        max_in_flight: IN_FLIGHT,
    };
    let what = || format!("connecting to disk {} on {}", chosen.name, job.socket.display());
    let client = Client::connect_unix(&job.socket, options)
        .await
        .map_err(|error| Error::new(ErrorKind::Unavailable, what()).because(error))?;
    if let Some(missing) = contexts.iter().find(|wanted| !client.contexts().contains(wanted)) {
        return Err(Error::new(ErrorKind::Unsupported, format!("{}: QEMU does not offer {missing}", what())));
    }
    if client.size() != chosen.size {
        let (was, is) = (chosen.size, client.size());
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("disk {} was resized from {was} to {is} bytes meanwhile", chosen.name),
        )
        .advise("Back up again."));
    }
    Ok(Disk {
        name: chosen.name.clone(),
        checkpointed: chosen.checkpointed,
        dirty,
        client,
        domain: job.vm.domain.clone(),
        checkpoint: job.checkpoint.clone(),
        state: Arc::clone(&job.state),
    })
}

#[async_trait]
impl DiskView for Disk {
    fn name(&self) -> &DiskName {
        &self.name
    }

    fn size(&self) -> u64 {
        self.client.size()
    }

    fn checkpointed(&self) -> bool {
        self.checkpointed == Checkpointed::Yes
    }

    fn extents(&self) -> BoxStream<'_, Result<Extent>> {
        let pages = stream::try_unfold(0, move |at| async move {
            if at >= self.size() {
                return Ok::<_, Error>(None);
            }
            let page = self.page(at).await?;
            let next = page.last().map_or(self.size(), |extent| extent.range.end);
            Ok(Some((stream::iter(page.into_iter().map(Ok)), next)))
        });
        futures::TryStreamExt::try_flatten(pages).boxed()
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes> {
        if range.end > self.size() || range.len() > remora_core::PIECE_SIZE {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("reading {range} of disk {}: not a piece of it", self.name),
            ));
        }
        match self.client.read(range.start, range.len() as u32).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(self.explain(error, &format!("reading {range} of disk {}", self.name)).await),
        }
    }
}

impl Disk {
    /// The extents from `at` on, as many as QEMU tells at once.
    async fn page(&self, at: u64) -> Result<Vec<Extent>> {
        let end = self.size().min(at.saturating_add(STATUS_STEP));
        let what = || format!("asking for the map of disk {} from byte {at} on", self.name);
        let told = match self.client.block_status(at, (end - at) as u32).await {
            Ok(told) => told,
            Err(error) => return Err(self.explain(error, &what()).await),
        };
        let of = |wanted: &str| {
            let found = told.iter().find(|c| c.context == wanted);
            found
                .map(|c| c.extents.as_slice())
                .ok_or_else(|| Error::new(ErrorKind::Unavailable, format!("{}: the answer lacks {wanted}", what())))
        };
        let allocation = of(ALLOCATION)?;
        let dirty = self.dirty.as_deref().map(of).transpose()?;
        extents::join(at, end, allocation, dirty)
    }

    /// A failed request usually follows from the end of the job: says that instead, where it is so.
    async fn explain(&self, error: NbdError, what: &str) -> Error {
        let (start, broke_off) = (Instant::now(), !matches!(error, NbdError::Remote { .. }));
        loop {
            match why_broken(&self.domain, &self.checkpoint, &self.state).await {
                Ok(Some(reason)) => return reason.within(what),
                Ok(None) if broke_off && start.elapsed() < END_IS_KNOWN => sleep(LOOK_EVERY).await,
                Ok(None) | Err(_) => return Error::new(ErrorKind::Unavailable, what).because(error),
            }
        }
    }
}

/// Why the job of `checkpoint` does not run any more, if so. An error means that libvirt could not be asked.
async fn why_broken(domain: &DomainHandle, checkpoint: &CheckpointName, state: &JobState) -> Result<Option<Error>> {
    if let Some(error) = state.error() {
        return Ok(Some(error));
    }
    let look = |domain: &virt::domain::Domain| Ok((domain.is_active()?, job::running(domain)?));
    let (active, running) =
        domain.call(USUAL, Repeat::Safe, look).await.map_err(|e| e.while_doing("asking libvirt"))?;
    if running == Some(RunningJob::Ours(checkpoint.clone())) {
        // The watchdog may be about to end it.
        return Ok(state.error());
    }
    let start = Instant::now();
    while active && state.error().is_none() && start.elapsed() < REASON_ARRIVES {
        sleep(Duration::from_millis(10)).await;
    }
    let (what, advice) = if active {
        (
            "the backup job was ended by somebody else",
            "Find out who ends jobs (`virsh domjobabort`), and back up again.",
        )
    } else {
        ("the VM was shut off during the backup", "Start the VM, and back up again.")
    };
    state.break_off(Broken { kind: ErrorKind::Unavailable, what: what.into(), advice });
    Ok(state.error())
}

/// Names a process for ever: process numbers come again, also after a boot.
fn instance(pid: u32) -> Option<String> {
    if pid == 0 {
        // Of a process namespace that is not ours.
        return None;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // Field 22, and the second field, the name in parentheses, may hold anything.
    let start = status.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("boot {} process {pid} started at {start}", boot.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_one_process() {
        let own = instance(std::process::id()).unwrap();
        assert_eq!(Some(own.clone()), instance(std::process::id()));
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert_ne!(Some(own), instance(child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(instance(0), None);
        assert_eq!(instance(u32::MAX), None);
    }
}
