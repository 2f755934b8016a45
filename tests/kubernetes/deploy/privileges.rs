//! The tables of docs/kubernetes.md name each privilege that is deployed, and no other.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{built, find, table, texts};
use crate::api;

const DOCUMENT: &str = include_str!("../../../docs/kubernetes.md");

const API: &str = "at the API server";
const NODE: &str = "on its node";
const PROGRAMS: [(&str, &str); 2] = [("DaemonSet", "remora-agent"), ("Deployment", "remora-controller")];

/// What the table of a program says that it may; each row ends with a reason.
fn listed(program: &str, place: &str) -> BTreeSet<String> {
    let rows = table(DOCUMENT, &format!("### `{program}` {place}"));
    assert!(rows.iter().all(|cells| cells.last().is_some_and(|reason| reason.len() > 5)), "{rows:?}");
    let told: BTreeSet<_> = rows.iter().map(|cells| cells[..cells.len() - 1].join(": ")).collect();
    assert_eq!(told.len(), rows.len(), "a row stands there twice: {rows:?}");
    told
}

fn quoted(list: &Value) -> String {
    texts(list).iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", ")
}

/// A rule of a role, as the table has it.
fn rule(kind: &str, rule: &Value) -> String {
    let groups = texts(&rule["apiGroups"]);
    assert_eq!(groups.len(), 1, "a rule of its own for each group: {rule}");
    let of = if groups[0].is_empty() { String::new() } else { format!(" of `{}`", groups[0]) };
    let only = &rule["resourceNames"];
    let named = if only.is_null() { String::new() } else { format!(" named {}", quoted(only)) };
    let place = if kind == "Role" { ", in remora's namespace" } else { "" };
    let on = format!("{}{of}{named}{place}", quoted(&rule["resources"]));
    format!("{on}: {}", texts(&rule["verbs"]).join(", "))
}

/// The roles that are bound to a `ServiceAccount`, and what they allow.
fn rules(objects: &[Value], account: &str) -> BTreeSet<String> {
    let bindings = objects.iter().filter(|object| object["roleRef"].is_object());
    let bound = bindings
        .filter(|binding| binding["subjects"].as_array().unwrap().iter().any(|subject| subject["name"] == account));
    let roles = bound.map(|binding| {
        let role = &binding["roleRef"];
        // What holds in one namespace only is told of as such.
        let kind = if binding["kind"] == "RoleBinding" { "Role" } else { "ClusterRole" };
        (kind, find(objects, role["kind"].as_str().unwrap(), role["name"].as_str().unwrap()))
    });
    roles.flat_map(|(kind, role)| role["rules"].as_array().unwrap().iter().map(move |one| rule(kind, one))).collect()
}

#[test]
fn each_rule_of_the_api_server_stands_in_the_table_with_its_reason() {
    for overlay in ["overlays/plain", "overlays/openshift", "overlays/velero", "overlays/oadp"] {
        let objects = built(api(), overlay);
        for (_, program) in PROGRAMS {
            let mut wanted = listed(program, API);
            if overlay.ends_with("openshift") || overlay.ends_with("oadp") {
                wanted.extend(listed(program, "at the API server of OpenShift"));
            }
            assert!(wanted.len() > 5, "{program}: {wanted:?}");
            assert_eq!(rules(&objects, program), wanted, "{program} in {overlay}");
        }
    }
}

/// What a pod asks of its node beyond what "restricted" gives to everybody.
fn asked(pod: &Value) -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    for field in ["hostPID", "hostIPC", "hostNetwork"] {
        if pod[field] == true {
            asked.insert(format!("`{field}`"));
        }
    }
    if let Some(kind) = pod["securityContext"]["seLinuxOptions"]["type"].as_str() {
        asked.insert(format!("SELinux type `{kind}`"));
    }
    for container in pod["containers"].as_array().unwrap() {
        asked.extend(of_container(&pod["securityContext"], &container["securityContext"]));
        let mounts = container["volumeMounts"].as_array().unwrap();
        for volume in pod["volumes"].as_array().unwrap().iter().filter(|volume| volume["hostPath"].is_object()) {
            let mut all = mounts.iter().filter(|mount| mount["name"] == volume["name"]);
            let how = if all.all(|mount| mount["readOnly"] == true) { ", read-only" } else { "" };
            asked.insert(format!("host path `{}`{how}", volume["hostPath"]["path"].as_str().unwrap()));
        }
    }
    asked
}

fn of_container(pod: &Value, container: &Value) -> Vec<String> {
    let of = |field: &str| if container[field].is_null() { &pod[field] } else { &container[field] };
    let mut asked: Vec<_> =
        texts(&container["capabilities"]["add"]).iter().map(|name| format!("capability `{name}`")).collect();
    for (holds, what) in [
        (of("runAsNonRoot") != true, "uid 0"),
        (container["privileged"] == true, "privileged"),
        (container["allowPrivilegeEscalation"] != false, "more privileges later"),
        (container["readOnlyRootFilesystem"] != true, "a root that can be written"),
        (texts(&container["capabilities"]["drop"]) != ["ALL"], "capabilities that are not dropped"),
        (of("seccompProfile")["type"] != "RuntimeDefault", "system calls that RuntimeDefault refuses"),
    ] {
        asked.extend(holds.then(|| what.to_owned()));
    }
    asked
}

#[test]
fn each_privilege_on_the_node_stands_in_the_table_with_its_reason() {
    for overlay in ["overlays/plain", "overlays/openshift", "overlays/velero", "overlays/oadp"] {
        let objects = built(api(), overlay);
        for (kind, program) in PROGRAMS {
            let pod = &find(&objects, kind, program)["spec"]["template"]["spec"];
            assert_eq!(asked(pod), listed(program, NODE), "{program} in {overlay}");
        }
    }
    assert!(!listed("remora-agent", NODE).is_empty());
    assert!(listed("remora-controller", NODE).is_empty(), "it asks for nothing");
}
