//! The claims that the controller makes for a restore. They stay.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;
use remora_core::point::{Point, PointDisk};
use serde_json::Value;

use crate::controller::objects::{managed, with_overhead};
use crate::kubevirt::{RUN_LABEL, bytes};
use crate::resources::RestoreRun;
use crate::targets::Target;

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
