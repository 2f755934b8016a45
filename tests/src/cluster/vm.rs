//! Virtual machines of KubeVirt with the lab's small Linux.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::guest::{Guest, Host};
use crate::process::{Must, Ran, run};

use super::objects::is;
use super::{Cluster, Pod};

/// How long a virtual machine may take to run, emulated on a busy machine.
const START: Duration = Duration::from_mins(15);
/// How long a volume may take to be made.
const VOLUME: Duration = Duration::from_mins(10);
/// The storage class whose volumes are of the first node: that of claims that name none.
const LOCAL: &str = "folders";
/// The one whose volumes all nodes see.
const SHARED: &str = "shared";
/// The user as which KubeVirt runs a hypervisor.
pub(super) const QEMU: &str = "107";

/// A virtual machine that is to be.
pub struct VmBuilder<'cluster> {
    cluster: &'cluster Cluster,
    namespace: String,
    name: String,
    disks: Vec<Disk>,
    tracked: bool,
    class: &'static str,
    node: Option<String>,
}

struct Disk {
    name: String,
    size: u64,
    content: Content,
    is_device: bool,
}

#[derive(PartialEq)]
enum Content {
    Nothing,
    Ext4,
}

/// A virtual machine. One that was started here is deleted when this is dropped, unless its test fails: what it takes of
/// the processors is missed by the others.
pub struct Vm<'cluster> {
    cluster: &'cluster Cluster,
    namespace: String,
    name: String,
    started_here: bool,
}

impl Cluster {
    /// A virtual machine that somebody else has made.
    pub fn existing_vm(&self, namespace: &str, name: &str) -> Vm<'_> {
        Vm { cluster: self, namespace: namespace.to_owned(), name: name.to_owned(), started_here: false }
    }

    /// Starts the description of a virtual machine whose blocks' changes are tracked.
    pub fn vm(&self, namespace: &str, name: &str) -> VmBuilder<'_> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        VmBuilder { cluster: self, namespace, name, disks: Vec::new(), tracked: true, class: LOCAL, node: None }
    }
}

impl<'cluster> VmBuilder<'cluster> {
    /// With a disk that has an ext4 file system; the first of a machine is mounted at `/mnt/vda`.
    #[must_use]
    pub fn disk(self, name: &str, size: u64) -> Self {
        self.with(name, size, Content::Ext4)
    }

    /// With a disk that holds zeros.
    #[must_use]
    pub fn empty_disk(self, name: &str, size: u64) -> Self {
        self.with(name, size, Content::Nothing)
    }

    /// Without changed-block tracking.
    #[must_use]
    pub fn untracked(mut self) -> Self {
        self.tracked = false;
        self
    }

    /// With its disks where every node sees them.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.class = SHARED;
        self
    }

    /// With that disk of it in block mode: a device, which is on the first node.
    #[must_use]
    #[track_caller]
    pub fn in_block_mode(mut self, disk: &str) -> Self {
        let found = self.disks.iter_mut().find(|one| one.name == disk);
        found.must(format_args!("find the disk {disk}")).is_device = true;
        self
    }

    /// On that node, if it can be; it may be a worker, and the machine may go to any other.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    fn with(mut self, name: &str, size: u64, content: Content) -> Self {
        self.disks.push(Disk { name: name.to_owned(), size, content, is_device: false });
        self
    }

    /// Starts it, and waits until its guest's agent answers and its disks are tracked, if they are to be.
    #[track_caller]
    pub fn start(self) -> Vm<'cluster> {
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        let vm = Vm { cluster: self.cluster, namespace, name, started_here: true };
        for disk in &self.disks {
            disk.make(&vm, self.class);
        }
        vm.cluster.apply(&self.object());
        vm.wait(self.tracked);
        vm
    }

    fn object(&self) -> Value {
        let disk = |disk: &Disk| json!({"name": disk.name, "disk": {"bus": "virtio"}});
        let volume = |disk: &Disk| json!({"name": disk.name, "persistentVolumeClaim": {"claimName": claim(&self.name, &disk.name)}});
        let container = json!({
            "image": self.cluster.guest_image(), "imagePullPolicy": "IfNotPresent",
            "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd.img",
        });
        let placement = self.node.as_deref().map_or_else(|| json!({}), placement);
        let boot = json!({"kernelBoot": {"kernelArgs": "console=ttyS0 quiet agent=works", "container": container}});
        let mut machine = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {
                "name": self.name, "namespace": self.namespace,
                "labels": {"changedBlockTracking": self.tracked.to_string()},
            },
            "spec": {"runStrategy": "Always", "template": {"spec": {
                "terminationGracePeriodSeconds": 5,
                "domain": {
                    "firmware": boot,
                    "resources": {"requests": {"memory": "256Mi", "cpu": "50m"}},
                    "devices": {
                        "autoattachPodInterface": false, "autoattachGraphicsDevice": false,
                        "disks": self.disks.iter().map(disk).collect::<Vec<_>>(),
                    },
                },
                "volumes": self.disks.iter().map(volume).collect::<Vec<_>>(),
            }}},
        });
        for (field, value) in placement.as_object().into_iter().flatten() {
            machine["spec"]["template"]["spec"][field] = value.clone();
        }
        machine
    }
}

/// What a machine has that prefers a node.
fn placement(node: &str) -> Value {
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
    let preference = json!({"weight": 100, "preference": {"matchExpressions": [here]}});
    json!({
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}},
        "tolerations": [{"key": super::worker::TAINT, "operator": "Exists"}],
    })
}

impl Disk {
    /// Makes its claim, and what is in it.
    #[track_caller]
    fn make(&self, vm: &Vm, class: &str) {
        if self.is_device {
            vm.cluster.make_device_claim(&vm.namespace, &vm.claim(&self.name), self.size);
        } else {
            self.make_image(vm, class);
        }
        if self.content == Content::Ext4 {
            let mut mkfs = Command::new("mkfs.ext4");
            mkfs.args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
            run(mkfs.arg(vm.image(&self.name))).ok();
        }
    }

    #[track_caller]
    fn make_image(&self, vm: &Vm, class: &str) {
        vm.cluster.make_claim_of(class, &vm.namespace, &vm.claim(&self.name), self.size);
        let image = vm.image(&self.name);
        let file = std::fs::File::create(&image).must(format_args!("make {}", image.display()));
        file.set_len(self.size).must("make a disk's image");
        run(Command::new("chown").arg(format!("{QEMU}:{QEMU}")).arg(&image)).ok();
    }
}

impl Cluster {
    /// Makes a claim of the default storage class, and waits until it has its volume.
    #[track_caller]
    pub fn make_claim(&self, namespace: &str, name: &str, size: u64) {
        self.make_claim_of(LOCAL, namespace, name, size);
    }

    #[track_caller]
    fn make_claim_of(&self, class: &str, namespace: &str, name: &str, size: u64) {
        let mode = if class == SHARED { "ReadWriteMany" } else { "ReadWriteOnce" };
        let spec = json!({
            "storageClassName": class, "accessModes": [mode],
            "resources": {"requests": {"storage": size.to_string()}},
        });
        self.apply_claim(namespace, name, &spec);
    }

    /// Makes a claim, and waits until it has its volume.
    #[track_caller]
    pub(super) fn apply_claim(&self, namespace: &str, name: &str, spec: &Value) {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }));
        let bound = |claim: Option<&Value>| claim.is_some_and(|claim| claim["status"]["phase"] == "Bound");
        self.wait_for("pvc", namespace, name, "it has no volume", VOLUME, bound);
    }

    /// The folder of this host that is the volume of a claim.
    #[track_caller]
    pub fn volume(&self, namespace: &str, claim: &str) -> PathBuf {
        self.folder_of(&self.volume_of(namespace, claim))
    }

    /// The disk that lies in a claim, on this host: an image in the folder that is its volume, or the device that is.
    #[track_caller]
    pub fn image(&self, namespace: &str, claim: &str) -> PathBuf {
        let volume = self.volume_of(namespace, claim);
        let device = volume["spec"]["local"]["path"].as_str();
        device.map_or_else(|| self.folder_of(&volume).join("disk.img"), PathBuf::from)
    }

    #[track_caller]
    fn volume_of(&self, namespace: &str, claim: &str) -> Value {
        let claim = self.get("pvc", namespace, claim);
        self.get("pv", "", claim["spec"]["volumeName"].as_str().must("find the volume of a claim"))
    }

    #[track_caller]
    fn folder_of(&self, volume: &Value) -> PathBuf {
        let path = volume["spec"]["hostPath"]["path"].as_str().and_then(|path| path.strip_prefix("/var/lib/"));
        let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
        let node = terms[0]["matchExpressions"][0]["values"][0].as_str().unwrap_or(self.node_name());
        self.node_named(node).var_lib().join(path.must("find the folder of a volume"))
    }
}

impl<'cluster> Vm<'cluster> {
    /// The cluster that it runs in.
    pub fn cluster(&self) -> &'cluster Cluster {
        self.cluster
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The claim that is a disk.
    pub fn claim(&self, disk: &str) -> String {
        claim(&self.name, disk)
    }

    /// Its instance, as it is now.
    #[track_caller]
    pub fn instance(&self) -> Value {
        self.cluster.get("vmi", &self.namespace, &self.name)
    }

    /// Its launcher's pod.
    #[track_caller]
    pub fn launcher(&self) -> Pod<'cluster> {
        let mut pods = self.launchers();
        if pods.len() > 1 {
            // While it moves to another node, and after its node was lost.
            let node = self.instance()["status"]["nodeName"].take();
            // Also one that is to be moved to, and is on no node yet.
            pods.retain(|pod| pod.object()["spec"]["nodeName"] == node);
        }
        assert_eq!(pods.len(), 1, "launchers of {}/{}", self.namespace, self.name);
        pods.remove(0)
    }

    /// The pods of its launchers that have not ended.
    #[track_caller]
    pub fn launchers(&self) -> Vec<Pod<'cluster>> {
        let labels = format!("kubevirt.io=virt-launcher,vmi.kubevirt.io/id={}", self.name);
        self.cluster.pods(&self.namespace, &labels)
    }

    /// The name of the node that it runs on.
    #[track_caller]
    pub fn node_name(&self) -> String {
        self.instance()["status"]["nodeName"].as_str().must("find the node of a virtual machine").to_owned()
    }

    /// Waits until its guest's agent answers, and, if `tracked`, until its disks' changes are tracked.
    #[track_caller]
    pub fn wait(&self, tracked: bool) {
        let ready = |instance: Option<&Value>| {
            instance.is_some_and(|instance| {
                let tracks = instance["status"]["changedBlockTracking"]["state"] == "Enabled";
                instance["status"]["phase"] == "Running"
                    && is(instance, "AgentConnected", "True")
                    && (tracks || !tracked)
            })
        };
        self.cluster.wait_for("vmi", &self.namespace, &self.name, "the virtual machine does not run", START, ready);
    }

    /// The raw image or the device that is a disk, on this host.
    #[track_caller]
    pub fn image(&self, disk: &str) -> PathBuf {
        self.cluster.image(&self.namespace, &self.claim(disk))
    }

    /// Copies what a disk holds now to a file. That is the truth only while nothing writes: see [`Vm::still`].
    #[track_caller]
    pub fn truth(&self, disk: &str, into: &Path) {
        run(Command::new("cp").arg("--sparse=always").arg(self.image(disk)).arg(into)).ok();
    }

    /// Does something while the guest writes nothing: its file systems can be read only.
    pub fn still<T>(&self, work: impl FnOnce() -> T) -> T {
        let remount = |how: &str| {
            let each = format!("mount -o remount,{how} \"$dir\" || exit 1");
            let all = format!("while read -r _ dir _; do case $dir in /mnt/*) {each} ;; esac; done < /proc/mounts");
            self.guest().sh(&format!("sync; {all}; sync"));
        };
        remount("ro");
        let done = work();
        remount("rw");
        done
    }

    /// Runs `virsh` in its launcher.
    pub fn try_virsh(&self, command: &str, args: &[&str]) -> Ran {
        const URI: &str = "qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock";
        let mut virsh = self.launcher().command("compute", "setpriv");
        virsh.args(["--reuid", QEMU, "--regid", QEMU, "--clear-groups", "virsh", "--quiet", "--connect", URI]);
        run(virsh.args([command, &self.domain()]).args(args))
    }

    /// What libvirt calls it.
    pub fn domain(&self) -> String {
        format!("{}_{}", self.namespace, self.name)
    }

    /// Its guest.
    pub fn guest(&self) -> Guest<'_> {
        Guest::new(self)
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        if self.started_here && !std::thread::panicking() {
            let args =
                ["delete", "vm", &self.name, "--namespace", &self.namespace, "--ignore-not-found", "--wait=false"];
            self.cluster.try_kubectl(&args);
        }
    }
}

impl Host for Vm<'_> {
    fn try_virsh(&self, command: &str, args: &[&str]) -> Ran {
        Vm::try_virsh(self, command, args)
    }

    fn console(&self) -> Option<PathBuf> {
        None
    }
}

fn claim(vm: &str, disk: &str) -> String {
    format!("{vm}-{disk}")
}
