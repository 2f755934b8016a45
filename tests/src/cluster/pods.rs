//! Pods, and what runs in them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::process::{Must, run};

use super::node::Node;
use super::{Cluster, patience};

/// A pod that was there when it was asked for.
pub struct Pod<'cluster> {
    cluster: &'cluster Cluster,
    object: Value,
}

impl Cluster {
    /// The pods with these labels that have not ended.
    #[track_caller]
    pub fn pods(&self, namespace: &str, labels: &str) -> Vec<Pod<'_>> {
        let ended = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let pods = self.list("pods", namespace, labels).into_iter().filter(|pod| !ended(pod));
        pods.map(|object| Pod { cluster: self, object }).collect()
    }

    /// The one pod with these labels that has not ended.
    #[track_caller]
    pub fn pod(&self, namespace: &str, labels: &str) -> Pod<'_> {
        let mut pods = self.pods(namespace, labels);
        assert_eq!(pods.len(), 1, "pods of {labels} in {namespace}");
        pods.remove(0)
    }
}

impl Pod<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().must("read a pod's name")
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        self.object["metadata"]["uid"].as_str().must("read a pod's UID")
    }

    /// The name of the node that it is on.
    pub fn node_name(&self) -> &str {
        self.object["spec"]["nodeName"].as_str().must(format_args!("find the node of the pod {}", self.name()))
    }

    fn node(&self) -> Node {
        self.cluster.node_named(self.node_name())
    }

    /// The object, as it was when it was asked for.
    pub fn object(&self) -> &Value {
        &self.object
    }

    /// The folder of this host that is an `emptyDir` of it.
    pub fn empty_dir(&self, volume: &str) -> PathBuf {
        let pods = self.node().var_lib().join("kubelet/pods");
        pods.join(self.uid()).join("volumes/kubernetes.io~empty-dir").join(volume)
    }

    /// A command in the namespaces of one of its containers, as root.
    #[track_caller]
    pub fn command(&self, container: &str, program: &str) -> Command {
        let process = self.process(container);
        let mut command = self.node().command("nsenter");
        command.args(["--target", &process, "--mount", "--net", "--pid", "--uts", "--ipc", "--", program]);
        command
    }

    /// Sends a signal to the first process of one of its containers.
    #[track_caller]
    pub fn signal(&self, container: &str, signal: Signal) {
        let process = self.process(container);
        run(self.node().command("kill").args(["-s", &(signal as i32).to_string(), &process])).ok();
    }

    /// Whether the first process of a container is still there that the pod tells of.
    #[track_caller]
    pub fn runs(&self, container: &str) -> bool {
        let process = run(self.node().command("cat").arg(self.process_file(container)));
        process.status.success() && run(self.node().command("kill").args(["-s", "0", process.text()])).status.success()
    }

    /// What a container has logged.
    #[track_caller]
    pub fn log(&self, container: &str) -> String {
        let namespace = self.object["metadata"]["namespace"].as_str().must("read a pod's namespace");
        let args = ["logs", "--namespace", namespace, self.name(), "--container", container];
        patience::reading(|| run(self.cluster.kubectl_command().args(args))).ok().text().to_owned()
    }

    /// The first process of a container, as the node knows it.
    #[track_caller]
    fn process(&self, container: &str) -> String {
        run(self.node().command("cat").arg(self.process_file(container))).ok().text().to_owned()
    }

    /// The file of the node that has it.
    #[track_caller]
    fn process_file(&self, container: &str) -> String {
        let statuses = self.object["status"]["containerStatuses"].as_array().must("read a pod's containers");
        let status = statuses.iter().find(|status| status["name"] == container);
        let id = status.and_then(|status| status["containerID"].as_str()?.strip_prefix("containerd://"));
        let id = id.must(format_args!("find the container {container} of {}", self.name()));
        format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/init.pid")
    }
}

impl Cluster {
    /// Sends a signal to a service of the first node, such as `kubelet`; it is started again.
    #[track_caller]
    pub fn signal_service(&self, service: &str, signal: Signal) {
        let file = self.node.dir().join("pid").join(service);
        let process = fs::read_to_string(&file).must(format_args!("read {}", file.display()));
        run(self.in_node("kill").args(["-s", &(signal as i32).to_string(), process.trim()])).ok();
    }
}
