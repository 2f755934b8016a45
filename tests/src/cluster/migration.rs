//! Live migration of a virtual machine, by KubeVirt.

use std::time::Duration;

use serde_json::{Value, json};

use crate::process::Must;

use super::Vm;

/// How long one may take, emulated on a busy machine.
const LIMIT: Duration = Duration::from_mins(5);

/// A migration that was asked for.
pub struct Migration<'vm> {
    vm: &'vm Vm<'vm>,
    name: String,
}

impl<'vm> Migration<'vm> {
    /// Asks for one, to whatever node can have the machine.
    #[track_caller]
    pub fn start(vm: &'vm Vm<'vm>, name: &str) -> Self {
        vm.cluster().apply(&json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": {"name": name, "namespace": vm.namespace()},
            "spec": {"vmiName": vm.name()},
        }));
        Self { vm, name: name.to_owned() }
    }

    /// Waits until it is as wanted; panics with it if it fails before.
    #[track_caller]
    pub fn wait_for(&self, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let ended = |one: Option<&Value>| one.is_some_and(|one| ready(one) || one["status"]["phase"] == "Failed");
        let kind = "virtualmachineinstancemigration";
        let found = self.vm.cluster().wait_for(kind, self.vm.namespace(), &self.name, what, LIMIT, ended);
        let found = found.must("have a migration");
        assert!(ready(&found), "{what}: {found:#}\n{:#}", self.vm.instance()["status"]);
        found
    }

    /// Waits until the machine has moved, and runs there. Gives the name of the node.
    #[track_caller]
    pub fn wait(&self) -> String {
        self.wait_for("the migration does not end", |one| one["status"]["phase"] == "Succeeded");
        self.vm.wait(true);
        self.vm.node_name()
    }
}
