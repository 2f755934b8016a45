//! A VM as the cluster describes it.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use remora_core::{Error, ErrorKind, Result, VmName};
use remora_source::kubevirt::{
    ChangedBlockTracking, InstanceFacts, LatestCheckpoint, VmFacts, VolumeFacts, VolumeMode,
};

use super::RunCluster;
use crate::kubevirt::{
    Backing, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceSpec, VirtualMachineInstanceStatus, bytes,
    tracking,
};
use crate::node::definition::definition;

impl RunCluster {
    pub(super) async fn vm_facts(&self) -> Result<VmFacts> {
        let order = &self.desk.order;
        let named = order.vm_name();
        let whole = self.whole_machine().await?;
        let unreadable = |e| Error::new(ErrorKind::Invalid, format!("reading VirtualMachine {named}")).because(e);
        let value = serde_json::to_value(&whole).map_err(unreadable)?;
        let machine: VirtualMachine = serde_json::from_value(value).map_err(unreadable)?;
        let instance = self.instance().await?;
        let spec = match &instance {
            Some(instance) => instance.spec.clone(),
            None => machine.spec.template.clone().map(|template| template.spec).unwrap_or_default(),
        };
        let mut left_out = not_eligible(&spec);
        left_out.extend(beside_the_disks(&whole));
        let (mut volumes, mut claims) = (Vec::new(), Vec::new());
        for (name, backing) in in_order(&spec) {
            let Backing::Claim(claim) = backing else {
                left_out.push((format!("disk {name}"), "it is a file of the node (hostDisk)".into()));
                continue;
            };
            let claim = self.claim(claim).await?;
            volumes.push(volume_facts(name, &claim)?);
            claims.push(claim);
        }
        let latest = self.tracker().await?.and_then(|tracker| tracker.status?.latest_checkpoint);
        Ok(VmFacts {
            vm: VmName::new(named)?,
            uid: machine.uid().unwrap_or_default(),
            version: machine.resource_version().unwrap_or_default(),
            instance: match &instance {
                Some(instance) => Some(self.instance_facts(instance).await?),
                None => None,
            },
            tracking: changed_block_tracking(&machine, instance.as_ref()),
            volumes,
            left_out,
            latest: latest.filter(|latest| !latest.name.is_empty()).map(|latest| LatestCheckpoint {
                name: latest.name,
                volumes: latest.volumes.into_iter().map(|volume| volume.volume_name).collect(),
            }),
            definition: definition(&whole, &claims),
        })
    }

    /// The machine with all its fields: a restore needs those too that mean nothing to us.
    async fn whole_machine(&self) -> Result<DynamicObject> {
        let (order, kind) = (&self.desk.order, GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachine"));
        let kind = ApiResource::from_gvk(&kind);
        let api = kube::Api::namespaced_with(self.desk.client.clone(), &order.namespace, &kind);
        let found = self.ask("the VirtualMachine", || api.get_opt(&order.spec.virtual_machine)).await?;
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no VirtualMachine {}", order.vm_name()))
                .advise("`virtualMachine` names one of the run's own namespace.")
        })
    }

    async fn claim(&self, name: &str) -> Result<PersistentVolumeClaim> {
        let api = self.api::<PersistentVolumeClaim>();
        let found = self.ask("a PersistentVolumeClaim", || api.get_opt(name)).await?;
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no PersistentVolumeClaim {name}")))
    }

    /// The launcher pod that runs the instance here: not one that it migrates to and that is not active yet.
    async fn instance_facts(&self, instance: &VirtualMachineInstance) -> Result<InstanceFacts> {
        let uid = instance.uid().unwrap_or_default();
        let status = instance.status.clone().unwrap_or_default();
        let here = &self.desk.me.node;
        if status.node_name.as_ref() != Some(here) {
            let is = status.node_name.unwrap_or_else(|| "no node".into());
            return Err(Error::new(ErrorKind::Refused, format!("the VM runs on {is}, and this agent is on {here}"))
                .advise("It has been migrated or started again: create another BackupRun."));
        }
        let of_it = ListParams::default()
            .labels(&format!("kubevirt.io/created-by={uid}"))
            .fields(&format!("spec.nodeName={here}"));
        let api = self.api::<Pod>();
        let pods = self.ask("the virt-launcher pod", || api.list(&of_it)).await?;
        let pod = pods.items.iter().filter(|pod| is_its_launcher(pod, &uid, &status, here)).find_map(Pod::uid);
        let pod = pod.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no virt-launcher pod runs the VM on {here}"))
                .advise("It may have stopped just now: see `kubectl get vmi,pods`.")
        })?;
        Ok(InstanceFacts { uid, pod })
    }
}

/// KubeVirt itself says which pods are an instance's; a label alone may be anybody's.
fn is_its_launcher(pod: &Pod, instance: &str, status: &VirtualMachineInstanceStatus, node: &str) -> bool {
    let owned =
        pod.owner_references().iter().any(|owner| owner.kind == "VirtualMachineInstance" && owner.uid == instance);
    let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let its = pod.uid().is_some_and(|uid| status.active_pods.get(&uid).is_some_and(|on| on == node));
    let target = status.migration_state.as_ref().is_some_and(|migration| {
        let arrived = migration.completed && !migration.failed;
        !arrived && migration.target_pod.as_deref() == Some(&*pod.name_any())
    });
    owned && runs && its && !target
}

fn changed_block_tracking(machine: &VirtualMachine, instance: Option<&VirtualMachineInstance>) -> ChangedBlockTracking {
    let of_machine = || machine.status.as_ref()?.changed_block_tracking.as_ref();
    let of_instance = |instance: &VirtualMachineInstance| instance.status.clone()?.changed_block_tracking;
    let state = match instance {
        Some(instance) => of_instance(instance).map(|tracking| tracking.state),
        None => of_machine().map(|tracking| tracking.state.clone()),
    };
    match state {
        Some(state) if state == tracking::ENABLED => ChangedBlockTracking::Enabled,
        state => ChangedBlockTracking::Not(state.unwrap_or_default()),
    }
}

/// What can be backed up, in the order of the disks.
fn in_order(spec: &VirtualMachineInstanceSpec) -> Vec<(&str, Backing<'_>)> {
    let place = |name: &str| spec.domain.devices.disks.iter().position(|disk| disk.name == name);
    let mut all: Vec<_> = spec.eligible().collect();
    all.sort_by_key(|(name, _)| place(name));
    all
}

fn not_eligible(spec: &VirtualMachineInstanceSpec) -> Vec<(String, String)> {
    let names = spec.domain.devices.disks.iter().map(|disk| &disk.name);
    let other = names.filter(|name| spec.eligible().all(|(eligible, _)| eligible != name.as_str()));
    other
        .map(|name| (format!("disk {name}"), "it is neither a PersistentVolumeClaim nor a DataVolume".into()))
        .collect()
}

/// What KubeVirt keeps of a machine in a claim of its own. Whoever restores a disk that is encrypted with a key of the TPM's
/// has to have another one.
fn beside_the_disks(machine: &DynamicObject) -> Vec<(String, String)> {
    let domain = &machine.data["spec"]["template"]["spec"]["domain"];
    let states = [
        ("the state of its TPM", &domain["devices"]["tpm"]["persistent"]),
        ("the state of its EFI", &domain["firmware"]["bootloader"]["efi"]["persistent"]),
    ];
    let why = "KubeVirt keeps it beside the disks, and a machine that is restored begins with an empty one";
    let kept = states.into_iter().filter(|(_, persistent)| persistent.as_bool() == Some(true));
    kept.map(|(what, _)| (what.to_owned(), why.to_owned())).collect()
}

fn volume_facts(name: &str, claim: &PersistentVolumeClaim) -> Result<VolumeFacts> {
    let unbound = || {
        Error::new(ErrorKind::NotFound, format!("PersistentVolumeClaim {} has no capacity yet", claim.name_any()))
            .advise("It is not bound: see `kubectl describe pvc`.")
    };
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
    let block = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    Ok(VolumeFacts {
        name: name.into(),
        claim: claim.name_any(),
        claim_uid: claim.uid().unwrap_or_default(),
        mode: if block { VolumeMode::Block } else { VolumeMode::Filesystem },
        capacity: capacity.and_then(bytes).ok_or_else(unbound)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, phase: &str, migration: Option<&str>) -> Pod {
        let mut pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": name, "uid": name,
                "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "web", "uid": "vmi"}],
            },
            "status": {"phase": phase},
        }))
        .unwrap();
        pod.labels_mut().extend(migration.map(|uid| ("kubevirt.io/migrationJobUID".into(), uid.into())));
        pod
    }

    fn status(pods: &[(&str, &str)], migration: &serde_json::Value) -> VirtualMachineInstanceStatus {
        let pods: serde_json::Map<_, _> = pods.iter().map(|(pod, node)| ((*pod).into(), (*node).into())).collect();
        serde_json::from_value(serde_json::json!({"activePods": pods, "migrationState": migration})).unwrap()
    }

    #[test]
    fn what_a_machine_has_beside_its_disks_is_told_of_where_it_outlives_a_start() {
        let of = |devices: serde_json::Value, firmware: serde_json::Value| {
            let spec =
                serde_json::json!({"template": {"spec": {"domain": {"devices": devices, "firmware": firmware}}}});
            let machine: DynamicObject = serde_json::from_value(serde_json::json!({
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web"}, "spec": spec,
            }))
            .unwrap();
            beside_the_disks(&machine).into_iter().map(|(what, _)| what).collect::<Vec<_>>()
        };
        let tpm = |persistent: bool| serde_json::json!({"tpm": {"persistent": persistent}});
        let efi = |persistent: bool| serde_json::json!({"bootloader": {"efi": {"persistent": persistent}}});
        assert_eq!(of(tpm(true), efi(true)), ["the state of its TPM", "the state of its EFI"]);
        assert_eq!(of(tpm(true), serde_json::Value::Null), ["the state of its TPM"]);
        assert_eq!(of(tpm(false), efi(false)), [""; 0]);
        assert_eq!(of(serde_json::json!({"tpm": {}}), serde_json::json!({"bootloader": {"efi": {}}})), [""; 0]);
    }

    #[test]
    fn what_a_machine_has_moved_to_is_its_launcher_and_what_it_moves_to_is_not() {
        // As KubeVirt 1.9 leaves it: all pods are "active", also those that have ended.
        let pods = [("old", "a"), ("failed", "b"), ("new", "b")];
        let new = pod("new", "Running", Some("second"));
        let is = |pod: &Pod, migration, node| is_its_launcher(pod, "vmi", &status(&pods, &migration), node);
        let done = serde_json::json!({"targetPod": "new", "completed": true});
        assert!(is(&new, done.clone(), "b"));
        assert!(!is(&pod("failed", "Failed", Some("first")), done.clone(), "b"));
        assert!(!is(&pod("old", "Succeeded", None), done.clone(), "a"));
        assert!(!is(&new, done.clone(), "a"), "another node's");
        assert!(!is(&pod("planted", "Running", None), done, "b"), "KubeVirt knows nothing of it");

        let goes_on = serde_json::json!({"targetPod": "new"});
        assert!(!is(&new, goes_on.clone(), "b"));
        assert!(is(&pod("old", "Running", None), goes_on, "a"));
        let failed = serde_json::json!({"targetPod": "new", "completed": true, "failed": true});
        assert!(!is(&new, failed, "b"));
        // On its way to a third node, or back again from there.
        for completed in [false, true] {
            let away = serde_json::json!({"targetPod": "third", "completed": completed, "failed": completed});
            assert!(is(&new, away, "b"));
        }
    }
}
