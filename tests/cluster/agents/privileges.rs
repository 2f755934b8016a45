//! Each privilege that the agent has on its node, taken away: what breaks then, and what is said of it. The table in
//! docs/kubernetes.md has them all. Its type `spc_t` is the one that stays: this cluster's containerd ignores it.

use std::time::Duration;

use remora_tests::cluster::{NAMESPACE, Product, condition, is_true};
use serde_json::{Value, json};

use crate::scene::{Scene, why_failed};

/// How long a node may take to have another agent.
const LIMIT: Duration = Duration::from_mins(10);

/// The agent's pod and its container, in its `DaemonSet`.
const POD: &str = "/spec/template/spec";
const CONTAINER: &str = "/spec/template/spec/containers/0";

#[test]
fn without_any_one_of_its_privileges_the_agent_says_what_it_lacks() {
    let mut scene = {
        let _undisturbed = Product::undisturbed();
        let mut scene = Scene::new("privileges");
        scene.back_up();
        scene
    };
    let _alone = Product::alone();
    let whole = scene.vm.cluster().get("daemonset", NAMESPACE, "remora-agent");
    let _in_the_end = PutBack(&whole);

    let says = fails(&mut scene, &without(&whole, &format!("{POD}/hostPID")), "Unsupported");
    assert!(says.contains("hostPID: true"), "{says}");
    assert!(lacks(&scene, "host-processes").contains("set hostPID"));

    let says = fails(&mut scene, &without_volume(&whole, "pods"), "NotFound");
    assert!(says.contains("Mount the kubelet's folder of pods"), "{says}");
    assert!(lacks(&scene, "pods-folder").contains("mount the kubelet's folder"));

    let says = fails(&mut scene, &without_propagation(&whole, "pods"), "Unavailable");
    assert!(says.contains("nothing is mounted on its folder"), "{says}");
    assert!(says.contains("mounted with mountPropagation: HostToContainer"), "{says}");

    for capability in ["SETUID", "SETGID"] {
        let before = scene.checkpoints().len();
        let status = runs(&mut scene, &without_capability(&whole, capability));
        assert!(is_true(&status, "Complete"), "{capability}: {status:#}");
        assert!(said(&status, "Complete").contains("removing old checkpoints"), "{capability}: {status:#}");
        assert!(is_true(&status, "CheckpointsStay"), "{capability}: {status:#}");
        assert!(scene.checkpoints().len() > before, "{capability}");
    }

    let mut nobody = whole.clone();
    *nobody.pointer_mut(&format!("{CONTAINER}/securityContext/runAsUser")).unwrap() = json!(65534);
    for less in [without_capability(&whole, "DAC_OVERRIDE"), nobody] {
        let says = fails(&mut scene, &less, "Refused");
        assert!(says.contains("permission denied. The agent needs uid 0 and the capability DAC_OVERRIDE"), "{says}");
    }

    let status = runs(&mut scene, &without_volume(&whole, "state"));
    assert!(is_true(&status, "Complete"), "{status:#}");
    assert!(lacks(&scene, "state-folder").contains("put back to an earlier state goes unnoticed"));

    // With all of them, it goes on as if nothing had been.
    let status = runs(&mut scene, &whole);
    assert!(is_true(&status, "Complete") && !is_true(&status, "CheckpointsStay"), "{status:#}");
    assert_eq!(scene.checkpoints().len(), 1);
    scene.assert_points_are_right();
}

/// Deploys the agent as it was when this is dropped: a test that fails here must not take the others' agent away.
struct PutBack<'a>(&'a Value);

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        let template = replacing(self.0);
        Product::shared().cluster().try_kubectl(&patching(&template));
    }
}

/// Deploys the agent as this says; gives the status of a run that it then does.
#[track_caller]
fn runs(scene: &mut Scene, agent: &Value) -> Value {
    deploy(scene, agent);
    scene.disturbed(&json!({}), |_, _| {})
}

/// The same, of a run that fails for that reason; gives its message.
#[track_caller]
fn fails(scene: &mut Scene, agent: &Value, why: &str) -> String {
    let (reason, message) = why_failed(&runs(scene, agent));
    assert_eq!(reason, why, "{message}");
    message
}

/// Makes the `DaemonSet` of the agent this, and waits until its pod is.
#[track_caller]
fn deploy(scene: &Scene, agent: &Value) {
    let cluster = scene.vm.cluster();
    cluster.kubectl(&patching(&replacing(agent)));
    let updated = |set: Option<&Value>| {
        set.is_some_and(|set| {
            let status = &set["status"];
            status["observedGeneration"] == set["metadata"]["generation"]
                && status["updatedNumberScheduled"] == 1
                && status["numberReady"] == 1
        })
    };
    cluster.wait_for("daemonset", NAMESPACE, "remora-agent", "the agent is not replaced", LIMIT, updated);
}

/// The patch that makes the `DaemonSet` this.
fn replacing(agent: &Value) -> String {
    json!([{"op": "replace", "path": "/spec/template", "value": agent["spec"]["template"]}]).to_string()
}

fn patching(patch: &str) -> [&str; 9] {
    ["patch", "daemonset", "remora-agent", "--namespace", NAMESPACE, "--type", "json", "--patch", patch]
}

fn without(agent: &Value, path: &str) -> Value {
    let (parent, field) = path.rsplit_once('/').unwrap();
    let mut agent = agent.clone();
    agent.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
    agent
}

fn without_volume(agent: &Value, volume: &str) -> Value {
    let mut agent = agent.clone();
    for list in [format!("{POD}/volumes"), format!("{CONTAINER}/volumeMounts")] {
        remove(agent.pointer_mut(&list).unwrap(), |one| one["name"] == volume);
    }
    agent
}

/// Nothing that is mounted later in what is mounted of a volume shows up in the container.
fn without_propagation(agent: &Value, volume: &str) -> Value {
    let mounts = format!("{CONTAINER}/volumeMounts");
    let all = agent.pointer(&mounts).unwrap().as_array().unwrap();
    let at = all.iter().position(|one| one["name"] == volume).unwrap();
    without(agent, &format!("{mounts}/{at}/mountPropagation"))
}

fn without_capability(agent: &Value, capability: &str) -> Value {
    let mut agent = agent.clone();
    remove(agent.pointer_mut(&format!("{CONTAINER}/securityContext/capabilities/add")).unwrap(), |one| {
        one == capability
    });
    agent
}

fn remove(list: &mut Value, which: impl Fn(&Value) -> bool) {
    let list = list.as_array_mut().unwrap();
    let before = list.len();
    list.retain(|one| !which(one));
    assert_eq!(list.len() + 1, before, "{list:?}");
}

/// What the agent's node says of a capability that it has not.
#[track_caller]
fn lacks(scene: &Scene, capability: &str) -> String {
    let cluster = scene.vm.cluster();
    let of = |node: &Value| {
        let all = node["status"]["capabilities"].as_array();
        all.and_then(|all| all.iter().find(|one| one["name"] == capability).cloned()).unwrap_or_default()
    };
    let lacks = |node: Option<&Value>| node.is_some_and(|node| of(node)["available"] == false);
    let what = format!("it does not say that it lacks {capability}");
    let node = cluster.wait_for("agentnode", "", cluster.node_name(), &what, LIMIT, lacks).unwrap();
    of(&node)["message"].as_str().unwrap().to_owned()
}

fn said(status: &Value, kind: &str) -> String {
    condition(&json!({"status": status}), kind).unwrap()["message"].as_str().unwrap().to_owned()
}
