//! An open instant of a VM: its disks over NBD, and the questions whether it still is that instant.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use remora_core::point::Quiesced;
use remora_core::ports::{DiskView, OpenVm, Outcome};
use remora_core::{CheckpointName, Error, ErrorKind, Result};
use remora_nbd::Client;
use tokio::time::sleep;

use crate::connection::{DomainHandle, Repeat, USUAL};
use crate::disk::{ANSWER, Disk, Export, JobWatch};
use crate::job::{self, RunningJob, export_name};
use crate::own_job::{Chosen, Job};
use crate::process::{self, PROC};
use crate::state::{Broken, JobState};

/// So often it is looked whether the watchdog's reason for an ended job has arrived. Not for so long: it was told before, and what
/// may be missing is our own turn to hear it.
const LOOKS: u32 = 50;

/// The pause between two such looks.
const PAUSE: Duration = Duration::from_millis(10);

/// How often libvirt is asked, after a connection broke off, whether it knows by now that the job ended.
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
        let instance = disks.first().and_then(Disk::server).and_then(|pid| process::instance(Path::new(PROC), pid));
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
        match LibvirtJob::of(job).why_broken().await {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(error),
            Err(error) => Err(error.within("asking whether the backup job still runs")),
        }
    }

    async fn close(mut self: Box<Self>, outcome: Outcome) -> Result<()> {
        for disk in &self.disks {
            disk.disconnect().await;
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

/// A job that libvirt runs for us.
#[derive(Clone, Debug)]
struct LibvirtJob {
    domain: DomainHandle,
    checkpoint: CheckpointName,
    state: Arc<JobState>,
}

impl LibvirtJob {
    fn of(job: &Job) -> Self {
        let (domain, checkpoint) = (job.vm.domain.clone(), job.checkpoint.clone());
        Self { domain, checkpoint, state: Arc::clone(&job.state) }
    }
}

#[async_trait]
impl JobWatch for LibvirtJob {
    async fn why_broken(&self) -> Result<Option<Error>> {
        why_broken(&self.domain, &self.checkpoint, &self.state).await
    }

    fn ask_every(&self) -> Duration {
        LOOK_EVERY
    }
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
    let export = Export {
        disk: chosen.name.clone(),
        name: export_name(&job.checkpoint, &chosen.name),
        // On a full job libvirt takes an export bitmap and ignores it, so only increments ask for one.
        bitmap: chosen.since.is_some().then(|| job.checkpoint.to_string()),
        checkpointed: chosen.checkpointed,
    };
    let what = || format!("connecting to disk {} on {}", chosen.name, job.socket.display());
    let client = Client::connect_unix(&job.socket, export.options(ANSWER))
        .await
        .map_err(|error| Error::new(ErrorKind::Unavailable, what()).because(error))?;
    if client.size() != chosen.size {
        let (was, is) = (chosen.size, client.size());
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("disk {} was resized from {was} to {is} bytes meanwhile", chosen.name),
        )
        .advise("Back up again."));
    }
    Disk::new(export, client, Arc::new(LibvirtJob::of(job))).map_err(|error| error.within(what()))
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
    for _ in 0..LOOKS {
        if !active || state.error().is_some() {
            break;
        }
        sleep(PAUSE).await;
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
