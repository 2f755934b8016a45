#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;

/// A repository of these namespaces, ready unless said.
fn repository(allowed: &[&str], status: &str) -> Repository {
    serde_json::from_value(json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "offsite"},
        "spec": {"url": "s3://b/p", "passphraseSecret": {"name": "p"}, "allowedNamespaces": allowed},
        "status": {
            "repositoryId": "00112233445566778899aabbccddeeff",
            "conditions": [{
                "type": "Ready", "status": status, "reason": "R", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    }))
    .unwrap()
}

#[test]
fn a_repository_serves_its_own_namespace_and_of_the_administrators_those_that_it_lists() {
    let ready = |facts: &RepositoryFacts| matches!(facts, RepositoryFacts::Ready(_));
    let of = |namespace: &str, tenant: &str, allowed: &[&str]| {
        repository_facts(Some(&repository(allowed, "True")), "remora", namespace, tenant)
    };
    assert!(ready(&of("shop", "shop", &[])));
    assert!(ready(&of("remora", "shop", &["bank", "shop"])));
    assert!(ready(&of("remora", "remora", &[])));
    for (namespace, tenant, allowed) in [
        ("remora", "shop", &[][..]),
        ("remora", "shop", &["bank"]),
        ("bank", "shop", &["shop"]),
        ("bank", "remora", &[]),
    ] {
        assert_eq!(of(namespace, tenant, allowed), RepositoryFacts::NotAllowed, "{namespace} {tenant} {allowed:?}");
    }
    // Nobody learns which repositories others have.
    let none = |namespace: &str| repository_facts(None, "remora", namespace, "shop");
    assert_eq!(none("shop"), RepositoryFacts::Missing);
    assert_eq!((none("remora"), none("bank")), (RepositoryFacts::NotAllowed, RepositoryFacts::NotAllowed));
    let broken = repository_facts(Some(&repository(&[], "False")), "remora", "shop", "shop");
    assert_eq!(broken, RepositoryFacts::NotReady("m".into()));
}

/// Of an agent.
fn container(ready: bool, restarts: i32, state: &serde_json::Value) -> serde_json::Value {
    json!({
        "name": "agent", "image": "i", "imageID": "", "ready": ready, "restartCount": restarts, "state": state,
    })
}

#[test]
fn an_agent_that_crashes_over_and_over_is_none_at_any_instant_of_that() {
    let pod = |phase: &str, leaving: Option<&str>, ready: &str, state: &serde_json::Value| -> Pod {
        let container = container(ready == "True", 7, state);
        serde_json::from_value(json!({
            "metadata": {"name": "agent", "uid": "u", "deletionTimestamp": leaving},
            "status": {
                "phase": phase, "containerStatuses": [container],
                "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}],
            },
        }))
        .unwrap()
    };
    let runs = json!({"running": {}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    assert_eq!(agent(&pod("Running", None, "True", &runs)), Some(Agent { uid: "u".into(), is_ready: true }));
    // From its start to its crash, and until it is started again.
    for state in [runs.clone(), json!({"terminated": {"exitCode": 1}}), waiting("CrashLoopBackOff")] {
        assert_eq!(agent(&pod("Running", None, "False", &state)), None, "{state}");
    }
    assert_eq!(agent(&pod("Pending", None, "False", &waiting("ContainerCreating"))), None);
    assert_eq!(agent(&pod("Running", Some("2026-01-01T00:00:00Z"), "True", &runs)), None);
    let untold: Pod =
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": {"phase": "Running"}})).unwrap();
    assert!(agent(&untold).is_some_and(|agent| agent.is_ready), "nothing speaks against it");
}

/// It takes over what another one leaves, as soon as it knows of it.
#[test]
fn an_agent_that_was_just_started_lives_and_is_not_ready_and_one_of_a_lost_node_does_not() {
    let is_ready = |container: serde_json::Value| {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "agent", "uid": "u"},
            "status": {
                "phase": "Running", "containerStatuses": [container],
                "conditions": [{"type": "Ready", "status": "False"}],
            },
        }))
        .unwrap();
        agent(&pod).map(|agent| agent.is_ready)
    };
    let runs = json!({"running": {}});
    assert_eq!(is_ready(container(false, 0, &runs)), Some(false));
    assert_eq!(is_ready(container(false, 0, &json!({"terminated": {"exitCode": 1}}))), None);
    // The node says nothing of its containers any more.
    assert_eq!(is_ready(container(true, 0, &runs)), None);
}

#[test]
fn a_class_is_the_default_by_its_annotation_of_today_and_by_that_of_before() {
    for (name, value, wanted) in [
        ("storageclass.kubernetes.io/is-default-class", "true", true),
        ("storageclass.beta.kubernetes.io/is-default-class", "true", true),
        ("storageclass.kubernetes.io/is-default-class", "false", false),
        ("example.org/is-default-class", "true", false),
    ] {
        let annotations = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert_eq!(is_default(&annotations), wanted, "{name}={value}");
    }
}
