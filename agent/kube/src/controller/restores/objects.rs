//! What the controller makes for a restore: claims, which stay, and the worker with its certificates, which goes.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, KeyToPath, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, Secret,
    SecretVolumeSource, SecurityContext, Volume, VolumeDevice, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Resource;
use kube::api::ObjectMeta;
use remora_core::point::{Point, PointDisk};
use remora_transfer::Credentials;
use serde_json::Value;

use super::observed::Image;
use crate::controller::objects::{managed, with_overhead};
use crate::kubevirt::{RUN_LABEL, bytes};
use crate::resources::RestoreRun;
use crate::targets::Target;

/// Where the worker listens.
pub(super) const PORT: u16 = 8444;

/// The user and group as which KubeVirt runs a hypervisor: the images are theirs.
const QEMU: i64 = 107;

/// Where the worker's certificates are.
const TLS: &str = "/etc/remora/tls";

/// The names in the Secret: the worker mounts the first three, the key service gives the others away.
const WORKER_FILES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];
pub(super) const AGENT_CERTIFICATE: &str = "agent.crt";
pub(super) const AGENT_KEY: &str = "agent.key";
pub(super) const CA: &str = WORKER_FILES[0];

/// The name of a run's worker and of its Secret. Nobody knows it before the run is there.
pub(super) fn worker_name(run: &RestoreRun) -> String {
    format!("remora-restore-{}", run.metadata.uid.as_deref().unwrap_or_default())
}

/// A claim and how the worker mounts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) claim: String,
    pub(super) block: bool,
}

/// The claim of a disk, as the point tells of the one that it was on. It has no owner: what was restored stays when the
/// run is deleted.
pub(super) fn claim(run: &RestoreRun, target: &Target, point: &Point) -> PersistentVolumeClaim {
    let was = claim_of(point, &point.disks[target.index]);
    let asked = |path: &str| was.as_ref().and_then(|claim| claim.pointer(path)).cloned();
    let text = |path: &str| asked(path).and_then(|value| value.as_str().map(ToOwned::to_owned));
    let asked_size = text("/spec/resources/requests/storage").map(Quantity).filter(|size| bytes(size).is_some());
    let block = text("/spec/volumeMode").as_deref() == Some("Block");
    // Of a claim that nothing is known of, a part is its filesystem's.
    let least =
        if block || asked_size.is_some() { target.size.next_multiple_of(1 << 20) } else { with_overhead(target.size) };
    let modes = asked("/spec/accessModes").and_then(|modes| serde_json::from_value::<Vec<String>>(modes).ok());
    // In the words of whoever asked for the original, as far as that is enough.
    let size = match asked_size {
        Some(size) if bytes(&size) >= Some(least) => size,
        _ => Quantity(least.to_string()),
    };
    let mut labels = managed();
    labels.insert(RUN_LABEL.into(), run.metadata.uid.clone().unwrap_or_default());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(target.claim.clone()),
            namespace: run.metadata.namespace.clone(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: modes.filter(|modes| !modes.is_empty()).or_else(|| Some(vec!["ReadWriteOnce".into()])),
            volume_mode: Some(if block { "Block" } else { "Filesystem" }.into()),
            storage_class_name: target.storage_class.clone().or_else(|| text("/spec/storageClassName")),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                ..Default::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// What the point says of the claim that a disk was on.
fn claim_of(point: &Point, disk: &PointDisk) -> Option<Value> {
    let (_, name) = disk.identity.path.split_once('/')?;
    let definition: Value = serde_json::from_str(&point.definition).ok()?;
    let claims = definition["persistentVolumeClaims"].as_array()?;
    claims.iter().find(|claim| claim["metadata"]["name"] == name).cloned()
}

/// The Secret, without what is in it; [`with_certificates`] puts that in.
pub(super) fn secret(run: &RestoreRun) -> Secret {
    Secret { metadata: metadata(run), immutable: Some(true), ..Secret::default() }
}

/// The Secret with new certificates, whose CA's key nobody has.
pub(super) fn with_certificates(mut secret: Secret) -> remora_core::Result<Secret> {
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

/// The worker: as unprivileged as a pod can be that writes a hypervisor's disks.
pub(super) fn worker(run: &RestoreRun, image: &Image, mounted: &[Mounted]) -> Pod {
    let place =
        |number: usize, block: bool| if block { format!("/dev/disk-{number}") } else { format!("/disks/{number}") };
    let mut args = vec!["receive".to_owned(), format!("--listen=[::]:{PORT}"), format!("--tls={TLS}")];
    let (mut volumes, mut mounts, mut devices) = (vec![certificates(run)], Vec::new(), Vec::new());
    mounts.push(VolumeMount {
        name: "tls".into(),
        mount_path: TLS.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    for (number, one) in mounted.iter().enumerate() {
        let (name, path) = (format!("disk-{number}"), place(number, one.block));
        args.push(format!("--disk={path}"));
        if one.block {
            devices.push(VolumeDevice { name: name.clone(), device_path: path });
        } else {
            mounts.push(VolumeMount { name: name.clone(), mount_path: path, ..VolumeMount::default() });
        }
        let source = PersistentVolumeClaimVolumeSource { claim_name: one.claim.clone(), read_only: None };
        volumes.push(Volume { name, persistent_volume_claim: Some(source), ..Volume::default() });
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
    Pod { metadata: metadata(run), spec: Some(pod(container, volumes)), ..Pod::default() }
}

fn pod(container: Container, volumes: Vec<Volume>) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        // One that has died has left something half-written: the run says so.
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(1),
        // Where there are agents, and where the machine can run.
        node_selector: Some(
            [("kubernetes.io/os", "linux"), ("kubevirt.io/schedulable", "true")]
                .map(|(label, value)| (label.to_owned(), value.to_owned()))
                .into(),
        ),
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

fn certificates(run: &RestoreRun) -> Volume {
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
        // What it writes, the kernel counts with it until it is on the disk.
        limits: quantities(&[("memory", "256Mi")]),
        ..ResourceRequirements::default()
    }
}

fn metadata(run: &RestoreRun) -> ObjectMeta {
    let mut labels = managed();
    labels.insert(RUN_LABEL.into(), run.metadata.uid.clone().unwrap_or_default());
    labels.insert("app.kubernetes.io/name".into(), "remora-restore".into());
    // The agent comes with a certificate of its own, and to the worker itself.
    labels.insert("sidecar.istio.io/inject".into(), "false".into());
    ObjectMeta {
        name: Some(worker_name(run)),
        namespace: run.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: run.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}
