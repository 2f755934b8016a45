//! Further nodes of the cluster, each for one test.

use std::process::Command;

use serde_json::Value;

use super::node::Node;
use super::{Cluster, READY, built};
use crate::process::Must;

/// What keeps those from such a node that do not ask for it: it ends with its test.
pub(super) const TAINT: &str = "remora.test/for-one-test";

/// A node that has joined the cluster. When it is dropped it ends, and the cluster forgets it.
pub struct Worker<'cluster> {
    cluster: &'cluster Cluster,
    name: String,
    node: Option<Node>,
}

impl Cluster {
    /// Has a node of that name join, and waits until it runs machines.
    #[track_caller]
    pub fn worker(&self, name: &str) -> Worker<'_> {
        let [kubernetes, images, _] = built(&[]);
        let joined = self.node.join(&kubernetes.join("kube"), &images.join("containerd"), name);
        let worker = Worker { cluster: self, name: name.to_owned(), node: Some(joined) };
        worker.node.iter().for_each(|node| self.import_images(node));
        self.wait_for_node(name);
        self.let_machines_move(name);
        worker
    }

    /// Has KubeVirt let machines move between the first node and another one, which has the same processor. It asks for a node that
    /// has a label of the model which libvirt takes this processor for. KubeVirt 1.9 labels a node with all models that machines may
    /// have there but `kvm64`, which libvirt takes some processors for: no node would do.
    #[track_caller]
    fn let_machines_move(&self, name: &str) {
        for node in [self.node_name(), name] {
            let told = |node: Option<&Value>| node.is_some_and(|node| model(node).is_some());
            let found = self.wait_for("node", "", node, "KubeVirt does not tell of its processor", READY, told);
            let label = format!(
                "cpu-model-migration.node.kubevirt.io/{}=true",
                found.as_ref().and_then(model).must("have a model")
            );
            // Without this KubeVirt removes what it did not write.
            self.kubectl(&["annotate", "node", node, "--overwrite", "node-labeller.kubevirt.io/skip-node=true"]);
            self.kubectl(&["label", "node", node, "--overwrite", &label]);
        }
    }
}

/// The model that libvirt takes a node's processor for.
fn model(node: &Value) -> Option<&str> {
    node["metadata"]["labels"]
        .as_object()?
        .keys()
        .find_map(|label| label.strip_prefix("host-model-cpu.node.kubevirt.io/"))
}

impl Worker<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs in its namespaces.
    pub fn command(&self, program: &str) -> Command {
        self.cluster.node_named(&self.name).command(program)
    }

    /// Ends it and all that runs on it in an instant, as if its power failed. The cluster is not told.
    pub fn lose(&mut self) {
        drop(self.node.take());
    }

    /// Has the cluster forget it, and all that it had put on it: as somebody does who knows that it will not come back.
    pub fn forget(&mut self) {
        self.lose();
        let selector = format!("spec.nodeName={}", self.name);
        let pods = ["delete", "pods", "--all-namespaces", "--grace-period=0", "--force", "--field-selector", &selector];
        for args in [&pods[..], &["delete", "node", &self.name, "--ignore-not-found"]] {
            let ran = self.cluster.try_kubectl(args);
            if !ran.status.success() {
                eprintln!("the node {} is not forgotten: {ran:?}", self.name);
            }
        }
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}
