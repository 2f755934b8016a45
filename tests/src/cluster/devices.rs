//! Volumes in block mode: loop devices over files in the first node's folder. Whoever ends the node frees them.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::process::{Must, run};

use super::Cluster;

impl Cluster {
    /// Gives the first node a device that holds zeros, and makes a volume of it and the storage class of that volume,
    /// if that is not there. Such a volume waits for a claim that a pod has. Gives the device's path, which is the same
    /// on this host.
    #[track_caller]
    pub fn make_device(&self, class: &str, size: u64) -> PathBuf {
        self.make_volume(class, size).1
    }

    /// Makes a claim in block mode that has a device of its own. Its storage class is called as the namespace.
    #[track_caller]
    pub(super) fn make_device_claim(&self, namespace: &str, name: &str, size: u64) {
        let (volume, _) = self.make_volume(namespace, size);
        let spec = json!({
            "storageClassName": namespace, "volumeMode": "Block", "volumeName": volume, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size.to_string()}},
        });
        self.apply_claim(namespace, name, &spec);
    }

    /// The volume's name, and the device.
    #[track_caller]
    fn make_volume(&self, class: &str, size: u64) -> (String, PathBuf) {
        let name = format!("{class}-{:016x}", fastrand::u64(..));
        let file = self.folder().join("devices").join(&name);
        File::create(&file).and_then(|made| made.set_len(size)).must(format_args!("make {}", file.display()));
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&file)).ok().text().to_owned();
        self.apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
        }));
        let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [self.node_name()]});
        self.apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {
                "storageClassName": class, "volumeMode": "Block", "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": size.to_string()}, "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": device},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        }));
        (name, device.into())
    }
}
