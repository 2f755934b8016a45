//! The port to Kubernetes: what the source asks of the cluster, in its own words.
//!
//! One value of [`Cluster`] serves one run of one VM, so no call names the VM. A run calls in this order:
//! [`Cluster::look`] → [`Cluster::begin`] → [`Cluster::progress`] until the job runs → [`Cluster::job`] and
//! [`Cluster::latest_checkpoint`] → (the socket is read) → [`Cluster::job`] → [`Cluster::end`]. The middle part may be
//! repeated once under another name, when an increment cannot be had.
//!
//! Errors: `Unavailable` where the API server cannot be reached (the implementation retries as long as it finds fit),
//! `NotFound` where the VM is not there, `Refused` where the cluster says no.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use remora_core::ports::Outcome;
use remora_core::{BackupName, Result, VmName};

/// A run's view of the cluster.
#[async_trait]
pub trait Cluster: fmt::Debug + Send + Sync {
    /// The VM, what runs of it, and what our tracker of it in this repository says. Nothing is changed.
    async fn look(&self) -> Result<VmFacts>;

    /// Asks for a Pull backup through our tracker of this VM. Returns once the wish is stored; [`Cluster::progress`]
    /// tells what becomes of it. Whatever the answer, [`Cluster::end`] is called for every name that was asked for.
    async fn begin(&self, wish: &BackupWish) -> Result<()>;

    /// What has become of a backup. Waits until that differs from `seen`; the caller has the deadline, and may drop
    /// the future at any time. `Cancelled` once the run is to end: nothing else interrupts the wait for a job.
    async fn progress(&self, backup: &BackupName, seen: Option<&BackupProgress>) -> Result<BackupProgress>;

    /// The same, read now and not from a watch. Asks on as long as the API server does not answer; `Cancelled` as above.
    async fn progress_now(&self, backup: &BackupName) -> Result<BackupProgress>;

    /// In what way the scratch PVC of a backup whose job does not run is not attached on the VM's node; none if it is, or if
    /// nothing was done for it yet.
    async fn why_unattached(&self, backup: &BackupName) -> Result<Option<Unattached>>;

    /// The job that the VMI says is running or has run last (`status.changedBlockTracking.backupStatus`), read now and
    /// not from a cache; with the VMI's UID, for another VMI of the same name is another VM to us.
    async fn job(&self) -> Result<JobFacts>;

    /// The name of our tracker's `status.latestCheckpoint`, read now and not from a cache. None if there is no tracker
    /// or no checkpoint in it.
    async fn latest_checkpoint(&self) -> Result<Option<String>>;

    /// Ends a backup in whatever state it is, and waits until its `VirtualMachineBackup` is gone. A backup that was
    /// never asked for, or is gone, is fine. `outcome` is for people to see.
    async fn end(&self, backup: &BackupName, outcome: Outcome) -> Result<()>;
}

/// A VM as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFacts {
    /// `<namespace>/<name>`.
    pub vm: VmName,
    /// The `VirtualMachine`'s UID.
    pub uid: String,
    /// The `VirtualMachine`'s version: another after every change of it, and so after every start.
    pub version: String,
    /// What runs; none if the VM is halted.
    pub instance: Option<InstanceFacts>,
    /// Whether KubeVirt tracks its changes.
    pub tracking: ChangedBlockTracking,
    /// The volumes of its disks that are PVCs or `DataVolumes`, in the VMI's order.
    pub volumes: Vec<VolumeFacts>,
    /// What else the VM has, such as `disk seed`, and why it is not backed up.
    pub left_out: Vec<(String, String)>,
    /// Our tracker's `latestCheckpoint`, for planning; it is read again when the job runs.
    pub latest: Option<LatestCheckpoint>,
    /// What a restore as a new VM needs: the VM's definition and its PVCs' specs as one JSON text. Secrets by name only.
    pub definition: String,
}

/// What runs of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceFacts {
    /// The VMI's UID.
    pub uid: String,
    /// The UID of the virt-launcher pod that runs it on this node (never a migration's target that is not active yet).
    pub pod: String,
}

/// `status.changedBlockTracking.state` of the VMI (or, for a halted VM, of the VM).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedBlockTracking {
    /// Backups can be made.
    Enabled,
    /// Anything else; the word that KubeVirt has for it, empty for none.
    Not(String),
}

/// A volume that is a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Its name in the VMI, which is also its export's.
    pub name: String,
    /// Its PVC's name.
    pub claim: String,
    /// Its PVC's UID.
    pub claim_uid: String,
    /// Its PVC's volume mode.
    pub mode: VolumeMode,
    /// Its PVC's `status.capacity` in bytes: what the disk has at most, and about.
    pub capacity: u64,
}

/// A PVC's volume mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeMode {
    /// A folder that holds `disk.img`.
    Filesystem,
    /// A device.
    Block,
}

/// A tracker's `status.latestCheckpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestCheckpoint {
    /// Its name.
    pub name: String,
    /// The volumes that it covers.
    pub volumes: BTreeSet<String>,
}

/// A backup to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupWish {
    /// The name of the `VirtualMachineBackup`.
    pub backup: BackupName,
    /// `spec.forceFullBackup`.
    pub depth: Depth,
    /// `spec.skipQuiesce`.
    pub freeze: Freeze,
}

/// Whether KubeVirt may make an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// From the tracker's latest checkpoint, if it has one.
    SinceLatest,
    /// A full (`forceFullBackup: true`).
    Full,
}

/// Whether KubeVirt asks the guest to freeze its filesystems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// It tries (`skipQuiesce: false`).
    Try,
    /// It does not (`skipQuiesce: true`).
    Skip,
}

/// What has become of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupProgress {
    /// Its `VirtualMachineBackup` is not made yet. The text says what for: another backup of this VM that has to end
    /// first, the scratch PVC.
    Queued(String),
    /// KubeVirt has it, and its job does not run yet: also when KubeVirt tries in vain to start it. The text says what is
    /// known: the condition's message, the last event.
    Waiting(String),
    /// Its job runs: the backup has a `status.type` (before that the launcher may still fail to start it), and the VMI's
    /// `backupStatus` names it, its checkpoint and its volumes.
    Running(RunningBackup),
    /// It failed, or cannot be made (`Failed` condition, or the controller's `Prepared` = False). For people.
    Failed {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// Its job runs, and KubeVirt has detached its scratch PVC all the same: KubeVirt 1.9 does so when its own picture of the
    /// VMI is a moment older than the job, and then goes on as if nothing had been.
    ScratchDetached,
    /// It ended without our doing: it is completed, being aborted, being deleted, or gone. For people: which.
    Ended(String),
}

/// A backup whose job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningBackup {
    /// The checkpoint that its job made.
    pub checkpoint: String,
    /// What KubeVirt made of the wish (`status.type`).
    pub kind: BackupKind,
    /// The volumes that it shows (VMI's `backupStatus.volumes`).
    pub volumes: BTreeSet<String>,
    /// Whether the guest was frozen.
    pub quiesced: QuiesceFacts,
    /// The entry of the VMI's `spec.utilityVolumes` that is the scratch PVC: a folder of that name in the launcher's
    /// `hotplug-disks`.
    pub scratch: Option<String>,
}

/// Why a scratch PVC is not attached on the VM's node, in sentences without their last full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unattached {
    /// It may be yet.
    SoFar(String),
    /// It never will be: its volume cannot be had on that node.
    ForGood(String),
}

/// `status.type` of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupKind {
    /// `Full`.
    Full,
    /// `Incremental`.
    Incremental,
}

/// What became of freezing the guest: the backup's condition `Quiesced`, or the VMI's `backupStatus.quiesceStatus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuiesceFacts {
    /// It was frozen.
    Succeeded,
    /// It was not asked.
    Skipped,
    /// It was asked and not frozen; why.
    Failed(String),
    /// Nobody says. Counts as failed.
    Unknown,
}

/// What a VMI says of its backup job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFacts {
    /// The VMI's UID; none if there is no VMI.
    pub instance: Option<String>,
    /// `backupStatus.backupName`; none without a `backupStatus`.
    pub backup: Option<String>,
    /// `backupStatus.checkpointName`.
    pub checkpoint: Option<String>,
    /// Whether `backupStatus` says that it ended: completed or failed, with its message.
    pub ended: Option<String>,
}
