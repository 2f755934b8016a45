//! Why the scratch of a backup is not attached on the machine's node: what KubeVirt, its claim and the pod that is to attach
//! it say of it. No right is needed for that beyond those that a run uses anyway.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::ListParams;
use remora_core::Result;
use remora_source::kubevirt::Unattached;

use super::RunCluster;
use crate::kubevirt::{VirtualMachineBackup, VirtualMachineInstance, VolumeStatus};

/// What the scheduler says of a node that a bound claim's volume cannot be on, as Kubernetes 1.34 has it and as earlier ones.
const ELSEWHERE: [&str; 2] = ["didn't match PersistentVolume's node affinity", "had volume node affinity conflict"];

impl RunCluster {
    pub(super) async fn unattached(&self, backup: &str) -> Result<Option<Unattached>> {
        let (Some(backup), Some(instance)) = (self.backup(backup).await?, self.instance().await?) else {
            return Ok(None);
        };
        let Some((claim, volume)) = attaching(&backup, &instance) else { return Ok(None) };
        let claims = self.api::<PersistentVolumeClaim>();
        let of_claim = self.ask("the scratch's PersistentVolumeClaim", || claims.get_opt(claim)).await?;
        let pod = match volume.hotplug_volume.as_ref().and_then(|by| by.attach_pod_name.as_deref()) {
            Some(name) => self.pod(name).await?,
            None => None,
        };
        let words = words(claim, of_claim.as_ref(), volume, pod.as_ref());
        let never = pod.as_ref().and_then(unscheduled).is_some_and(is_elsewhere);
        Ok(Some(if never { Unattached::ForGood(words) } else { Unattached::SoFar(words) }))
    }

    async fn pod(&self, name: &str) -> Result<Option<Pod>> {
        let (api, of_that_name) = (self.api::<Pod>(), ListParams::default().fields(&format!("metadata.name={name}")));
        let listed = self.ask("the pod that attaches the scratch", || api.list(&of_that_name)).await?;
        Ok(listed.items.into_iter().next())
    }
}

/// The claim that is the backup's scratch and how far it is, while it is on its way.
fn attaching<'a>(
    backup: &'a VirtualMachineBackup,
    instance: &'a VirtualMachineInstance,
) -> Option<(&'a str, &'a VolumeStatus)> {
    let claim = backup.spec.pvc_name.as_deref()?;
    let volume = instance.spec.utility_volumes.iter().find(|volume| volume.claim_name == claim)?;
    let status = instance.status.as_ref()?.volume_status.iter().find(|status| status.name == volume.name)?;
    (!status.is_attached()).then_some((claim, status))
}

/// What is in the way, as far as it is told. What the scheduler says comes first, for it is the cause of the rest.
fn words(name: &str, claim: Option<&PersistentVolumeClaim>, volume: &VolumeStatus, pod: Option<&Pod>) -> String {
    let class = claim.and_then(|claim| claim.spec.as_ref()?.storage_class_name.as_deref());
    let class = class.map_or_else(String::new, |class| format!(" of StorageClass {class}"));
    let phase = claim.and_then(|claim| claim.status.as_ref()?.phase.as_deref()).unwrap_or("not there");
    let by = match pod {
        Some(pod) => of_pod(pod),
        None => volume.message.clone().unwrap_or_else(|| "KubeVirt has made no pod that attaches it".into()),
    };
    format!("PersistentVolumeClaim {name}{class} is {phase}; {}", by.trim_end_matches('.'))
}

fn of_pod(pod: &Pod) -> String {
    let name = pod.name_any();
    if let Some(why) = unscheduled(pod) {
        return format!("pod {name}, which attaches it there, cannot be scheduled: {why}");
    }
    let status = pod.status.clone().unwrap_or_default();
    let state = status.container_statuses.as_ref().and_then(|all| all.first()?.state.as_ref());
    let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
    let phase = status.phase.as_deref().unwrap_or("Pending");
    // Why a volume is not mounted is in the pod's events alone, which are not ours to read.
    let more = if phase == "Pending" { format!(" (`kubectl describe pod {name}` tells why)") } else { String::new() };
    format!("pod {name}, which attaches it there, is {}{more}", waiting.unwrap_or(phase))
}

/// Why the scheduler has no node for a pod.
fn unscheduled(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False")?.message.as_deref()
}

/// Whether a pod that may be on one node only will never be there, by the scheduler's words. It says of each node the first
/// thing that speaks against it, and of all others that the pod is not for them: so this is said of that one node.
fn is_elsewhere(unscheduled: &str) -> bool {
    ELSEWHERE.iter().any(|words| unscheduled.contains(words))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of<T: serde::de::DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).unwrap()
    }

    fn backup() -> VirtualMachineBackup {
        of(json!({
            "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackup", "metadata": {"name": "b"},
            "spec": {"pvcName": "scratch"},
        }))
    }

    /// With the scratch attached so far.
    fn instance(volumes: &Value, status: &Value) -> VirtualMachineInstance {
        of(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "web"},
            "spec": {"utilityVolumes": volumes}, "status": {"volumeStatus": status},
        }))
    }

    #[test]
    fn a_scratch_is_on_its_way_from_when_kubevirt_attaches_it_until_it_is_in_the_pod() {
        let volumes = json!([{"name": "other", "claimName": "disk"}, {"name": "b-volume", "claimName": "scratch"}]);
        for (phase, wanted) in
            [("Pending", true), ("Bound", true), ("AttachedToNode", true), ("MountedToPod", false), ("Ready", false)]
        {
            let status = json!([{"name": "other", "phase": "Pending"}, {"name": "b-volume", "phase": phase}]);
            let instance = instance(&volumes, &status);
            let backup = backup();
            let found = attaching(&backup, &instance).map(|(claim, volume)| (claim, volume.phase.as_deref()));
            assert_eq!(found, wanted.then_some(("scratch", Some(phase))));
        }
        // Nobody knows yet.
        assert_eq!(attaching(&backup(), &instance(&json!([]), &json!([]))), None);
        assert_eq!(attaching(&backup(), &instance(&volumes, &json!([]))), None);
    }

    #[test]
    fn who_is_in_the_way_is_told() {
        let claim = |phase: &str| -> PersistentVolumeClaim {
            of(json!({"spec": {"storageClassName": "thin"}, "status": {"phase": phase}}))
        };
        let pod = |status: Value| -> Pod { of(json!({"metadata": {"name": "hp"}, "status": status})) };
        let message = |text: &str| -> VolumeStatus { of(json!({"name": "b-volume", "message": text})) };
        let unscheduled = pod(json!({
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node has it."}],
        }));
        let made = message("Created hotplug attachment pod hp");
        assert_eq!(
            words("scratch", Some(&claim("Bound")), &made, Some(&unscheduled)),
            "PersistentVolumeClaim scratch of StorageClass thin is Bound; pod hp, which attaches it there, cannot be \
             scheduled: no node has it"
        );
        let starting = pod(json!({
            "phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ContainerCreating"}}}],
        }));
        let creating = words("scratch", Some(&claim("Bound")), &made, Some(&starting));
        assert!(creating.ends_with("is ContainerCreating (`kubectl describe pod hp` tells why)"), "{creating}");
        let waits = words("scratch", Some(&claim("Pending")), &message("PVC is in phase ClaimPending"), None);
        assert_eq!(
            waits,
            "PersistentVolumeClaim scratch of StorageClass thin is Pending; PVC is in phase ClaimPending"
        );
        assert!(
            words("scratch", None, &VolumeStatus::default(), None).contains("is not there; KubeVirt has made no pod")
        );
    }

    #[test]
    fn the_scheduler_s_words_tell_a_volume_of_another_node_from_what_may_pass() {
        for (message, for_good) in [
            (
                "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't match \
                 PersistentVolume's node affinity. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
                true,
            ),
            ("0/1 nodes are available: 1 node(s) had volume node affinity conflict.", true),
            ("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.", false),
            ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", false),
            ("0/1 nodes are available: 1 Insufficient memory.", false),
        ] {
            assert_eq!(is_elsewhere(message), for_good, "{message}");
        }
    }
}
