//! Live migration of a virtual machine, by KubeVirt.

use std::time::Duration;

use serde_json::{Value, json};

use crate::process::Must;

use super::Vm;

/// How long one may take, emulated on a busy machine.
const LIMIT: Duration = Duration::from_mins(15);

const ENDS: &str = "the migration does not end";

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

    /// Waits until it is as wanted; panics with it if it ends before.
    #[track_caller]
    pub fn wait_for(&self, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let found = self.ready_or_over(what, &ready);
        assert!(ready(&found), "{what}: {found:#}\n{:#}\n{}", self.vm.instance()["status"], self.events());
        found
    }

    /// Why nothing has become of it, when that is no matter of KubeVirt's.
    fn events(&self) -> String {
        self.vm.cluster().kubectl(&["get", "events", "--namespace", self.vm.namespace(), "--sort-by=.lastTimestamp"])
    }

    #[track_caller]
    fn ready_or_over(&self, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let over = |one: &Value| one["status"]["phase"] == "Failed" || arrived(one);
        let ended = |one: Option<&Value>| one.is_some_and(|one| ready(one) || over(one));
        let kind = "virtualmachineinstancemigration";
        let found = self.vm.cluster().wait_for(kind, self.vm.namespace(), &self.name, what, LIMIT, ended);
        found.must("have a migration")
    }

    /// Waits until the machine has moved, and runs there. Gives the name of the node.
    #[track_caller]
    pub fn wait(&self) -> String {
        self.wait_for(ENDS, arrived);
        self.running()
    }

    /// The same, of one that may fail: then the machine stays where it is.
    #[track_caller]
    pub fn try_wait(&self) -> Option<String> {
        arrived(&self.ready_or_over(ENDS, arrived)).then(|| self.running())
    }

    #[track_caller]
    fn running(&self) -> String {
        self.vm.wait(true);
        self.vm.node_name()
    }
}

fn arrived(migration: &Value) -> bool {
    migration["status"]["phase"] == "Succeeded"
}
