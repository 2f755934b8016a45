//! Who the agents are, with the rules that are deployed: the tests of agents run as they.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use remora_tests::ApiServer;
use remora_tests::process::run_with_input;
use remora_tests::{run, wait_until};
use serde_json::json;

use super::{built, find};

/// How much later than they are applied rules may be in force.
const IN_FORCE: Duration = Duration::from_mins(10);

/// A token of the agents' `ServiceAccount` in the shared API server, whose rules are made when it is first asked for.
pub(crate) fn agent_token(api: &ApiServer) -> String {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| make(api));
    api.token("remora", "remora-agent", None, None)
}

fn make(api: &ApiServer) {
    let objects = built(api, "overlays/plain");
    let account = find(&objects, "ServiceAccount", "remora-agent");
    let rules = ["ClusterRole", "ClusterRoleBinding"].map(|kind| find(&objects, kind, "remora-agent"));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [namespace(), account, rules[0], rules[1]]});
    let mut kubectl = api.kubectl();
    run_with_input(kubectl.args(["apply", "--server-side", "--filename=-"]), list.to_string().as_bytes()).ok();
    wait_until("the agents' rules are not in force", IN_FORCE, || may(api.kubectl()));
}

fn namespace() -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "remora"}})
}

fn may(mut kubectl: Command) -> bool {
    kubectl.args(["auth", "can-i", "create", "events.events.k8s.io", "--all-namespaces"]);
    run(kubectl.arg("--as=system:serviceaccount:remora:remora-agent")).status.success()
}
