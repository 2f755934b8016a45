//! A real cluster: a node of Kubernetes with containerd, kubelet and all, and a real KubeVirt on it.
//!
//! [`Cluster::shared`] is the cluster of a test binary. [`Cluster::vm`] builds virtual machines, [`Vm`] is one that runs,
//! [`Pull`] a backup of one, [`Worker`] a further node, for tests that need one. What it consists of is built by
//! `make setup-cluster`: also the state that it begins with, in which KubeVirt has been deployed.

mod devices;
mod disks;
mod image;
mod migration;
mod node;
mod objects;
mod odd_class;
mod patience;
mod pods;
mod product;
mod pull;
mod vm;
mod worker;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cache::whole_cache;
use crate::process::{Must, run};

pub use migration::Migration;
use node::Node;
pub use objects::{condition, is};
pub use odd_class::OddClass;
pub use pods::Pod;
pub use product::{NAMESPACE, Product, is_true};
pub use pull::Pull;
pub use vm::{Vm, VmBuilder};
pub use worker::Worker;

/// How long KubeVirt may take to be ready on a busy machine.
const READY: Duration = Duration::from_mins(20);

/// A cluster. It ends with all that runs in it when it is dropped or when the test process ends, however that happens.
pub struct Cluster {
    node: Node,
    kubectl: PathBuf,
    namespaces: AtomicU32,
    /// The image of the guest, once it is loaded.
    guest: Mutex<Option<String>>,
}

impl Cluster {
    /// The one of this process, started when it is first asked for. With `REMORA_TEST_CLUSTER` set to the folder of one
    /// that runs already (`target/release/cluster` starts it), it is that: for trying tests out.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            std::env::var_os("REMORA_TEST_CLUSTER").map_or_else(Self::start, |dir| Self::of(dir.as_ref()))
        })
    }

    fn of(dir: &Path) -> Self {
        let [kubernetes] = built(&["kubernetes"]);
        Self::new(Node::of(dir), &kubernetes)
    }

    fn new(node: Node, kubernetes: &Path) -> Self {
        Self { node, kubectl: kubernetes.join("kubectl"), namespaces: AtomicU32::new(0), guest: Mutex::new(None) }
    }

    /// Starts one and waits until KubeVirt is ready.
    pub fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a cluster needs root: its node is made of namespaces");
        let start = Instant::now();
        let [kubernetes, images, state] = built(&[]);
        let node = Node::start(&kubernetes.join("kube"), &images.join("containerd"), &state);
        let cluster = Self::new(node, &kubernetes);
        cluster.wait_for_node(node::NAME);
        cluster.wait_for_kubevirt();
        eprintln!("the cluster is up after {:.1?}", start.elapsed());
        cluster
    }

    /// The file by which `kubectl` and others reach it as an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.node.dir().join("keys/admin.conf")
    }

    /// The folder of its first node: state, keys, logs.
    pub fn folder(&self) -> &Path {
        self.node.dir()
    }

    /// The program `kubectl` that it was built with.
    pub fn kubectl_program(&self) -> &Path {
        &self.kubectl
    }

    /// The name of its first node.
    pub fn node_name(&self) -> &'static str {
        node::NAME
    }

    /// The address at which pods reach servers of this host.
    pub fn host_address(&self) -> std::net::Ipv4Addr {
        self.node.host_address()
    }

    /// The folder of this host that is the first node's `/var/lib`: volumes, and the kubelet's folders of pods. What is
    /// mounted there in the node is not seen.
    pub fn var_lib(&self) -> PathBuf {
        self.node.var_lib()
    }

    /// A command that runs in the first node's namespaces.
    pub fn in_node(&self, program: &str) -> Command {
        self.node.command(program)
    }

    /// What the services of the first node have logged.
    pub fn log(&self, service: &str) -> String {
        std::fs::read_to_string(self.node.dir().join("log").join(service)).unwrap_or_default()
    }

    /// A new namespace.
    #[track_caller]
    pub fn namespace(&self, prefix: &str) -> String {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{}-{number}", std::process::id());
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        name
    }

    /// Waits until a node has what machines need.
    fn wait_for_node(&self, name: &str) {
        let ready = |node: Option<&Value>| node.is_some_and(|node| objects::is(node, "Ready", "True"));
        self.wait_for("node", "", name, "the node is not ready", node::START, ready);
        let schedulable = |node: Option<&Value>| {
            node.is_some_and(|node| node["metadata"]["labels"]["kubevirt.io/schedulable"] == "true")
        };
        self.wait_for("node", "", name, "KubeVirt runs no machines on the node", READY, schedulable);
    }

    /// The state that the cluster begins with does not say that any of these were ready.
    fn wait_for_kubevirt(&self) {
        for name in ["virt-controller", "virt-api", "virt-exportproxy", "virt-operator"] {
            let available = |one: Option<&Value>| one.is_some_and(|one| objects::is(one, "Available", "True"));
            self.wait_for("deployment", "kubevirt", name, "KubeVirt is not ready", READY, available);
        }
        let ready = |one: Option<&Value>| one.is_some_and(|one| one["status"]["numberReady"] == 1);
        self.wait_for("daemonset", "kubevirt", "virt-handler", "KubeVirt is not ready", READY, ready);
    }

    /// A node, by its name.
    fn node_named(&self, name: &str) -> Node {
        let dir = self.node.dir();
        Node::of(&if name == node::NAME { dir.to_owned() } else { dir.join("nodes").join(name) })
    }
}

/// The folders of what a cluster consists of, or of some of it: see `tests/cluster/build`.
#[track_caller]
pub(crate) fn built<const N: usize>(what: &[&str]) -> [PathBuf; N] {
    let ran = run(Command::new(sources().join("build")).arg(whole_cache()).arg("ready").args(what)).ok();
    let folders: Vec<_> = ran.text().lines().map(PathBuf::from).collect();
    folders.try_into().ok().must(format_args!("find {N} folders in {:?}", ran.text()))
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}
