//! Who is given keys.

use remora_tests::s3::{KEY, SECRET};
use remora_tests::{Meddler, S3, wait_until};
use serde_json::json;

use super::cluster::{SOON, Shop, repository, repository_path, secret};

const AUDIENCE: Option<&str> = Some("remora-controller");

#[test]
fn an_agent_is_given_the_keys_of_its_node_s_runs_and_nobody_else_is() {
    let shop = Shop::open();
    let (cluster, namespace) = (shop.cluster, shop.namespace.as_str());
    let run = shop.run("run", &json!({}));
    run.claim();
    let ask = |token: Option<&str>, name: &str| cluster.controller.keys(&cluster.api, token, namespace, name);
    let agent = cluster.agent("one", AUDIENCE);
    let given = ask(Some(&agent), "run");
    assert_eq!((given.code, &given.body["tenant"]), (200, &json!(namespace)), "{given:?}");
    assert_eq!(given.body["grant"].as_str().map(str::len), Some(176));
    // Not the passphrase, which opens every tenant's part.
    let text = given.body.to_string();
    assert!(!text.contains("battery") && !text.contains("passphrase"), "{text}");

    let other = cluster.agent("two", AUDIENCE);
    for name in ["run", "none"] {
        let refused = ask(Some(&other), name);
        assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("NotThisNode")), "{refused:?}");
    }
    let accounts = "/api/v1/namespaces/remora/serviceaccounts";
    let metadata = json!({"name": "thief"});
    cluster.api.create(accounts, &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})).ok();
    // Its pod is on the run's node: it is refused for whose it is, and not for want of a node.
    let container = json!({"name": "thief", "image": "none.example.org/none"});
    let spec = json!({"nodeName": "one", "serviceAccountName": "thief", "containers": [container]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    let thief = cluster.api.create("/api/v1/namespaces/remora/pods", &pod).ok();
    for (who, token) in [
        ("nobody", None),
        ("a word", Some("owner".to_owned())),
        ("an agent, for the API server", Some(cluster.agent("one", None))),
        ("an agent of no pod", Some(cluster.api.token("remora", "remora-agent", AUDIENCE, None))),
        ("another account", Some(cluster.api.token("remora", "thief", AUDIENCE, Some(&thief)))),
        ("the controller", Some(cluster.api.token("remora", "remora-controller", AUDIENCE, None))),
    ] {
        let refused = ask(token.as_deref(), "run");
        assert_eq!(refused.code, 401, "{who}: {refused:?}");
    }
}

#[test]
fn keys_end_with_the_run_and_with_what_the_administrators_allow() {
    let shop = Shop::open();
    let (cluster, namespace) = (shop.cluster, shop.namespace.as_str());
    let run = shop.run("run", &json!({}));
    run.claim();
    let agent = cluster.agent("one", AUDIENCE);
    let ask = || cluster.controller.keys(&cluster.api, Some(&agent), namespace, "run");
    assert_eq!(ask().code, 200);
    cluster.allow(|allowed| allowed.retain(|one| one != namespace));
    let refused = ask();
    assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("RepositoryNotAllowed")), "{refused:?}");
    run.end("Failed");
    assert_eq!(ask().code, 409);
}

#[test]
fn a_point_that_is_to_be_verified_is_opened_after_the_end_until_its_owner_has_had_enough() {
    let shop = Shop::open();
    let (cluster, namespace) = (shop.cluster, shop.namespace.as_str());
    let agent = cluster.agent("one", AUDIENCE);
    let ask = |name: &str| cluster.controller.keys(&cluster.api, Some(&agent), namespace, name).code;
    for (name, verify, code) in [("plain", "None", 409), ("verified", "All", 200)] {
        let run = shop.run(name, &json!({"verify": verify}));
        run.claim();
        run.end("Complete");
        assert_eq!(ask(name), code, "{name}");
        cluster.api.merge(&run.path(), &json!({"spec": {"cancel": true}})).ok();
        assert_eq!(ask(name), 409, "{name}");
    }
}

#[test]
fn an_agent_is_told_that_a_store_is_away_and_has_its_keys_when_it_is_back() {
    let shop = Shop::open();
    let (cluster, namespace) = (shop.cluster, shop.namespace.as_str());
    let s3 = S3::start();
    let meddler = Meddler::before(s3.address());
    let name = format!("away-of-{namespace}");
    let cloud = format!("[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n");
    secret(&cluster.api, "remora", &name, &json!({"cloud": cloud}));
    let spec = json!({
        "url": s3.url_at(&s3.bucket("backups"), meddler.address()), "credentialsSecret": {"name": name},
        "passphraseSecret": {"name": "passphrase"}, "allowedNamespaces": [namespace],
    });
    repository(&cluster.api, "remora", &name, &spec);
    let run = shop.run("run", &json!({"repository": {"name": name, "namespace": "remora"}}));
    run.claim();
    let agent = cluster.agent("one", AUDIENCE);
    let ask = || cluster.controller.keys(&cluster.api, Some(&agent), namespace, "run");
    assert_eq!(ask().code, 200);
    meddler.go_down();
    let told = ask();
    assert_eq!((told.code, &told.body["reason"]), (503, &json!("RepositoryNotReady")), "{told:?}");
    meddler.come_back();
    assert_eq!(ask().code, 200);
}

/// Policies name Repositories, and two of these may be one place.
#[test]
fn an_agent_is_told_which_of_the_administrators_repositories_are_elsewhere() {
    let shop = Shop::open();
    let (cluster, namespace) = (shop.cluster, shop.namespace.as_str());
    let store = tempfile::tempdir().unwrap();
    let here = cluster.api.get(&repository_path("remora", "offsite"))["spec"]["url"].clone();
    let there = json!(format!("file://{}/r", store.path().display()));
    let (same, other) = (format!("same-of-{namespace}"), format!("other-of-{namespace}"));
    for (name, url) in [(&same, here), (&other, there)] {
        let spec = json!({"url": url, "passphraseSecret": {"name": "passphrase"}});
        repository(&cluster.api, "remora", name, &spec);
        wait_until(format_args!("{name} is not opened"), SOON, || {
            cluster.ready("remora", name).is_some_and(|one| one["status"] == "True")
        });
    }
    let run = shop.run("run", &json!({}));
    run.claim();
    let agent = cluster.agent("one", AUDIENCE);
    let given = cluster.controller.keys(&cluster.api, Some(&agent), namespace, "run");
    let elsewhere = given.body["elsewhere"].as_array().unwrap();
    let is_told = [other.as_str(), &same, "offsite"].map(|name| elsewhere.contains(&json!(name)));
    assert_eq!(is_told, [true, false, false], "{elsewhere:?}");
}
