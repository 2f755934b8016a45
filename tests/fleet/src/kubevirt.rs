//! What KubeVirt and Kubernetes do, played: a backup's job runs as soon as it is there, and a claim goes when it is deleted.

use futures::StreamExt;
use http::Method;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher::Config};
use kube::{Api, Client, ResourceExt};
use remora_kube::kubevirt::{VirtualMachineBackup, VirtualMachineBackupTracker};
use serde_json::{Value, json};

use crate::Result;
use crate::cluster::request;

/// How many jobs are begun at once.
const AT_ONCE: usize = 16;

/// Runs the job of each backup, and ends it with it.
pub(crate) async fn jobs(client: Client) {
    let backups = watcher(Api::<VirtualMachineBackup>::all(client.clone()), Config::default()).default_backoff();
    let played = backups.for_each_concurrent(AT_ONCE, |event: watcher::Result<Event<VirtualMachineBackup>>| async {
        let played = match event {
            Ok(Event::Apply(backup) | Event::InitApply(backup)) => job(&client, &backup, Job::Runs).await,
            Ok(Event::Delete(backup)) => job(&client, &backup, Job::Ends).await,
            _ => Ok(()),
        };
        if let Err(error) = played {
            eprintln!("a job is not played: {error}");
        }
    });
    played.await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    Runs,
    Ends,
}

async fn job(client: &Client, backup: &VirtualMachineBackup, state: Job) -> Result<()> {
    let begun = backup.status.as_ref().is_some_and(|status| status.kind.is_some());
    if state == Job::Runs && (begun || backup.metadata.deletion_timestamp.is_some()) {
        return Ok(());
    }
    let (namespace, name) = (backup.namespace().unwrap_or_default(), backup.name_any());
    let trackers: Api<VirtualMachineBackupTracker> = Api::namespaced(client.clone(), &namespace);
    let machine = trackers.get(&backup.spec.source.name).await?.spec.source.name;
    let checkpoint = format!("{name}-2026-01-01_00-00-00");
    let job = json!({
        "backupName": name, "checkpointName": checkpoint, "volumes": [{"volumeName": "root"}],
        "completed": state == Job::Ends,
    });
    let tracking = json!({"state": "Enabled", "backupStatus": job});
    let instance = format!("/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{machine}");
    let scratch: Vec<_> = match state {
        Job::Runs => backup.spec.pvc_name.iter().map(|claim| json!({"name": "scratch", "claimName": claim})).collect(),
        Job::Ends => Vec::new(),
    };
    let fields = json!({"spec": {"utilityVolumes": scratch}, "status": {"changedBlockTracking": tracking}});
    request(client, Method::PATCH, &instance, &fields).await?;
    if state == Job::Runs {
        let path =
            format!("/apis/backup.kubevirt.io/v1alpha1/namespaces/{namespace}/virtualmachinebackups/{name}/status");
        let status = json!({"status": {"type": "Full", "checkpointName": checkpoint}});
        request(client, Method::PATCH, &path, &status).await?;
    }
    Ok(())
}

/// Takes the protection off claims that are deleted.
pub(crate) async fn claims(client: Client) {
    let scratches = Config::default().labels("remora.dev/run");
    let claims = watcher(Api::<PersistentVolumeClaim>::all(client.clone()), scratches).default_backoff();
    let played = claims.touched_objects().for_each_concurrent(AT_ONCE, |claim| async {
        let Ok(claim) = claim else { return };
        if claim.metadata.deletion_timestamp.is_none() || claim.finalizers().is_empty() {
            return;
        }
        let namespace = claim.namespace().unwrap_or_default();
        let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{}", claim.name_any());
        let free = json!({"metadata": {"finalizers": Value::Null}});
        if let Err(error) = request(&client, Method::PATCH, &path, &free).await {
            eprintln!("a claim does not go: {error}");
        }
    });
    played.await;
}
