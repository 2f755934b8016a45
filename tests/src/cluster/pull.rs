//! A backup by KubeVirt that a client reads: `VirtualMachineBackup` in its Pull mode.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Must, run, wait_until};

use super::Vm;

/// How long a backup may take to start or to end on a busy machine.
const LIMIT: Duration = Duration::from_mins(10);

/// The name of its socket in the launcher's folder.
const SOCKET: &str = "backup-nbd-sock";

/// A backup that can be read.
pub struct Pull<'vm> {
    vm: &'vm Vm<'vm>,
    name: String,
    sockets: PathBuf,
}

impl<'vm> Pull<'vm> {
    /// Makes a tracker of a machine, by which later backups have the changes since the one before.
    #[track_caller]
    pub fn make_tracker(vm: &Vm, name: &str) {
        vm.cluster().apply(&json!({
            "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackupTracker",
            "metadata": {"name": name, "namespace": vm.namespace()},
            "spec": {"source": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": vm.name()}},
        }));
    }

    /// Starts a backup by a tracker, with scratch space of `scratch` bytes, and waits until its socket is there.
    #[track_caller]
    pub fn start(vm: &'vm Vm<'vm>, tracker: &str, name: &str, scratch: u64) -> Self {
        let namespace = vm.namespace();
        let cluster = vm.cluster();
        cluster.make_claim(namespace, &format!("{tracker}-scratch"), scratch);
        cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": tracker, "namespace": namespace},
            "stringData": {"token": "a token for the exporter"},
        }));
        cluster.apply(&Self::object(namespace, tracker, name));
        let sockets = vm.launcher().empty_dir("sockets");
        wait_until(format_args!("the backup {name} has no socket"), LIMIT, || sockets.join(SOCKET).exists());
        Self { vm, name: name.to_owned(), sockets }
    }

    /// The object that asks for a backup.
    pub fn object(namespace: &str, tracker: &str, name: &str) -> Value {
        json!({
            "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackup",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "source": {"apiGroup": "backup.kubevirt.io", "kind": "VirtualMachineBackupTracker", "name": tracker},
                "mode": "Pull", "pvcName": format!("{tracker}-scratch"), "tokenSecretRef": tracker,
            },
        })
    }

    /// The object, as it is now.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.vm.cluster().get("vmbackup", self.vm.namespace(), &self.name)["status"].clone()
    }

    /// Waits until its status is as wanted.
    #[track_caller]
    pub fn wait_for(&self, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let ready = |backup: Option<&Value>| backup.is_some_and(|backup| ready(&backup["status"]));
        let backup = self.vm.cluster().wait_for("vmbackup", self.vm.namespace(), &self.name, what, LIMIT, ready);
        backup.map(|mut backup| backup["status"].take()).must("have a backup")
    }

    /// Whether its socket is there.
    pub fn has_socket(&self) -> bool {
        self.sockets.join(SOCKET).exists()
    }

    /// Copies what a disk held when it started to a file.
    #[track_caller]
    pub fn copy(&self, disk: &str, into: &Path) {
        run(self.client("nbdcopy").arg(uri(disk)).arg(into)).ok();
    }

    /// The parts of a disk, offset and length, that have changed since the backup before.
    #[track_caller]
    pub fn changed(&self, disk: &str) -> Vec<(u64, u64)> {
        // Its socket may be there first.
        let status = self.wait_for("it names no checkpoint", |status| status["checkpointName"].is_string());
        let checkpoint = status["checkpointName"].as_str().must("find the checkpoint of a backup").to_owned();
        let mut map = self.client("nbdinfo");
        map.args(["--json", &format!("--map=qemu:dirty-bitmap:{checkpoint}"), &uri(disk)]);
        let extents = run(&mut map).ok().json();
        let extents = extents.as_array().must("read a map");
        let number = |extent: &Value, field: &str| extent[field].as_u64().must("read a map");
        let dirty = extents.iter().filter(|extent| number(extent, "type") & 1 == 1);
        dirty.map(|extent| (number(extent, "offset"), number(extent, "length"))).collect()
    }

    /// Ends it, and waits until it is gone.
    #[track_caller]
    pub fn end(self) {
        let (cluster, namespace) = (self.vm.cluster(), self.vm.namespace());
        cluster.delete("vmbackup", namespace, &self.name);
        cluster.wait_gone("vmbackup", namespace, &self.name, LIMIT);
    }

    /// A command in the folder of its socket, whose whole path is too long for a socket's address.
    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.sockets);
        command
    }
}

fn uri(disk: &str) -> String {
    format!("nbd+unix:///{disk}?socket={SOCKET}")
}
