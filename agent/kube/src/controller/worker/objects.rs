//! The objects of a worker: its pod, and the Secret of its certificates.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, KeyToPath, PersistentVolumeClaimVolumeSource, Pod,
    PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, Secret, SecretVolumeSource, SecurityContext,
    Toleration, Volume, VolumeDevice, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;
use remora_transfer::Credentials;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Image;
use crate::controller::objects::managed;
use crate::kubevirt::RUN_LABEL;
use crate::resources::Run;

/// Where the worker listens.
pub(super) const PORT: u16 = 8444;

/// The user and group as which KubeVirt runs a hypervisor: the images are theirs.
const QEMU: i64 = 107;

/// Where the worker's certificates are.
const TLS: &str = "/etc/remora/tls";

/// Where KubeVirt has its overlays of changes in the claim of a machine's state.
const OVERLAYS: &str = "cbt";

/// The names in the Secret: the worker mounts the first three, the key service gives the others away.
const WORKER_FILES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];
pub(super) const AGENT_CERTIFICATE: &str = "agent.crt";
pub(super) const AGENT_KEY: &str = "agent.key";
pub(super) const CA: &str = WORKER_FILES[0];

/// The name of a run's worker and of its Secret. Nobody knows it before the run is there.
pub(in crate::controller) fn worker_name(run: &impl Run) -> String {
    format!("remora-worker-{}", run.meta().uid.as_deref().unwrap_or_default())
}

/// A claim and how the worker mounts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Mounted {
    pub(in crate::controller) claim: String,
    pub(in crate::controller) block: bool,
}

/// The claims that a worker mounts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::controller) struct Mounts {
    /// What it writes, or reads.
    pub(in crate::controller) disks: Vec<Mounted>,
    /// What would hide what it writes, and is removed first.
    pub(in crate::controller) overlays: Vec<Overlay>,
    /// Where the machine may run that is to have them.
    pub(in crate::controller) placement: Placement,
}

/// On which nodes a machine may run, as its template has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::controller) struct Placement {
    node_selector: BTreeMap<String, String>,
    affinity: Affinity,
    tolerations: Vec<Toleration>,
}

impl Placement {
    /// That of a machine whose instances have this spec.
    pub(in crate::controller) fn of(spec: &Value) -> Self {
        Self {
            node_selector: field(spec, "nodeSelector"),
            affinity: field(spec, "affinity"),
            tolerations: field(spec, "tolerations"),
        }
    }

    /// The same, but for which nodes are chosen: only which are not kept out.
    pub(in crate::controller) fn tolerations(self) -> Self {
        Self { tolerations: self.tolerations, ..Self::default() }
    }
}

/// A field of a machine's spec, of whatever age and whoever wrote it: one that cannot be read leaves the others.
fn field<T: DeserializeOwned + Default>(spec: &Value, name: &str) -> T {
    let read = serde_json::from_value::<Option<T>>(spec[name].clone());
    let read = read.inspect_err(|error| {
        tracing::warn!(field = name, %error, "a machine says in no known form where it may run: its worker knows nothing of it");
    });
    read.ok().flatten().unwrap_or_default()
}

/// The overlay through which a machine of KubeVirt has a claim: see `restores/overlays.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Overlay {
    /// The claim of the machine's state, in which it is a file.
    pub(in crate::controller) state: String,
    /// The volume of the machine, after which it is named.
    pub(in crate::controller) volume: String,
}

/// The Secret, without what is in it; [`with_certificates`] puts that in.
pub(in crate::controller) fn secret(run: &impl Run) -> Secret {
    Secret { metadata: metadata(run), immutable: Some(true), ..Secret::default() }
}

/// The Secret with new certificates, whose CA's key nobody has.
pub(in crate::controller) fn with_certificates(mut secret: Secret) -> remora_core::Result<Secret> {
    let Credentials { worker, agent } = Credentials::new()?;
    let files = [
        (WORKER_FILES[0], &worker.ca),
        (WORKER_FILES[1], &worker.certificate),
        (WORKER_FILES[2], &*worker.key),
        (AGENT_CERTIFICATE, &agent.certificate),
        (AGENT_KEY, &*agent.key),
    ];
    let bytes = |text: &String| ByteString(text.clone().into_bytes());
    secret.data = Some(files.map(|(name, text)| (name.to_owned(), bytes(text))).into());
    Ok(secret)
}

/// What a worker does with the claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::controller) enum Task {
    /// It writes a restore's disks.
    Receive,
    /// It lets the disks of a halted machine be read.
    Lend,
}

/// The pod: as unprivileged as one can be that has a hypervisor's disks.
pub(in crate::controller) fn pod(run: &impl Run, task: Task, image: &Image, mounted: &Mounts) -> Pod {
    let place =
        |number: usize, block: bool| if block { format!("/dev/disk-{number}") } else { format!("/disks/{number}") };
    let (command, read_only) = match task {
        Task::Receive => ("receive", None),
        Task::Lend => ("lend", Some(true)),
    };
    let mut args = vec![command.to_owned(), format!("--listen=[::]:{PORT}"), format!("--tls={TLS}")];
    let (mut volumes, mut mounts, mut devices) = (vec![certificates(run)], Vec::new(), Vec::new());
    mounts.push(VolumeMount {
        name: "tls".into(),
        mount_path: TLS.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    for (number, one) in mounted.disks.iter().enumerate() {
        let (name, path) = (format!("disk-{number}"), place(number, one.block));
        args.push(format!("--disk={path}"));
        if one.block {
            devices.push(VolumeDevice { name: name.clone(), device_path: path });
        } else {
            mounts.push(VolumeMount { name: name.clone(), mount_path: path, read_only, ..VolumeMount::default() });
        }
        volumes.push(of_claim(&name, &one.claim, read_only));
    }
    let states: BTreeSet<_> = mounted.overlays.iter().map(|overlay| &overlay.state).collect();
    for (number, state) in states.into_iter().enumerate() {
        let (name, path) = (format!("state-{number}"), format!("/states/{number}"));
        let of_it = mounted.overlays.iter().filter(|overlay| overlay.state == *state);
        args.extend(of_it.map(|overlay| format!("--overlay={path}/{OVERLAYS}/{}.qcow2", overlay.volume)));
        volumes.push(of_claim(&name, state, None));
        mounts.push(VolumeMount { name, mount_path: path, ..VolumeMount::default() });
    }
    let container = Container {
        name: "worker".into(),
        image: Some(image.name.clone()),
        image_pull_policy: image.pull_policy.clone(),
        command: Some(vec!["/usr/bin/remora-agent".into()]),
        args: Some(args),
        ports: Some(vec![ContainerPort { container_port: PORT.into(), ..ContainerPort::default() }]),
        resources: Some(resources()),
        security_context: Some(least()),
        volume_mounts: Some(mounts),
        volume_devices: Some(devices).filter(|devices| !devices.is_empty()),
        ..Container::default()
    };
    Pod { metadata: metadata(run), spec: Some(spec(container, volumes, &mounted.placement)), ..Pod::default() }
}

/// Read-only here, a device is read-only too: of that a container says nothing, and the kubelet takes it from here.
fn of_claim(name: &str, claim: &str, read_only: Option<bool>) -> Volume {
    let source = PersistentVolumeClaimVolumeSource { claim_name: claim.into(), read_only };
    Volume { name: name.into(), persistent_volume_claim: Some(source), ..Volume::default() }
}

fn spec(container: Container, volumes: Vec<Volume>, placement: &Placement) -> PodSpec {
    let mut node_selector = placement.node_selector.clone();
    // Where there are agents, and where the machine can run.
    let ours = [("kubernetes.io/os", "linux"), ("kubevirt.io/schedulable", "true")];
    node_selector.extend(ours.map(|(label, value)| (label.to_owned(), value.to_owned())));
    // What other pods are there is no matter of the claims.
    let node_affinity = placement.affinity.node_affinity.clone();
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        // One that has died has left something half-written: the run says so.
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(1),
        node_selector: Some(node_selector),
        affinity: node_affinity.map(|of| Affinity { node_affinity: Some(of), ..Affinity::default() }),
        tolerations: Some(placement.tolerations.clone()).filter(|all| !all.is_empty()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(QEMU),
            run_as_group: Some(QEMU),
            fs_group: Some(QEMU),
            // Not over each file of a volume that has the right owner already.
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn certificates(run: &impl Run) -> Volume {
    let item = |name: &str| KeyToPath { key: name.into(), path: name.into(), mode: None };
    let source = SecretVolumeSource {
        secret_name: Some(worker_name(run)),
        items: Some(WORKER_FILES.map(item).into()),
        // Its group's, which is the pod's.
        default_mode: Some(0o440),
        ..SecretVolumeSource::default()
    };
    Volume { name: "tls".into(), secret: Some(source), ..Volume::default() }
}

fn least() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}

fn resources() -> ResourceRequirements {
    let quantities = |all: &[(&str, &str)]| {
        Some(all.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "50m"), ("memory", "64Mi")]),
        // What it reads and writes, the kernel counts with it until it is on the disk, or forgotten.
        limits: quantities(&[("memory", "256Mi")]),
        ..ResourceRequirements::default()
    }
}

fn metadata(run: &impl Run) -> ObjectMeta {
    let mut labels = managed();
    labels.insert(RUN_LABEL.into(), run.meta().uid.clone().unwrap_or_default());
    labels.insert("app.kubernetes.io/name".into(), "remora-worker".into());
    // The agent comes with a certificate of its own, and to the worker itself.
    labels.insert("sidecar.istio.io/inject".into(), "false".into());
    ObjectMeta {
        name: Some(worker_name(run)),
        namespace: run.meta().namespace.clone(),
        labels: Some(labels),
        owner_references: run.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}
