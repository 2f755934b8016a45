//! Restore runs of the deployed remora, of increments: to claims, and to a machine that boots.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use remora_tests::MIB;
use remora_tests::cluster::{NAMESPACE, Product, Vm, condition, is_true};
use remora_tests::truth::assert_same;
use serde_json::{Value, json};

const SIZE: u64 = 64 * MIB;
const DISKS: [&str; 2] = ["system", "data"];

/// How long a restore may take on a busy machine.
const RUN: Duration = Duration::from_mins(15);

/// So often an increment is tried: KubeVirt spoils one now and then, and on a busy machine many, and a point is made that rereads.
const TRIES: u32 = 30;

/// A machine with two points, of which the second is an increment, and what its disks held at that.
struct Scene {
    product: &'static Product,
    vm: Vm<'static>,
    repository: String,
    /// The increment.
    point: String,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(prefix: &str) -> Self {
        let product = Product::shared();
        let cluster = product.cluster();
        let namespace = cluster.namespace(prefix);
        let dir = tempfile::tempdir().unwrap();
        let repository = format!("bucket-{namespace}");
        product.repository(&repository, &namespace, dir.path());
        let vm = cluster.vm(&namespace, "web").disk("system", SIZE).empty_disk("data", SIZE).start();
        let mut scene = Self { product, vm, repository, point: String::new(), dir };
        scene.write("first", 5_000_000, 100);
        let full = scene.back_up("full");
        assert_eq!(full["decision"], "full", "{full:#}");
        let mut tries = (0..TRIES).map(|number| {
            // A part of what the full one has is written over.
            scene.write("second", 300_000, 110);
            scene.back_up(&format!("increment-{number}"))
        });
        let increment = tries.find(|status| status["decision"] == "incremental");
        let increment = increment.expect("one of the runs to be an increment");
        increment["point"].as_str().unwrap().clone_into(&mut scene.point);
        scene
    }

    /// Has the guest write a file and say that it is the newest, and write so many bytes to the other disk, `at` times 64 KiB from
    /// its beginning.
    fn write(&self, file: &str, bytes: u32, at: u32) {
        self.vm.guest().write_file(&format!("/mnt/vda/{file}"), file.as_bytes());
        self.vm.guest().write_file("/mnt/vda/newest", file.as_bytes());
        let random = format!("head -c {bytes} /dev/urandom");
        self.vm.guest().sh(&format!("{random} | dd of=/dev/vdb bs=64k seek={at} conv=fsync 2>/dev/null"));
    }

    /// Keeps what the disks hold, and backs them up before they change. Gives the run's status.
    fn back_up(&self, run: &str) -> Value {
        self.vm.still(|| {
            for disk in DISKS {
                self.vm.truth(disk, &self.dir.path().join(disk));
            }
            self.product.back_up(&self.vm, &self.repository, run)
        })
    }

    /// That a machine's guest sees what it had written before the full backup, and what after.
    #[track_caller]
    fn assert_shows_files(vm: &Vm) {
        for (file, content) in [("first", "first"), ("second", "second"), ("newest", "second")] {
            vm.guest().sh(&format!("test \"$(cat /mnt/vda/{file})\" = {content}"));
        }
    }

    fn restore(&self, name: &str, target: &Value) {
        let mut spec = json!({"point": self.point, "repository": {"name": self.repository, "namespace": NAMESPACE}});
        spec.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
        let metadata = json!({"name": name, "namespace": self.vm.namespace()});
        let run =
            json!({"apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun", "metadata": metadata, "spec": spec});
        self.vm.cluster().apply(&run);
    }

    /// Waits for the end of a restore; gives its status.
    fn ended(&self, name: &str) -> Value {
        let ended = |object: Option<&Value>| {
            object.is_some_and(|one| {
                let status = &one["status"];
                (is_true(status, "Complete") || is_true(status, "Failed")) && one["metadata"]["finalizers"].is_null()
            })
        };
        let cluster = self.vm.cluster();
        let what = "the restore does not end";
        let found = cluster.wait_for("restorerun", self.vm.namespace(), name, what, RUN, ended);
        found.unwrap()["status"].take()
    }

    #[track_caller]
    fn complete(&self, name: &str) -> Value {
        let status = self.ended(name);
        assert!(is_true(&status, "Complete"), "{status:#}\n{}", self.product.logs());
        status
    }

    #[track_caller]
    fn assert_restored(&self, claim: &str, disk: &str) {
        let image = self.vm.cluster().volume(self.vm.namespace(), claim).join("disk.img");
        assert_same(&image, &self.dir.path().join(disk));
        let file = image.metadata().unwrap();
        assert_eq!((file.uid(), file.gid(), file.len()), (107, 107, SIZE));
    }

    /// What the controller has made that goes with a run.
    fn made(&self) -> Vec<Value> {
        let labels = "app.kubernetes.io/name=remora-worker";
        let of = |kind: &str| self.vm.cluster().list(kind, self.vm.namespace(), labels);
        [of("pods"), of("secrets")].concat()
    }
}

fn disks(to: &[[&str; 2]]) -> Value {
    json!({"disks": to.iter().map(|[disk, claim]| json!({"disk": disk, "claim": claim})).collect::<Vec<_>>()})
}

#[test]
fn an_increment_is_restored_to_new_claims_to_one_that_is_there_and_to_none_in_use() {
    let _undisturbed = Product::undisturbed();
    let scene = Scene::new("restores");
    let (cluster, namespace) = (scene.vm.cluster(), scene.vm.namespace());
    // As strict as a namespace may be: its worker is allowed in it.
    cluster.kubectl(&["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    let mut new = disks(&[["data", "copy-data"], ["system", "copy-system"]]);
    for disk in new["disks"].as_array_mut().unwrap() {
        // It has no volume before there is a pod for it, which is the worker's.
        disk["storageClassName"] = json!("local");
    }
    scene.restore("new", &new);
    let status = scene.complete("new");
    assert_eq!((&status["writtenBytes"], &status["percent"]), (&json!(2 * SIZE), &json!(100)), "{status:#}");
    for disk in DISKS {
        scene.assert_restored(&format!("copy-{disk}"), disk);
    }
    assert_eq!(scene.made(), Vec::<Value>::new());
    cluster.delete("restorerun", namespace, "new");
    cluster.wait_gone("restorerun", namespace, "new", RUN);

    // The same claim, with something else in it and a longer image.
    spoil(&cluster.volume(namespace, "copy-data").join("disk.img"));
    scene.restore("again", &disks(&[["data", "copy-data"]]));
    scene.complete("again");
    scene.assert_restored("copy-data", "data");

    scene.restore("in-use", &disks(&[["data", "never-made"], ["system", "web-system"]]));
    let status = scene.ended("in-use");
    let failed = condition(&json!({"status": status}), "Failed").cloned().unwrap();
    assert_eq!(failed["reason"], "ClaimInUse", "{failed:#}");
    assert!(cluster.find("pvc", namespace, "never-made").is_none(), "something half-made is left");
    Scene::assert_shows_files(&scene.vm);
}

fn spoil(image: &Path) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    file.set_len(SIZE + MIB).unwrap();
    file.write_all_at(&vec![7; 100_000], 0).unwrap();
}

#[test]
fn an_increment_becomes_a_machine_that_boots_and_shows_all_files() {
    let _undisturbed = Product::undisturbed();
    let scene = Scene::new("machines");
    let (cluster, namespace) = (scene.vm.cluster(), scene.vm.namespace());
    scene.restore("identity", &json!({"virtualMachine": {"name": "twin", "keepIdentity": true}}));
    let failed = condition(&json!({"status": scene.ended("identity")}), "Failed").cloned().unwrap();
    assert_eq!(failed["reason"], "OriginalExists", "{failed:#}");
    assert!(cluster.find("vm", namespace, "twin").is_none());

    scene.restore("machine", &json!({"virtualMachine": {"name": "copy", "start": true}}));
    scene.complete("machine");
    let copy = cluster.existing_vm(namespace, "copy");
    copy.wait(true);
    Scene::assert_shows_files(&copy);
    // Its guest has not written to the other disk.
    assert_same(&copy.image("data"), &scene.dir.path().join("data"));
    let volumes = cluster.get("vm", namespace, "copy")["spec"]["template"]["spec"]["volumes"].take();
    assert_eq!(volumes[0], json!({"name": "system", "persistentVolumeClaim": {"claimName": "copy-system"}}));
    // The original is what it was, and runs.
    Scene::assert_shows_files(&scene.vm);
    let uuid = |vm: &Vm| vm.try_virsh("domuuid", &[]).ok().text().trim().to_owned();
    assert_ne!(uuid(&copy), uuid(&scene.vm), "two machines with one UUID");

    // Both go; who is to be the original again is, and is halted.
    let firmware = |vm: &str| cluster.get("vm", namespace, vm)["spec"]["template"]["spec"]["domain"]["firmware"].take();
    let original = firmware("web");
    for vm in ["copy", "web"] {
        cluster.delete("vm", namespace, vm);
        cluster.wait_gone("vm", namespace, vm, RUN);
    }
    scene.restore("heir", &json!({"virtualMachine": {"name": "heir", "keepIdentity": true}}));
    scene.complete("heir");
    assert_eq!(firmware("heir"), original);
    assert_eq!(cluster.get("vm", namespace, "heir")["spec"]["runStrategy"], "Halted");
    assert_eq!(scene.made(), Vec::<Value>::new());
}
