//! Storage classes of one volume each, which is not as it should be.

use serde_json::{Value, json};

use crate::process::run;

use super::Cluster;

/// What such a volume says that it has, whatever that is.
const CLAIMED: &str = "1Gi";

/// A storage class with one volume that was made for it, and that one claim can have. Both go when this is dropped.
pub struct OddClass<'cluster> {
    cluster: &'cluster Cluster,
    name: String,
    /// Where the first node has a file system that is the volume.
    mounted: Option<String>,
}

impl Cluster {
    /// A class whose volume has a file system of its own on the first node, of no more than `room` bytes.
    #[track_caller]
    pub fn small_class(&self, name: &str, room: u64) -> OddClass<'_> {
        let path = folder(name);
        run(self.in_node("mkdir").args(["--parents", &path])).ok();
        let options = format!("size={room},mode=777");
        run(self.in_node("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs", &path])).ok();
        let class = OddClass { cluster: self, name: name.to_owned(), mounted: Some(path) };
        class.make(self.node_name());
        class
    }

    /// A class whose volume is of a node that is not there.
    #[track_caller]
    pub fn class_elsewhere(&self, name: &str) -> OddClass<'_> {
        let class = OddClass { cluster: self, name: name.to_owned(), mounted: None };
        class.make("elsewhere");
        class
    }
}

impl OddClass<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    #[track_caller]
    fn make(&self, node: &str) {
        self.cluster.apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": self.name},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "Immediate",
        }));
        let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
        self.cluster.apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": self.name},
            "spec": {
                "storageClassName": self.name, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": CLAIMED},
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": folder(&self.name)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        }));
        let available = |volume: Option<&Value>| volume.is_some_and(|one| one["status"]["phase"] == "Available");
        self.cluster.wait_for("pv", "", &self.name, "the volume cannot be had", super::READY, available);
    }
}

impl Drop for OddClass<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for kind in ["pv", "storageclass"] {
            self.cluster.try_kubectl(&["delete", kind, &self.name, "--ignore-not-found", "--wait=false"]);
        }
        if let Some(path) = &self.mounted {
            // KubeVirt's copies of the mount go in their own time.
            run(self.cluster.in_node("umount").args(["--lazy", path]));
        }
    }
}

/// Where nodes have the folder of such a volume.
fn folder(name: &str) -> String {
    format!("/var/lib/volumes/{name}")
}
