//! Further nodes of the cluster, each for one test.

use std::process::Command;

use super::node::Node;
use super::{Cluster, built};

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
        self.wait_for_processor(name);
        worker
    }
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
