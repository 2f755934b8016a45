//! What a point keeps of a VM's objects, so that it can be restored as a new one.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};

/// What `kubectl apply` keeps: the object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The machine and its claims, as one JSON text: what people asked for, and nothing of what became of it. Secrets stand in
/// it by their names.
pub(super) fn definition(machine: &DynamicObject, claims: &[PersistentVolumeClaim]) -> String {
    let claims: Vec<_> = claims
        .iter()
        .map(|claim| {
            let (metadata, spec) = (metadata(&claim.metadata), &claim.spec);
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
        })
        .collect();
    let machine = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": metadata(&machine.metadata),
        "spec": machine.data.get("spec"),
    });
    json!({"virtualMachine": machine, "persistentVolumeClaims": claims}).to_string()
}

fn metadata(metadata: &ObjectMeta) -> Value {
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    json!({
        "name": metadata.name,
        "namespace": metadata.namespace,
        "uid": metadata.uid,
        "labels": metadata.labels,
        "annotations": annotations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_asked_for_and_not_what_became_of_it() {
        let machine: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "annotations": {LAST_APPLIED: "{}", "a": "b"},
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": {"running": true, "unknownToUs": {"x": 1}},
            "status": {"printableStatus": "Running"},
        }))
        .unwrap();
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "root", "uid": "p"},
            "spec": {"storageClassName": "fast"},
            "status": {"phase": "Bound"},
        }))
        .unwrap();
        let definition: Value = serde_json::from_str(&definition(&machine, &[claim])).unwrap();
        let kept = &definition["virtualMachine"];
        assert_eq!(kept["spec"], json!({"running": true, "unknownToUs": {"x": 1}}));
        assert_eq!(kept["metadata"]["annotations"], json!({"a": "b"}));
        assert_eq!((&kept["status"], &kept["metadata"]["resourceVersion"]), (&Value::Null, &Value::Null));
        let claim = &definition["persistentVolumeClaims"][0];
        assert_eq!((&claim["spec"]["storageClassName"], &claim["status"]), (&json!("fast"), &Value::Null));
    }
}
