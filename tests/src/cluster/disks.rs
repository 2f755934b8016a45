//! Disks of a virtual machine that come, go and grow while it runs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Must, run, wait_until};

use super::Vm;
use super::vm::QEMU;

/// How long KubeVirt may take for one of these on a busy machine.
const LIMIT: Duration = Duration::from_mins(15);

impl Vm<'_> {
    /// Gives it another disk, which holds whatever, and waits until it has it.
    #[track_caller]
    pub fn plug(&self, disk: &str, size: u64) {
        self.make_image(disk, size);
        self.plug_in(disk);
    }

    /// Gives it a disk back that was taken away, as it is by now, and waits until it has it.
    #[track_caller]
    pub fn plug_in(&self, disk: &str) {
        self.patch(&json!([
            {"op": "add", "path": "/spec/template/spec/volumes/-", "value": {
                "name": disk, "persistentVolumeClaim": {"claimName": self.claim(disk), "hotpluggable": true},
            }},
            {"op": "add", "path": "/spec/template/spec/domain/devices/disks/-", "value": {
                "name": disk, "disk": {"bus": "scsi"},
            }},
        ]));
        self.wait_for_volume("the disk is not plugged in", disk, |volume| {
            volume.is_some_and(|volume| volume["phase"] == "Ready")
        });
    }

    /// Takes the disk away that it was given last, and waits until it is gone.
    #[track_caller]
    pub fn unplug(&self, disk: &str) {
        let machine = self.cluster().get("vm", self.namespace(), self.name());
        let spec = &machine["spec"]["template"]["spec"];
        let at = |list: &Value| {
            let names = list.as_array().must("read a machine's disks").iter();
            names
                .enumerate()
                .find(|(_, one)| one["name"] == disk)
                .map(|(at, _)| at)
                .must(format_args!("find the disk {disk}"))
        };
        let (volume, device) = (at(&spec["volumes"]), at(&spec["domain"]["devices"]["disks"]));
        self.patch(&json!([
            {"op": "remove", "path": format!("/spec/template/spec/volumes/{volume}")},
            {"op": "remove", "path": format!("/spec/template/spec/domain/devices/disks/{device}")},
        ]));
        self.wait_for_volume("the disk is not taken away", disk, |volume| volume.is_none());
    }

    /// Makes the claim of a disk larger, as a driver of storage would, and waits until the guest's disk is: somewhat smaller
    /// than its claim, for KubeVirt leaves room for a file system. Gives its size.
    #[track_caller]
    pub fn grow(&self, disk: &str, claim: u64) -> u64 {
        let (namespace, name) = (self.namespace(), self.claim(disk));
        let cluster = self.cluster();
        let before = self.size(disk);
        cluster.kubectl(&["patch", "storageclass", "folders", "--patch", r#"{"allowVolumeExpansion": true}"#]);
        let volume =
            cluster.get("pvc", namespace, &name)["spec"]["volumeName"].as_str().must("find a volume").to_owned();
        let asks = json!({"spec": {"resources": {"requests": {"storage": claim.to_string()}}}}).to_string();
        let has = json!({"capacity": {"storage": claim.to_string()}});
        cluster.kubectl(&["patch", "pvc", &name, "--namespace", namespace, "--patch", &asks]);
        cluster.kubectl(&["patch", "pv", &volume, "--patch", &json!({"spec": has}).to_string()]);
        let args = ["patch", "pvc", &name, "--namespace", namespace, "--subresource", "status"];
        cluster.kubectl(&[&args[..], &["--patch", &json!({"status": has}).to_string()]].concat());
        wait_until(format_args!("the disk {disk} does not grow"), LIMIT, || self.size(disk) > before);
        self.size(disk)
    }

    /// How large the image of a disk is.
    #[track_caller]
    fn size(&self, disk: &str) -> u64 {
        self.image(disk).metadata().must("look at a disk's image").len()
    }

    #[track_caller]
    fn make_image(&self, disk: &str, size: u64) {
        self.cluster().make_claim(self.namespace(), &self.claim(disk), size);
        let image = self.image(disk);
        let file = File::create(&image).must(format_args!("make {}", image.display()));
        file.set_len(size).must("make a disk's image");
        let mut bytes = vec![0; 1 << 20];
        fastrand::fill(&mut bytes);
        file.write_all_at(&bytes, size / 2).must("fill a disk's image");
        run(Command::new("chown").arg(format!("{QEMU}:{QEMU}")).arg(&image)).ok();
    }

    #[track_caller]
    fn patch(&self, patch: &Value) {
        let args = ["patch", "vm", self.name(), "--namespace", self.namespace(), "--type", "json", "--patch"];
        self.cluster().kubectl(&[&args[..], &[&patch.to_string()]].concat());
    }

    #[track_caller]
    fn wait_for_volume(&self, what: &str, disk: &str, ready: impl Fn(Option<&Value>) -> bool) {
        let ready = |instance: Option<&Value>| {
            instance.is_some_and(|instance| {
                let volumes = instance["status"]["volumeStatus"].as_array();
                ready(volumes.and_then(|all| all.iter().find(|one| one["name"] == disk)))
            })
        };
        self.cluster().wait_for("vmi", self.namespace(), self.name(), what, LIMIT, ready);
    }
}
