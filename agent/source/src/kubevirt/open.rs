//! Opening one instant of a VM: a backup of KubeVirt, then its exports through the launcher's socket. Whatever fails,
//! nothing is left behind.

use std::sync::Arc;
use std::time::Duration;

use remora_core::ports::{OpenDisk, OpenRequest, Outcome, Tracking};
use remora_core::{CheckpointName, DiskName, Error, ErrorKind, Result};
use remora_nbd::{Client, NbdError};
use tokio::time::{Instant, sleep};

use super::attempt::{self, Started};
use super::cluster::{BackupKind, BackupWish, Depth, Freeze, VolumeFacts};
use super::facts;
use super::job::KubevirtJob;
use super::launcher::{Connected, NBD};
use super::source::Vm;
use super::view::{Source, View};
use crate::backup_xml::Checkpointed;
use crate::disk::{Disk, Export, JobWatch};

/// How long after the job has begun its socket may take to be there.
const SOCKET_APPEARS: Duration = Duration::from_secs(15);

/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A disk that is to be opened.
struct Chosen<'a> {
    disk: &'a OpenDisk,
    volume: &'a VolumeFacts,
}

/// See [`remora_core::ports::ClaimedVm::open`].
pub(super) async fn open(vm: &Arc<Vm>, request: &OpenRequest) -> Result<View> {
    if request.tracking == Tracking::AsBefore {
        return Err(Error::new(ErrorKind::Unsupported, "every backup of KubeVirt makes a checkpoint")
            .advise("Repair the point by a new backup of the VM instead."));
    }
    let chosen = choose(vm, request)?;
    let (since, no_increment) = common_since(request);
    let mut wish = BackupWish {
        backup: request.checkpoint.as_backup(),
        depth: if since.is_some() { Depth::SinceLatest } else { Depth::Full },
        freeze: if request.quiesce == remora_core::point::Quiesce::Never { Freeze::Skip } else { Freeze::Try },
    };
    let opened = async {
        let started = attempt::start(vm, &mut wish, request.quiesce).await?;
        let job = Arc::new(KubevirtJob::new(vm, &started));
        let connected = connect(vm, &chosen, &started, since, no_increment, &job).await;
        // Another backup can open the same socket path: only now, with all connections open, does it say whose they are.
        match (connected, job.why_broken().await) {
            (Ok((source, disks)), Ok(None)) => View::new(source, started, disks).await,
            (Ok(_), Ok(Some(reason))) => Err(reason),
            (Ok(_), Err(error)) => Err(error.within("asking whose job the VM's is")),
            // What broke off a connection is better known by the job's end, if it has one.
            (Err(error), Ok(Some(reason))) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {
                Err(reason.because(error.chain()))
            }
            (Err(error), _) => Err(error),
        }
    };
    match opened.await {
        Ok(view) => Ok(view),
        Err(error) => {
            if let Err(second) = vm.cluster.end(&wish.backup, Outcome::Abandoned).await {
                tracing::warn!(vm = %vm.facts.vm, error = second.chain(), "cannot clean up after a failed start");
            }
            Err(error)
        }
    }
}

/// The checkpoint that all disks are to be incremental from; if only some are to be, none is, and why.
fn common_since(request: &OpenRequest) -> (Option<&CheckpointName>, Option<String>) {
    let first = request.disks.iter().find_map(|disk| disk.since.as_ref());
    match request.disks.iter().find(|disk| disk.since.as_ref() != first) {
        None => (first, None),
        Some(other) => {
            let why = format!(
                "disk {} is no increment from the same checkpoint, and KubeVirt makes increments of all disks or of none",
                other.name
            );
            (None, Some(why))
        }
    }
}

fn choose<'a>(vm: &'a Vm, request: &'a OpenRequest) -> Result<Vec<Chosen<'a>>> {
    if request.disks.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "no disk is chosen"));
    }
    let choose = |disk: &'a OpenDisk| Ok(Chosen { disk, volume: facts::volume(&vm.facts, &disk.name)? });
    request.disks.iter().map(choose).collect()
}

async fn connect(
    vm: &Arc<Vm>,
    chosen: &[Chosen<'_>],
    started: &Started,
    since: Option<&CheckpointName>,
    mut no_increment: Option<String>,
    job: &Arc<KubevirtJob>,
) -> Result<(Source, Vec<Arc<Disk>>)> {
    if let Some(missing) = chosen.iter().find(|c| !started.running.volumes.contains(&c.volume.name)) {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("the backup of KubeVirt leaves out disk {}", missing.disk.name),
        )
        .advise("Restart the VM, so that changed-block tracking begins on all its disks."));
    }
    let mut connection = Some(first_connection(vm).await?);
    if let Some(since) = since {
        let latest = vm.cluster.latest_checkpoint().await;
        let latest = latest.map_err(|error| error.within("asking KubeVirt's tracker for its checkpoint"))?;
        no_increment = attempt::no_increment(&started.running, since, latest.as_deref());
    }
    let told = since.is_some() && no_increment.is_none() && started.running.kind == BackupKind::Incremental;
    let (mut disks, mut server) = (Vec::new(), None);
    for Chosen { disk, volume } in chosen {
        let connected = match connection.take() {
            Some(first) => first,
            None => vm.launcher.connect(NBD).await?,
        };
        same_server(&mut server, &connected)?;
        let bitmap = told.then(|| started.checkpoint.to_string());
        let export =
            Export { disk: disk.name.clone(), name: volume.name.clone(), bitmap, checkpointed: Checkpointed::Yes };
        let watch = Arc::clone(job) as Arc<dyn JobWatch>;
        disks.push(Arc::new(connect_disk(vm, export, connected, volume, watch).await?));
    }
    let source = Source { vm: Arc::clone(vm), job: Arc::clone(job), no_increment, server };
    Ok((source, disks))
}

/// The socket is there when the job runs, or very soon.
async fn first_connection(vm: &Vm) -> Result<Connected> {
    let start = Instant::now();
    loop {
        match vm.launcher.connect(NBD).await {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable)
                    && start.elapsed() < SOCKET_APPEARS.min(vm.options.start_within) =>
            {
                sleep(LOOK_EVERY).await;
            }
            Err(error) => {
                let folder = vm.launcher.folder().display();
                return Err(error.advise_if_none(format!("Is {folder} the launcher's folder, and does its QEMU run?")));
            }
            Ok(connected) => return Ok(connected),
        }
    }
}

/// All disks are of one QEMU.
fn same_server(server: &mut Option<u32>, connected: &Connected) -> Result<()> {
    match server.replace(connected.server) {
        Some(before) if before != connected.server => Err(Error::new(
            ErrorKind::Unavailable,
            format!("the launcher's socket was of process {before} and is of process {} now", connected.server),
        )
        .advise("Back up again.")),
        _ => Ok(()),
    }
}

async fn connect_disk(
    vm: &Vm,
    export: Export,
    connected: Connected,
    volume: &VolumeFacts,
    job: Arc<dyn JobWatch>,
) -> Result<Disk> {
    let (name, increment) = (export.disk.clone(), export.bitmap.is_some());
    let within =
        |error: Error| error.within(format_args!("connecting to disk {name} of launcher pod {}", vm.instance.pod));
    let client = Client::connect_stream(connected.stream, export.options(vm.options.answer_within)).await;
    let client = client.map_err(|error| within(refused(&name, error)))?;
    facts::check_size(&name, client.size(), volume.capacity).map_err(within)?;
    let disk = Disk::new(export, client, job);
    disk.map_err(|error| match error.kind() {
        // The engine repeats without an increment.
        ErrorKind::Unsupported if increment => {
            within(Error::new(ErrorKind::Damaged, "the increment's bitmap is not there").because(error))
        }
        _ => within(error),
    })
}

fn refused(disk: &DiskName, error: NbdError) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the launcher's QEMU does not serve disk {disk}")).because(error)
}
