//! The objects that the controller makes for a run.

use std::collections::BTreeMap;

use base64ct::{Base64UrlUnpadded, Encoding};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Secret, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::api::ObjectMeta;
use remora_core::RepositoryId;

use super::observed::{Orphan, Thing};
use crate::kubevirt::{
    RUN_LABEL, Source, VirtualMachineBackup, VirtualMachineBackupSpec, VirtualMachineBackupTracker,
    VirtualMachineBackupTrackerSpec, scratch_name, token_name, tracker_name,
};
use crate::resources::{Attempt, BackupRun};

/// How much longer than the run a backup may be there: it fails when its time is over, and that cannot be changed later.
const MARGIN: i64 = 30 * 60;

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    Tracker(Box<VirtualMachineBackupTracker>),
    Scratch(Box<PersistentVolumeClaim>),
    Token(Box<Secret>),
    Backup(Box<VirtualMachineBackup>),
}

impl Wanted {
    /// The tracker of the run's machine in a repository. The machine owns it: the checkpoints that it tells of go with
    /// that, and stay when runs go.
    pub(super) fn tracker(run: &BackupRun, machine: &str, repository: RepositoryId) -> Self {
        let name = &run.spec.virtual_machine;
        let owner = owner("kubevirt.io/v1", "VirtualMachine", name, machine);
        Self::Tracker(Box::new(tracker_of(run, &tracker_name(name, repository), owner)))
    }

    /// The scratch volume: as large as all disks, and what its filesystem and QEMU's tables take beside them.
    pub(super) fn scratch(run: &BackupRun, disks: u64, class: Option<String>) -> Self {
        let requests = BTreeMap::from([("storage".to_owned(), Quantity(with_overhead(disks).to_string()))]);
        let spec = PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            volume_mode: Some("Filesystem".into()),
            storage_class_name: class,
            resources: Some(VolumeResourceRequirements { requests: Some(requests), ..Default::default() }),
            ..PersistentVolumeClaimSpec::default()
        };
        let metadata = metadata(run, scratch_name(&run.spec.virtual_machine));
        Self::Scratch(Box::new(PersistentVolumeClaim { metadata, spec: Some(spec), ..Default::default() }))
    }

    /// The Secret of the token of KubeVirt's exporter; [`with_token`] puts one in.
    pub(super) fn token(run: &BackupRun) -> Self {
        let metadata = metadata(run, token_name(&run.spec.virtual_machine));
        Self::Token(Box::new(Secret { metadata, immutable: Some(true), ..Secret::default() }))
    }

    /// The backup. `left` are the seconds until the run's deadline.
    pub(super) fn backup(run: &BackupRun, attempt: &Attempt, repository: RepositoryId, left: i64) -> Self {
        let spec = VirtualMachineBackupSpec {
            source: Source::tracker(&tracker_name(&run.spec.virtual_machine, repository)),
            mode: Some("Pull".into()),
            pvc_name: Some(scratch_name(&run.spec.virtual_machine)),
            token_secret_ref: Some(token_name(&run.spec.virtual_machine)),
            ttl_duration: Some(format!("{}s", left.saturating_add(MARGIN))),
            force_full_backup: Some(attempt.force_full),
            skip_quiesce: Some(attempt.skip_quiesce),
        };
        let mut backup = VirtualMachineBackup::new(&attempt.backup, spec);
        backup.metadata = metadata(run, attempt.backup.clone());
        Self::Backup(Box::new(backup))
    }
}

/// A tracker for a backup that is being deleted and has none any more. It goes with the backup.
pub(super) fn last_tracker(run: &BackupRun, orphan: &Orphan) -> VirtualMachineBackupTracker {
    let Thing { name, uid, .. } = &orphan.backup;
    tracker_of(run, &orphan.tracker, owner("backup.kubevirt.io/v1alpha1", "VirtualMachineBackup", name, uid))
}

fn tracker_of(run: &BackupRun, tracker: &str, owner: OwnerReference) -> VirtualMachineBackupTracker {
    let spec = VirtualMachineBackupTrackerSpec { source: Source::machine(&run.spec.virtual_machine) };
    let mut tracker = VirtualMachineBackupTracker::new(tracker, spec);
    tracker.metadata.namespace.clone_from(&run.metadata.namespace);
    tracker.metadata.owner_references = Some(vec![owner]);
    tracker.metadata.labels = Some(managed());
    tracker
}

/// The Secret with a random token. remora does not ask the exporter: so nobody has to know it.
pub(super) fn with_token(mut secret: Secret) -> Secret {
    let mut random = [0; 24];
    getrandom::fill(&mut random).expect("the operating system has random bytes");
    let token = Base64UrlUnpadded::encode_string(&random);
    secret.string_data = Some(BTreeMap::from([("token".to_owned(), token)]));
    secret
}

/// A tenth more for the filesystem, whose tables and reserve take a part of it, and for QEMU's own tables; in whole MiB.
pub(super) fn with_overhead(disks: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    let more = disks.saturating_add(disks / 10).saturating_add(64 * MIB);
    more.div_ceil(MIB).saturating_mul(MIB)
}

fn metadata(run: &BackupRun, name: String) -> ObjectMeta {
    let mut labels = managed();
    labels.insert(RUN_LABEL.into(), run.metadata.uid.clone().unwrap_or_default());
    ObjectMeta {
        name: Some(name),
        namespace: run.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: run.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version.into(),
        kind: kind.into(),
        name: name.into(),
        uid: uid.into(),
        ..OwnerReference::default()
    }
}

pub(super) fn managed() -> BTreeMap<String, String> {
    BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "remora".to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_is_never_smaller_than_the_disks() {
        for disks in [0, 1, 1 << 20, 10 << 30, u64::MAX / 2] {
            let size = with_overhead(disks);
            assert!(size > disks && size.is_multiple_of(1 << 20), "{disks}: {size}");
        }
    }
}
