//! A machine, made of what a point says of one: a pure function.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::conditions::Says;
use crate::controller::worker::Placement;
use crate::kubevirt::RUN_LABEL;
use crate::resources::VirtualMachineTarget;

/// What KubeVirt and `kubectl` have written on the original, and would mislead of a copy.
const NOT_OURS: &[&str] = &["kubevirt.io/", "kubectl.kubernetes.io/"];

/// The name and the UID that the original has, or had; none where the point says nothing of a machine of KubeVirt.
pub(super) fn original(definition: &str) -> Option<String> {
    let definition: Value = serde_json::from_str(definition).ok()?;
    definition["virtualMachine"]["metadata"]["name"].as_str().map(ToOwned::to_owned)
}

/// Where the original may run, and so the machine that is made of it.
pub(super) fn placement(definition: &str) -> Placement {
    let definition: Value = serde_json::from_str(definition).unwrap_or_default();
    Placement::of(&definition["virtualMachine"]["spec"]["template"]["spec"])
}

/// The machine, of disks that are now in claims: by the volume's name.
pub(super) fn machine(
    definition: &str,
    to: &VirtualMachineTarget,
    claims: &BTreeMap<String, String>,
    run: &str,
) -> Result<Value, Says> {
    let definition: Value = serde_json::from_str(definition).unwrap_or_default();
    let kept = &definition["virtualMachine"];
    let whole = |spec: &Map<String, Value>| spec.get("template").is_some_and(|template| template["spec"].is_object());
    let Some(mut spec) = kept["spec"].as_object().cloned().filter(whole) else {
        let message = "The point says nothing of a machine of KubeVirt: it was made elsewhere. Restore its disks to claims, \
                       and make a machine of them.";
        return Err(Says::no("NoDefinition", message));
    };
    let was = spec.remove("runStrategy");
    spec.remove("running");
    spec.insert("runStrategy".into(), json!(strategy(to.start, was.as_ref().and_then(Value::as_str))));
    // They would be imported again, over what was restored.
    spec.remove("dataVolumeTemplates");
    for reference in ["instancetype", "preference"] {
        // The original's own copy of it, which goes with the original.
        if let Some(Value::Object(reference)) = spec.get_mut(reference) {
            reference.remove("revisionName");
        }
    }
    if let Some(template) = spec.get_mut("template").and_then(|template| template.get_mut("spec")) {
        volumes(template, claims)?;
        if !to.keep_identity {
            forget_identity(template);
        }
    }
    let mut labels = strings(&kept["metadata"]["labels"]);
    labels.insert(RUN_LABEL.into(), json!(run));
    let mut annotations = strings(&kept["metadata"]["annotations"]);
    annotations.retain(|key, _| !NOT_OURS.iter().any(|prefix| key.starts_with(prefix)));
    Ok(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": to.name, "labels": labels, "annotations": annotations},
        "spec": spec,
    }))
}

/// As the original was run, if it was.
fn strategy(start: bool, was: Option<&str>) -> &str {
    match was {
        _ if !start => "Halted",
        Some(was) if !matches!(was, "Halted" | "Manual") => was,
        _ => "Always",
    }
}

/// What was a disk of the point is its claim. Anything else that the original wrote to is not this machine's.
fn volumes(template: &mut Value, claims: &BTreeMap<String, String>) -> Result<(), Says> {
    let volumes = template.get_mut("volumes").and_then(Value::as_array_mut);
    for volume in volumes.into_iter().flatten() {
        let name = volume["name"].as_str().unwrap_or_default().to_owned();
        if let Some(claim) = claims.get(&name) {
            *volume = json!({"name": name, "persistentVolumeClaim": {"claimName": claim}});
            continue;
        }
        let shared = ["persistentVolumeClaim", "dataVolume", "hostDisk", "memoryDump"];
        if let Some(kind) = shared.into_iter().find(|kind| volume.get(kind).is_some_and(|source| !source.is_null())) {
            let message = format!(
                "Volume {name} ({kind}) of the machine is not in the point, and the original's cannot be given to another \
                 machine. Restore the disks to claims, and make a machine of them."
            );
            return Err(Says::no("VolumeNotInPoint", message));
        }
    }
    Ok(())
}

fn forget_identity(template: &mut Value) {
    let interfaces = template.pointer_mut("/domain/devices/interfaces").and_then(Value::as_array_mut);
    for interface in interfaces.into_iter().flatten() {
        if let Some(interface) = interface.as_object_mut() {
            interface.remove("macAddress");
        }
    }
    if let Some(Value::Object(firmware)) = template.pointer_mut("/domain/firmware") {
        firmware.remove("uuid");
        firmware.remove("serial");
    }
}

fn strings(of: &Value) -> Map<String, Value> {
    of.as_object().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(spec: &Value) -> String {
        let metadata = json!({
            "name": "web", "namespace": "shop", "uid": "u", "labels": {"changedBlockTracking": "true"},
            "annotations": {"kubevirt.io/latest-observed-api-version": "v1", "owner": "ada"},
        });
        json!({"virtualMachine": {"metadata": metadata, "spec": spec}, "persistentVolumeClaims": []}).to_string()
    }

    fn spec() -> Value {
        json!({
            "runStrategy": "RerunOnFailure",
            "instancetype": {"name": "small", "revisionName": "web-small-1"},
            "dataVolumeTemplates": [{"metadata": {"name": "web-data"}}],
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "domain": {
                    "firmware": {"uuid": "u-1", "serial": "s-1", "bootloader": {"efi": {}}},
                    "devices": {
                        "disks": [{"name": "root", "serial": "kept"}],
                        "interfaces": [{"name": "default", "macAddress": "02:00:00:00:00:01", "bridge": {}}],
                    },
                },
                "volumes": [
                    {"name": "root", "persistentVolumeClaim": {"claimName": "web-root", "hotpluggable": true}},
                    {"name": "data", "dataVolume": {"name": "web-data"}},
                    {"name": "cloud", "cloudInitNoCloud": {"secretRef": {"name": "s"}}},
                ],
            }},
        })
    }

    fn make(spec: &Value, start: bool, keep_identity: bool) -> Result<Value, Says> {
        let to = VirtualMachineTarget { name: "copy".into(), keep_identity, start, storage_class_name: String::new() };
        let claims = ["root", "data"].map(|disk| (disk.to_owned(), format!("copy-{disk}"))).into();
        machine(&definition(spec), &to, &claims, "run-uid")
    }

    #[test]
    fn a_copy_has_its_own_name_claims_and_identity_and_is_halted() {
        let copy = make(&spec(), false, false).unwrap();
        let metadata = json!({
            "name": "copy", "annotations": {"owner": "ada"},
            "labels": {"changedBlockTracking": "true", "remora.dev/run": "run-uid"},
        });
        assert_eq!(copy["metadata"], metadata);
        assert_eq!(
            (&copy["spec"]["runStrategy"], &copy["spec"]["dataVolumeTemplates"]),
            (&json!("Halted"), &Value::Null)
        );
        assert_eq!(copy["spec"]["instancetype"], json!({"name": "small"}));
        let template = &copy["spec"]["template"]["spec"];
        let claim = |name: &str| json!({"name": name, "persistentVolumeClaim": {"claimName": format!("copy-{name}")}});
        let cloud = &spec()["template"]["spec"]["volumes"][2];
        assert_eq!(template["volumes"], json!([claim("root"), claim("data"), cloud]));
        assert_eq!(template["domain"]["firmware"], json!({"bootloader": {"efi": {}}}));
        let devices = &template["domain"]["devices"];
        assert_eq!(devices["interfaces"], json!([{"name": "default", "bridge": {}}]));
        assert_eq!(devices["disks"], json!([{"name": "root", "serial": "kept"}]));
    }

    #[test]
    fn one_that_keeps_its_identity_has_it_all() {
        let copy = make(&spec(), false, true).unwrap();
        let domain = &copy["spec"]["template"]["spec"]["domain"];
        assert_eq!(domain, &spec()["template"]["spec"]["domain"]);
    }

    #[test]
    fn one_that_is_started_runs_as_the_original_did() {
        for (was, wanted) in [
            (json!({"runStrategy": "RerunOnFailure"}), "RerunOnFailure"),
            (json!({"runStrategy": "Halted"}), "Always"),
            (json!({"runStrategy": "Manual"}), "Always"),
            (json!({"runStrategy": null, "running": true}), "Always"),
            (json!({"runStrategy": null, "running": false}), "Always"),
        ] {
            let mut spec = spec();
            spec.as_object_mut().unwrap().extend(was.as_object().unwrap().clone());
            let copy = make(&spec, true, false).unwrap();
            assert_eq!(
                (&copy["spec"]["runStrategy"], &copy["spec"]["running"]),
                (&json!(wanted), &Value::Null),
                "{was}"
            );
        }
    }

    #[test]
    fn what_cannot_be_copied_is_said() {
        let reason = |made: Result<Value, Says>| made.unwrap_err().reason.into_owned();
        for volume in [
            json!({"name": "more", "persistentVolumeClaim": {"claimName": "theirs"}}),
            json!({"name": "more", "dataVolume": {"name": "theirs"}}),
            json!({"name": "more", "hostDisk": {"path": "/disk"}}),
        ] {
            let mut spec = spec();
            spec["template"]["spec"]["volumes"].as_array_mut().unwrap().push(volume);
            assert_eq!(reason(make(&spec, false, false)), "VolumeNotInPoint");
        }
        let to = VirtualMachineTarget {
            name: "copy".into(),
            keep_identity: false,
            start: false,
            storage_class_name: String::new(),
        };
        for text in ["<domain/>", "", "{}", r#"{"virtualMachine": {"spec": {"template": "x"}}}"#] {
            assert_eq!(reason(machine(text, &to, &BTreeMap::new(), "u")), "NoDefinition", "{text}");
        }
        assert_eq!(original(&definition(&spec())), Some("web".into()));
        assert_eq!(original("<domain/>"), None);
    }
}
