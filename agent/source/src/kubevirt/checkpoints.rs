//! Removing checkpoints of ours that no point needs: KubeVirt never does, and each costs every write of the guest. Done
//! through the launcher's own libvirt.
//!
//! What that says is parsed by libvirt's client, in C, so a process of its own talks to it, without any capability and killed
//! when it takes too long. It has the launcher's user, for libvirt takes no other but root, and root where the launcher is root.
//! That is more than the launcher has, for it stays where the agent is: who takes it over by what he answers finds what that
//! user may read in the agent's pod, and processes of the same user on the node.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Uid, geteuid};
use remora_core::{CheckpointName, Error, ErrorKind, RepositoryId, Result, VmName};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;
use virt::connect::Connect;
use virt::domain::Domain;

use super::launcher::LIBVIRT;
use super::rights;
use super::source::Vm;
use crate::connection::{DomainHandle, Libvirt, Repeat, USUAL};
use crate::{checkpoints, definition};

/// How long it may take: some bitmaps to remove, each in a moment.
const LIMIT: Duration = Duration::from_mins(2);

/// The user and the group that a launcher of KubeVirt runs as unless it is root.
const QEMU: u32 = 107;

/// What such a process is told, as its last argument. Its standard input is the socket, opened by its path alone.
#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    /// libvirt's driver: `system` of root, `session` of anybody else.
    driver: String,
    vm: VmName,
    domain: String,
    repository: RepositoryId,
    keep: BTreeSet<CheckpointName>,
}

/// See [`remora_core::ports::ClaimedVm::retire`]. What KubeVirt's tracker starts the next increment from stays too.
pub(super) async fn retire(vm: &Vm, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()> {
    let what = format!("removing old checkpoints of the VM {:?} through its launcher's libvirt", vm.facts.vm.as_str());
    start(vm, repository, keep).await.map_err(|error| {
        error
            .within(what)
            .advise_if_none("The next backup tries again; checkpoints that stay cost the guest's writes a little.")
    })
}

async fn start(vm: &Vm, repository: RepositoryId, keep: &BTreeSet<CheckpointName>) -> Result<()> {
    let mut keep = keep.clone();
    keep.extend(vm.cluster.latest_checkpoint().await?.and_then(|latest| latest.parse().ok()));
    let Some((namespace, name)) = vm.facts.vm.as_str().split_once('/') else {
        return Err(Error::new(ErrorKind::Invalid, "its name has no namespace"));
    };
    // Who listens is checked on a connection of our own; libvirt's then goes to the same file, whatever is put in its place.
    let socket = vm.launcher.socket(LIBVIRT)?;
    // Nobody else is asked who that is: what the VMI says of it, whoever may write VMIs of the namespace could have written.
    let listens = vm.launcher.connect_to(&socket, LIBVIRT).await?.user;
    let driver = if listens.is_root() { "system" } else { "session" };
    let (vm_name, domain) = (vm.facts.vm.clone(), format!("{namespace}_{name}"));
    run(vm, (socket, listens), &Spec { driver: driver.into(), vm: vm_name, domain, repository, keep }).await
}

async fn run(vm: &Vm, (socket, listens): (OwnedFd, Uid), spec: &Spec) -> Result<()> {
    let (program, arguments) = vm
        .options
        .retirer
        .split_first()
        .ok_or_else(|| Error::new(ErrorKind::Invalid, "no command is configured for it"))?;
    let failed = |source| Error::io(format!("running {}", program.display()), source);
    let mut command = Command::new(program);
    command.args(arguments).arg(serde_json::to_string(spec).expect("texts are always JSON"));
    command.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    // libvirt takes root and its own user; as root it could read whatever the agent can.
    if !listens.is_root() && geteuid().is_root() {
        command.uid(QEMU).gid(QEMU);
    }
    let Ok(ended) = timeout(LIMIT, command.output()).await else {
        return Err(Error::new(ErrorKind::Unavailable, format!("it has taken longer than {} s", LIMIT.as_secs())));
    };
    let ended = ended.map_err(failed)?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let said = said.lines().last().unwrap_or("it says nothing").chars().take(1000).collect::<String>();
    Err(Error::new(ErrorKind::Failed, "it failed").because(format!("{} ({})", said, ended.status)))
}

/// The whole life of the process that removes checkpoints; the command that runs it is
/// [`KubevirtOptions::retirer`](super::KubevirtOptions::retirer). Gives its exit code.
pub fn retire_main() -> u8 {
    let spec = std::env::args().next_back().unwrap_or_default();
    let rights = rights::give_up().map_err(|error| format!("giving up what it does not need: {error}"));
    let runtime = rights.and_then(|()| {
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
        built.map_err(|error| error.to_string())
    });
    let done = runtime.and_then(|runtime| {
        let spec: Spec = serde_json::from_str(&spec)
            .map_err(|error| format!("this command is started by remora itself ({error})"))?;
        runtime.block_on(retire_here(&spec)).map_err(|error| error.chain())
    });
    match done {
        Ok(()) => 0,
        Err(error) => {
            // One line.
            eprintln!("{}", error.replace('\n', " "));
            1
        }
    }
}

async fn retire_here(spec: &Spec) -> Result<()> {
    let input = std::io::stdin().as_raw_fd();
    let uri = format!("qemu+unix:///{}?socket=/proc/self/fd/{input}", spec.driver);
    let domain = find(spec, uri).await?;
    let xml = domain.call(USUAL, Repeat::Safe, |d| d.get_xml_desc(0)).await;
    let definition = definition::parse(&xml.map_err(|error| error.while_doing("reading its definition"))?)?;
    checkpoints::retire(&domain, &definition, spec.repository, &spec.keep).await
}

async fn find(spec: &Spec, uri: String) -> Result<DomainHandle> {
    let (libvirt, domain) = (Arc::new(Libvirt::new(uri)), spec.domain.clone());
    let lookup = move |connection: &Connect| Domain::lookup_by_name(connection, &domain)?.get_uuid_string();
    let uuid = libvirt.call(USUAL, Repeat::Safe, lookup).await;
    let uuid = uuid.map_err(|error| error.while_doing("looking for the VM"))?;
    Ok(DomainHandle { libvirt, vm: spec.vm.clone(), uuid })
}
