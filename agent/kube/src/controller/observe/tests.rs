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

#[test]
fn an_agent_that_crashes_over_and_over_is_none_at_any_instant_of_that() {
    let pod = |phase: &str, leaving: Option<&str>, ready: &str, state: &serde_json::Value| -> Pod {
        let container = json!({
            "name": "agent", "image": "i", "imageID": "", "ready": ready == "True", "restartCount": 7, "state": state,
        });
        serde_json::from_value(json!({
            "metadata": {"name": "agent", "deletionTimestamp": leaving},
            "status": {
                "phase": phase, "containerStatuses": [container],
                "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}],
            },
        }))
        .unwrap()
    };
    let runs = json!({"running": {}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    assert!(works(&pod("Running", None, "True", &runs)));
    // From its start to its crash, and until it is started again.
    for state in [runs.clone(), json!({"terminated": {"exitCode": 1}}), waiting("CrashLoopBackOff")] {
        assert!(!works(&pod("Running", None, "False", &state)), "{state}");
    }
    // Its node is lost.
    assert!(!works(&pod("Running", None, "Unknown", &runs)));
    assert!(!works(&pod("Pending", None, "False", &waiting("ContainerCreating"))));
    assert!(!works(&pod("Running", Some("2026-01-01T00:00:00Z"), "True", &runs)));
    let untold: Pod = serde_json::from_value(json!({"status": {"phase": "Running"}})).unwrap();
    assert!(works(&untold), "nothing speaks against it");
}
