//! Where the node's pods and processes are to be found, and how long things may take.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::disk::ANSWER;
use crate::process::PROC;

/// The kubelet's folder of pods unless told otherwise.
const PODS: &str = "/var/lib/kubelet/pods";

/// How long KubeVirt may take to start a job once it has the backup: it attaches the scratch PVC through a pod of its
/// own first.
const START: Duration = Duration::from_mins(3);

/// Where the node's pods and processes are to be found, and how long things may take.
#[derive(Clone, Debug)]
pub struct KubevirtOptions {
    /// The kubelet's folder of pods as this process sees it; mounts that come later must show up in it (mount propagation
    /// `HostToContainer`), for the scratch PVC is one.
    pub pods: PathBuf,
    /// A procfs of the host's process namespace.
    pub proc: PathBuf,
    /// How long KubeVirt may take to start a job.
    pub start_within: Duration,
    /// How long the launcher's QEMU may take for one answer.
    pub answer_within: Duration,
    /// The command that runs [`crate::kubevirt::retire_main`], such as `/proc/self/exe retire`; an argument is added.
    pub retirer: Vec<OsString>,
}

impl KubevirtOptions {
    /// The usual places and times, with `retirer` as the command that removes old checkpoints.
    pub fn new(retirer: Vec<OsString>) -> Self {
        Self { pods: PODS.into(), proc: PROC.into(), start_within: START, answer_within: ANSWER, retirer }
    }
}
