//! A real cluster: one node of Kubernetes with containerd, kubelet and all, and a real KubeVirt on it.
//!
//! [`Cluster::shared`] is the cluster of a test binary. [`Cluster::vm`] builds virtual machines, [`Vm`] is one that runs,
//! [`Pull`] a backup of one. What it consists of is built by `make setup-cluster`.

mod image;
mod node;
mod objects;
mod pods;
mod product;
mod pull;
mod vm;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde_json::json;

use crate::cache::whole_cache;
use crate::process::{Must, run, run_with_input};

use node::Node;
pub use objects::{condition, is};
pub use pods::Pod;
pub use product::{NAMESPACE, Product, is_true};
pub use pull::Pull;
pub use vm::{Vm, VmBuilder};

/// How long KubeVirt may take to be deployed on a busy machine.
const DEPLOY: Duration = Duration::from_mins(10);

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

    /// Starts one and waits until KubeVirt is deployed.
    pub fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a cluster needs root: its node is made of namespaces");
        let [kubernetes, kubevirt, images] = built(&[]);
        let node = Node::start(&kubernetes.join("kube"), &images.join("containerd"));
        let cluster = Self::new(node, &kubernetes);
        cluster.wait_for_node();
        cluster.deploy_kubevirt(&kubevirt.join("manifests.json"));
        cluster
    }

    /// The file by which `kubectl` and others reach it as an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.node.dir().join("keys/admin.conf")
    }

    /// The folder of its node: state, keys, logs.
    pub fn folder(&self) -> &Path {
        self.node.dir()
    }

    /// The program `kubectl` that it was built with.
    pub fn kubectl_program(&self) -> &Path {
        &self.kubectl
    }

    /// The name of its node.
    pub fn node_name(&self) -> &'static str {
        node::NAME
    }

    /// The address at which pods reach servers of this host.
    pub fn host_address(&self) -> std::net::Ipv4Addr {
        self.node.host_address()
    }

    /// The folder of this host that is the node's `/var/lib`: volumes, and the kubelet's folders of pods. What is mounted
    /// there in the node is not seen.
    pub fn var_lib(&self) -> PathBuf {
        self.node.dir().join("data/lib")
    }

    /// A command that runs in the node's namespaces.
    pub fn in_node(&self, program: &str) -> Command {
        self.node.command(program)
    }

    /// What the services of the node have logged.
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

    fn wait_for_node(&self) {
        let ready = |node: Option<&serde_json::Value>| node.is_some_and(|node| objects::is(node, "Ready", "True"));
        self.wait_for("node", "", node::NAME, "the node is not ready", node::START, ready);
        let account = |account: Option<&serde_json::Value>| account.is_some();
        self.wait_for("serviceaccount", "default", "default", "there is no service account", node::START, account);
    }

    fn deploy_kubevirt(&self, manifests: &Path) {
        // KubeVirt's own pods ask for such a node.
        self.kubectl(&["label", "node", node::NAME, "node-role.kubernetes.io/control-plane="]);
        // By the server: the definitions are too big for the annotation of the other way.
        self.kubectl(&["apply", "--server-side", "--filename", &manifests.to_string_lossy()]);
        for file in ["storage.yaml", "kubevirt.yaml"] {
            let text = std::fs::read(sources().join("manifests").join(file)).must(format_args!("read {file}"));
            run_with_input(self.kubectl_command().args(["apply", "--filename", "-"]), &text).ok();
        }
        let deployed =
            |kubevirt: Option<&serde_json::Value>| kubevirt.is_some_and(|one| one["status"]["phase"] == "Deployed");
        self.wait_for("kubevirt", "kubevirt", "kubevirt", "KubeVirt is not deployed", DEPLOY, deployed);
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
