//! From what the cluster tells of a VM to what the planning needs. Pure.

use std::collections::BTreeSet;

use remora_core::point::DiskIdentity;
use remora_core::ports::{Bitmaps, DiskSize, DiskState, VmState};
use remora_core::{CheckpointName, DiskName, Error, ErrorKind, Result};

use super::cluster::{ChangedBlockTracking, InstanceFacts, LatestCheckpoint, VmFacts, VolumeFacts, VolumeMode};

/// No disk of a VM is larger, in bytes: whoever says so wants us to read for ever.
const LARGEST_DISK: u64 = 64 << 40;

/// The VM as the planning sees it, while it runs.
pub(super) fn state(facts: &VmFacts) -> VmState {
    state_with(facts, &bitmaps(facts))
}

/// The same, of a VM that is halted: no QEMU is there that could tell what has changed.
pub(super) fn halted_state(facts: &VmFacts) -> VmState {
    state_with(facts, &Bitmaps::Unable("the VM is halted".into()))
}

fn state_with(facts: &VmFacts, bitmaps: &Bitmaps) -> VmState {
    let left_out = |what: &str, why: &str| format!("{what} is not backed up: {why}");
    let mut out: Vec<_> = facts.left_out.iter().map(|(what, why)| left_out(what, why)).collect();
    let mut disks = Vec::new();
    for volume in &facts.volumes {
        match DiskName::new(&volume.name) {
            Ok(name) => disks.push(DiskState {
                name,
                size: DiskSize::About(volume.capacity),
                identity: identity(facts, volume),
                bitmaps: bitmaps.clone(),
            }),
            Err(error) => out.push(left_out(&format!("disk {}", volume.name), &error.to_string())),
        }
    }
    VmState { vm: facts.vm.clone(), definition: facts.definition.clone(), disks, left_out: out }
}

/// Every disk lies in the raw image of a PVC below an overlay that alone knows what changed: whoever writes to the PVC
/// while no QEMU has it is not noticed. With a data file, an increment needs the very process that served its parent.
fn identity(facts: &VmFacts, volume: &VolumeFacts) -> DiskIdentity {
    let namespace = facts.vm.as_str().split('/').next().unwrap_or_default();
    let mode = match volume.mode {
        VolumeMode::Filesystem => "filesystem",
        VolumeMode::Block => "block",
    };
    DiskIdentity {
        vm_uuid: facts.uid.clone(),
        path: format!("{namespace}/{}", volume.claim),
        inode: Some(volume.claim_uid.clone()),
        data_file: Some(format!("{mode} {}", volume.claim_uid)),
    }
}

/// KubeVirt starts an increment from its tracker's latest checkpoint and no other, and of all disks or none.
fn bitmaps(facts: &VmFacts) -> Bitmaps {
    let (mut usable, mut broken) = (BTreeSet::new(), Vec::new());
    if let Some(LatestCheckpoint { name, volumes }) = &facts.latest
        && let Ok(checkpoint) = name.parse::<CheckpointName>()
    {
        match facts.volumes.iter().find(|volume| !volumes.contains(&volume.name)) {
            None => _ = usable.insert(checkpoint),
            Some(later) => broken.push((
                checkpoint,
                format!(
                    "disk {} joined the VM later, and KubeVirt makes increments of all disks or of none",
                    later.name
                ),
            )),
        }
    }
    Bitmaps::Able { usable, broken }
}

/// The volume that a disk is.
pub(super) fn volume<'a>(facts: &'a VmFacts, disk: &DiskName) -> Result<&'a VolumeFacts> {
    facts.volumes.iter().find(|volume| volume.name == disk.as_str()).ok_or_else(|| {
        let known: Vec<_> = facts.volumes.iter().map(|volume| volume.name.as_str()).collect();
        Error::new(ErrorKind::NotFound, format!("there is no disk {disk} to back up"))
            .advise(format!("The VM has these: {}.", known.join(", ")))
    })
}

/// A disk may be larger than its PVC says (a device that was declared by hand), but not beyond all measure.
pub(super) fn check_size(disk: &DiskName, size: u64, capacity: u64) -> Result<()> {
    let most = capacity.saturating_mul(16).saturating_add(1 << 30).min(LARGEST_DISK);
    if (1..=most).contains(&size) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Refused,
        format!("disk {disk} is said to have {size} bytes, but its PVC has {capacity}: that is not believed"),
    ))
}

/// What runs of the VM, if it can be backed up.
pub(super) fn runs(facts: &VmFacts) -> Result<&InstanceFacts> {
    let Some(instance) = &facts.instance else {
        return Err(Error::new(ErrorKind::Unavailable, "it was halted meanwhile, so QEMU cannot serve its disks")
            .advise("Back it up again: a VM that is halted is read through a pod that has its claims."));
    };
    let ChangedBlockTracking::Not(word) = &facts.tracking else { return Ok(instance) };
    let (what, advice) = match word.as_str() {
        "PendingRestart" => ("changed-block tracking begins with its next start", "Restart the VM."),
        "Initializing" => ("changed-block tracking is being set up", "Back up again in a minute."),
        "IncrementalBackupFeatureGateDisabled" => (
            "KubeVirt's feature gate IncrementalBackup is off",
            "Enable the feature gates IncrementalBackup and UtilityVolumes in the KubeVirt resource.",
        ),
        _ => (
            "changed-block tracking is off",
            "Give the VM (or its namespace) a label that the KubeVirt resource's changedBlockTrackingLabelSelectors select, and restart the VM.",
        ),
    };
    Err(Error::new(ErrorKind::Unsupported, what).advise(advice))
}

#[cfg(test)]
mod tests {
    use remora_core::{RepositoryId, VmName};

    use super::*;

    fn facts(latest: Option<&str>, covered: &[&str]) -> VmFacts {
        let volume = |name: &str| VolumeFacts {
            name: name.into(),
            claim: format!("{name}-claim"),
            claim_uid: format!("{name}-uid"),
            mode: VolumeMode::Block,
            capacity: 1 << 30,
        };
        let volumes = covered.iter().map(|name| (*name).to_owned()).collect();
        VmFacts {
            vm: VmName::new("ns/vm").unwrap(),
            uid: "u".into(),
            version: "1".into(),
            instance: Some(InstanceFacts { uid: "i".into(), pod: "p".into() }),
            tracking: ChangedBlockTracking::Enabled,
            volumes: vec![volume("a"), volume("b")],
            left_out: Vec::new(),
            latest: latest.map(|name| LatestCheckpoint { name: name.into(), volumes }),
            definition: "{}".into(),
        }
    }

    #[test]
    fn only_a_checkpoint_of_ours_that_covers_all_disks_is_usable() {
        let backup = CheckpointName::random(RepositoryId::random()).as_backup();
        let ours = format!("{backup}-2026-03-01_00-00-00");
        for (latest, covered, usable, broken) in [
            (None, &["a", "b"][..], 0, 0),
            (Some("somebodys-2026-03-01_00-00-00"), &["a", "b"], 0, 0),
            (Some(&ours), &["a", "b"], 1, 0),
            (Some(&ours), &["a"], 0, 1),
            (Some(&ours), &["a", "b", "gone"], 1, 0),
        ] {
            let Bitmaps::Able { usable: u, broken: b } = bitmaps(&facts(latest, covered)) else { panic!("able") };
            assert_eq!((u.len(), b.len()), (usable, broken), "{latest:?} {covered:?}");
        }
    }

    #[test]
    fn a_disk_is_its_pvc_below_an_overlay() {
        let state = state(&facts(None, &[]));
        let identity = &state.disks[1].identity;
        assert_eq!((identity.path.as_str(), identity.inode.as_deref()), ("ns/b-claim", Some("b-uid")));
        assert_eq!(identity.data_file.as_deref(), Some("block b-uid"));
        assert_eq!(state.disks[1].size, DiskSize::About(1 << 30));
    }
}
