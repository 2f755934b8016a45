//! Each overlay, applied as users apply it.

use std::collections::BTreeSet;
use std::time::Duration;

use remora_tests::{ApiServer, run, wait_until};
use serde_json::{Value, json};

use super::{built, deploy, find, texts};
use crate::api;

/// How much later than it is applied a policy may be in force.
const IN_FORCE: Duration = Duration::from_mins(10);

/// The kind of `OpenShift` alone, as far as an object of it can be stored.
const CONSTRAINTS: &str = "
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: securitycontextconstraints.security.openshift.io
spec:
  group: security.openshift.io
  scope: Cluster
  names: {kind: SecurityContextConstraints, plural: securitycontextconstraints, singular: securitycontextconstraint}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

/// Applies it; everything is taken without a warning.
#[track_caller]
fn apply(api: &ApiServer, overlay: &str) {
    let mut kubectl = api.kubectl();
    kubectl.args(["apply", "--server-side", "--force-conflicts", "--validate=strict", "--kustomize"]);
    let ran = run(kubectl.arg(deploy(overlay))).ok();
    assert_eq!(ran.text().lines().count(), built(api, overlay).len(), "{}", ran.text());
    assert_eq!(ran.stderr, "", "{overlay}");
}

/// A pod as a controller of workloads makes it.
fn pod(workload: &Value, name: &str) -> Value {
    let mut pod = workload["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    pod
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

#[test]
fn each_overlay_is_taken_and_only_the_agents_need_a_privileged_namespace() {
    let api = ApiServer::start();
    api.define(CONSTRAINTS);
    let restricted = json!({"name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}});
    let restricted = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": restricted});
    api.create("/api/v1/namespaces", &restricted).ok();
    for overlay in ["overlays/plain", "overlays/openshift"] {
        apply(&api, overlay);
        let objects = built(&api, overlay);
        let name = overlay.trim_start_matches("overlays/");
        let controller = pod(find(&objects, "Deployment", "remora-controller"), &format!("controller-{name}"));
        api.create(&pods("restricted"), &controller).ok();
        let agent = pod(find(&objects, "DaemonSet", "remora-agent"), &format!("agent-{name}"));
        crate::says(&api.create(&pods("restricted"), &agent).refused(), "violates PodSecurity");
        api.create(&pods("remora"), &agent).ok();
    }
}

#[test]
fn beside_velero_the_administrators_are_those_of_its_namespace() {
    let api = ApiServer::start();
    api.define(CONSTRAINTS);
    for (overlay, namespace) in [("overlays/oadp", "openshift-adp"), ("overlays/velero", "velero")] {
        api.make_namespace(namespace);
        apply(&api, overlay);
        let objects = built(&api, overlay);
        let trace = objects.iter().filter(|object| object["kind"] != "CustomResourceDefinition").find_map(of_remora);
        assert_eq!(trace, None, "{overlay}");
        assert!(objects.iter().all(|object| object["kind"] != "Namespace"), "whoever deletes it would delete Velero");
    }
    api.make_namespace("remora");
    let code = |namespace: &str| {
        let name = format!("try-{}", fastrand::u32(..));
        let spec = json!({"url": "file:///srv", "passphraseSecret": {"name": "passphrase"}});
        let object = json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": {"name": name}, "spec": spec,
        });
        api.create(&format!("/apis/remora.dev/v1alpha1/namespaces/{namespace}/repositories"), &object).code
    };
    wait_until("a folder is not the administrators' alone", IN_FORCE, || {
        (code("velero"), code("openshift-adp"), code("remora")) == (201, 422, 422)
    });
}

/// A text that means the namespace of another overlay.
fn of_remora(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => {
            let means = text == "remora" || text.contains("serviceaccount:remora:");
            means.then(|| text.clone())
        }
        Value::Array(values) => values.iter().find_map(of_remora),
        Value::Object(fields) => fields.values().find_map(of_remora),
        _ => None,
    }
}

/// What the `SecurityContextConstraints` allow is what the agent's pod asks for.
#[test]
fn openshift_allows_the_agents_what_they_ask_for_and_nothing_else() {
    let objects = built(api(), "overlays/openshift");
    let allowed = find(&objects, "SecurityContextConstraints", "remora-agent");
    let pod = &find(&objects, "DaemonSet", "remora-agent")["spec"]["template"]["spec"];
    let container = &pod["containers"][0]["securityContext"];
    let set = |list: &Value| texts(list).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(set(&allowed["allowedCapabilities"]), set(&container["capabilities"]["add"]));
    assert_eq!(allowed["requiredDropCapabilities"], container["capabilities"]["drop"]);
    assert_eq!(allowed["runAsUser"]["uid"], container["runAsUser"]);
    assert_eq!(allowed["seLinuxContext"]["seLinuxOptions"], pod["securityContext"]["seLinuxOptions"]);
    assert_eq!(allowed["readOnlyRootFilesystem"], container["readOnlyRootFilesystem"]);
    let asks = |field: &str| pod[field].as_bool().unwrap_or(false);
    for (permission, asked) in [
        ("allowHostPID", asks("hostPID")),
        ("allowHostIPC", asks("hostIPC")),
        ("allowHostNetwork", asks("hostNetwork")),
        ("allowPrivilegedContainer", container["privileged"] == true),
        ("allowPrivilegeEscalation", container["allowPrivilegeEscalation"] != false),
    ] {
        assert_eq!(allowed[permission], asked, "{permission}");
    }
    let volumes = pod["volumes"].as_array().unwrap().iter();
    let kinds = volumes.flat_map(|volume| volume.as_object().unwrap().keys().filter(|key| *key != "name").cloned());
    assert_eq!(set(&allowed["volumes"]), kinds.collect::<BTreeSet<_>>());
}

/// What is served is reached where network policies are enforced, and keys by agents alone.
#[test]
fn the_network_policies_open_what_is_served_and_the_keys_to_agents_alone() {
    for overlay in ["overlays/plain", "overlays/openshift", "overlays/velero", "overlays/oadp"] {
        let objects = built(api(), overlay);
        for (kind, program) in [("DaemonSet", "remora-agent"), ("Deployment", "remora-controller")] {
            let (policy, workload) = (find(&objects, "NetworkPolicy", program), find(&objects, kind, program));
            assert_eq!(policy["metadata"]["namespace"], workload["metadata"]["namespace"], "{program} in {overlay}");
            let (policy, pod) = (&policy["spec"], &workload["spec"]["template"]);
            assert_eq!(policy["policyTypes"], json!(["Ingress"]));
            for (label, value) in policy["podSelector"]["matchLabels"].as_object().unwrap() {
                assert_eq!(pod["metadata"]["labels"][label], *value, "{program} in {overlay}");
            }
            let names = |list: &Value, field: &str| {
                let list = list.as_array().unwrap().iter();
                list.map(|one| one[field].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
            };
            let rules = policy["ingress"].as_array().unwrap();
            let opened: BTreeSet<_> = rules.iter().flat_map(|rule| names(&rule["ports"], "port")).collect();
            assert_eq!(opened, names(&pod["spec"]["containers"][0]["ports"], "name"), "{program} in {overlay}");
            let agents = json!([{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "remora-agent"}}}]);
            for rule in rules.iter().filter(|rule| names(&rule["ports"], "port").contains("keys")) {
                assert_eq!((&rule["from"], rule["ports"].as_array().unwrap().len()), (&agents, 1), "{overlay}");
            }
        }
    }
}
