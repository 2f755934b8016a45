//! Repositories that the controller opens, or does not.

use std::net::TcpListener;

use remora_tests::s3::{KEY, SECRET, Transport};
use remora_tests::{ApiServer, Plugin, S3, wait_until};
use serde_json::{Value, json};

use super::cluster::{SOON, Shop, repository, secret};

/// Waits for what is said of a repository.
#[track_caller]
fn waits_for(shop: &Shop, namespace: &str, name: &str, reason: &str) -> String {
    let mut said = Value::Null;
    wait_until(format_args!("repository {namespace}/{name} does not say {reason}"), SOON, || {
        said = shop.cluster.ready(namespace, name).unwrap_or_default();
        said["reason"] == reason
    });
    said["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
pub(super) fn what_is_missing_of_a_repository_is_named() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let spec = |passphrase: &str| {
        json!({
            "url": "s3://bucket/prefix", "credentialsSecret": {"name": "credentials"}, "passphraseSecret": {"name": passphrase},
        })
    };
    repository(api, &shop.namespace, "none", &spec("none"));
    assert!(waits_for(&shop, &shop.namespace, "none", "SecretMissing").contains("Secret none"));
    shop.tells("Repository", "none", "SecretMissing");
    secret(api, &shop.namespace, "short", &json!({"passphrase": "hunter2"}));
    repository(api, &shop.namespace, "short", &spec("short"));
    let message = waits_for(&shop, &shop.namespace, "short", "PassphraseTooShort");
    assert!(message.contains("20 characters") && !message.contains("hunter2"), "{message}");
    let other = json!({"other": "correct horse battery staple"});
    secret(api, &shop.namespace, "key", &other);
    repository(api, &shop.namespace, "key", &spec("key"));
    assert!(waits_for(&shop, &shop.namespace, "key", "SecretMissing").contains("no key passphrase"));
    let location = json!({"backupStorageLocation": "default", "passphraseSecret": {"name": "key", "key": "other"}});
    repository(api, &shop.namespace, "velero", &location);
    let message = waits_for(&shop, &shop.namespace, "velero", "LocationMissing");
    assert!(message.contains("BackupStorageLocation default"), "{message}");
    repository(
        api,
        &shop.namespace,
        "ambient",
        &json!({"url": "s3://b/p", "passphraseSecret": {"name": "key", "key": "other"}}),
    );
    assert!(waits_for(&shop, &shop.namespace, "ambient", "NotAllowed").contains("its own credentials"));
    repository(
        api,
        &shop.namespace,
        "folder",
        &json!({"url": "file:///srv", "passphraseSecret": {"name": "key", "key": "other"}}),
    );
    assert!(waits_for(&shop, &shop.namespace, "folder", "NotAllowed").contains("lies in a bucket"));
}

/// The admission's policy for tenants is not applied here: what it keeps out, the controller does not use either.
#[test]
fn a_tenant_s_repository_connects_to_nothing_inside() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    secret(api, &shop.namespace, "passphrase", &json!({"passphrase": "correct horse battery staple"}));
    let keys = "[default]\naws_access_key_id=a\naws_secret_access_key=s\n";
    secret(api, &shop.namespace, "credentials", &json!({"cloud": keys}));
    for (name, host) in
        [("address", "127.0.0.1"), ("short", "127.1"), ("name", "localhost"), ("v6", "[::ffff:127.0.0.1]")]
    {
        let spec = json!({
            "url": format!("s3://bucket/prefix?endpoint=http://{host}:{port}"),
            "credentialsSecret": {"name": "credentials"}, "passphraseSecret": {"name": "passphrase"},
        });
        repository(api, &shop.namespace, name, &spec);
        let message = waits_for(&shop, &shop.namespace, name, "Unavailable");
        assert!(message.contains("is not an address of the internet"), "{host}: {message}");
    }
    // Credentials that name this pod's token, or a server of theirs.
    for (name, line) in
        [("file", "aws_web_identity_token_file=/etc/passwd"), ("server", "aws_endpoint_url=http://127.0.0.1")]
    {
        secret(api, &shop.namespace, name, &json!({"cloud": format!("{keys}{line}\n")}));
        let spec = json!({
            "url": "s3://bucket/prefix", "credentialsSecret": {"name": name}, "passphraseSecret": {"name": "passphrase"},
        });
        repository(api, &shop.namespace, &format!("credentials-{name}"), &spec);
        waits_for(&shop, &shop.namespace, &format!("credentials-{name}"), "Refused");
    }
    assert!(listener.accept().is_err(), "it connected");
}

#[test]
fn a_repository_of_a_plugin_is_the_administrators_and_no_tenant_s() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let s3 = S3::start();
    let plugin = Plugin::of_bucket(s3.address(), &s3.bucket("backups"));
    let (folder, asked) = (shop.cluster.controller.plugins(), s3.all_requests());
    for file in std::fs::read_dir(plugin.folder()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    let spec = |prefix: &str| json!({"url": plugin.url(prefix), "passphraseSecret": {"name": "passphrase"}});
    secret(api, &shop.namespace, "passphrase", &json!({"passphrase": "correct horse battery staple"}));
    repository(api, &shop.namespace, "plugin", &spec("tenant"));
    assert!(waits_for(&shop, &shop.namespace, "plugin", "NotAllowed").contains("a plugin is the administrators'"));
    assert_eq!(s3.all_requests(), asked, "the plugin was used");
    let name = format!("plugin-of-{}", shop.namespace);
    repository(api, "remora", &name, &spec("administrators"));
    let message = waits_for(&shop, "remora", &name, "Opened");
    assert!(message.contains("plugin:s3/administrators"), "{message}");
    assert!(s3.files("backups").join("administrators/remora.json").is_file());
    let other = json!({"url": "plugin:other/x", "passphraseSecret": {"name": "passphrase"}});
    let name = format!("no-plugin-of-{}", shop.namespace);
    repository(api, "remora", &name, &other);
    assert!(waits_for(&shop, "remora", &name, "StoreMissing").contains("other.yaml"));
}

#[test]
fn a_new_repository_is_made_once_and_another_one_in_its_place_is_noticed() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let store = tempfile::tempdir().unwrap();
    let name = format!("of-{}", shop.namespace);
    let spec =
        json!({"url": format!("file://{}/r", store.path().display()), "passphraseSecret": {"name": "passphrase"}});
    repository(api, "remora", &name, &spec);
    waits_for(&shop, "remora", &name, "Opened");
    let path = super::cluster::repository_path("remora", &name);
    let status = api.get(&path)["status"].clone();
    assert!(store.path().join("r/remora.json").is_file() && status["repositoryId"].as_str().unwrap().len() == 32);
    assert!(!status.to_string().contains("battery"));
    shop.cluster.tells("remora", "Repository", &name, "Initialized");
    let events = shop.cluster.events("remora", "Repository", &name);
    assert_eq!(events.iter().filter(|reason| *reason == "Initialized").count(), 1, "{events:?}");

    // Emptied: that is a loss to tell of, and no place to begin anew.
    std::fs::remove_dir_all(store.path().join("r")).unwrap();
    api.merge(&path, &json!({"spec": {"allowedNamespaces": ["elsewhere"]}})).ok();
    waits_for(&shop, "remora", &name, "StoreMissing");
    shop.cluster.tells("remora", "Repository", &name, "StoreMissing");
    assert!(!store.path().join("r").exists());
}

#[test]
fn a_passphrase_that_is_another_s_is_said_with_the_secret_that_it_belongs_into() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let store = tempfile::tempdir().unwrap();
    let [sound, other] = ["sound", "other"].map(|name| format!("{name}-of-{}", shop.namespace));
    let spec = |secret: &str| json!({"url": format!("file://{}/r", store.path().display()), "passphraseSecret": {"name": secret}});
    repository(api, "remora", &sound, &spec("passphrase"));
    waits_for(&shop, "remora", &sound, "Opened");
    secret(api, "remora", &other, &json!({"passphrase": "another horse, another staple"}));
    repository(api, "remora", &other, &spec(&other));
    let message = waits_for(&shop, "remora", &other, "WrongPassphrase");
    assert!(message.contains(&format!("into key passphrase of Secret {other}")), "{message}");
    assert!(!message.contains("another staple") && !message.contains("REMORA_PASSPHRASE"), "{message}");
    shop.cluster.tells("remora", "Repository", &other, "WrongPassphrase");
    let path = super::cluster::repository_path("remora", &other);
    assert_eq!(api.get(&path)["status"]["repositoryId"], Value::Null);

    // Put right, it is the same one.
    let right = json!({"stringData": {"passphrase": "correct horse battery staple"}});
    api.merge(&format!("/api/v1/namespaces/remora/secrets/{other}"), &right).ok();
    api.merge(&path, &json!({"spec": {"allowedNamespaces": ["elsewhere"]}})).ok();
    waits_for(&shop, "remora", &other, "Opened");
    let id = |name: &str| api.get(&super::cluster::repository_path("remora", name))["status"]["repositoryId"].clone();
    assert_eq!(id(&other), id(&sound));
}

#[test]
fn credentials_that_the_store_rejects_are_said_and_nothing_is_begun_with_them() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let s3 = S3::start();
    let name = format!("rejected-of-{}", shop.namespace);
    let keys =
        |key: &str| json!({"cloud": format!("[default]\naws_access_key_id={KEY}\naws_secret_access_key={key}\n")});
    secret(api, "remora", &name, &keys("another-one"));
    let spec = json!({
        "url": s3.url(&s3.bucket("backups")), "credentialsSecret": {"name": name},
        "passphraseSecret": {"name": "passphrase"}, "allowedNamespaces": [shop.namespace],
    });
    repository(api, "remora", &name, &spec);
    let to_do = "The store does not accept the credentials: check them";
    let message = waits_for(&shop, "remora", &name, "Unavailable");
    assert!(message.contains("SignatureDoesNotMatch") && message.contains(to_do), "{message}");
    assert!(message.ends_with(&format!(" They are in Secret {name}.")), "{message}");
    assert!(!message.contains("another-one"), "{message}");
    shop.cluster.tells("remora", "Repository", &name, "Unavailable");
    let run = shop.run("run", &json!({"repository": {"name": name, "namespace": "remora"}}));
    let message = run.waits_for("Assigned", "RepositoryNotReady");
    assert!(message.contains(to_do), "{message}");
    shop.tells("BackupRun", "run", "RepositoryNotReady");
    let path = super::cluster::repository_path("remora", &name);
    assert_eq!(api.get(&path)["status"]["repositoryId"], Value::Null);
    assert_eq!(shop.made(), [""; 0]);
    let folder = s3.files("backups").join("a/repository");
    assert!(!folder.exists(), "a repository was begun");

    // Put right, it is made, and what waited for it begins.
    api.merge(&format!("/api/v1/namespaces/remora/secrets/{name}"), &json!({"stringData": keys(SECRET)})).ok();
    api.merge(&path, &json!({"spec": {"allowedNamespaces": [shop.namespace, "elsewhere"]}})).ok();
    waits_for(&shop, "remora", &name, "Opened");
    assert!(folder.join("remora.json").is_file());
    run.waits_for("Assigned", "Assigned");
}

#[test]
fn a_store_with_a_ca_of_its_own_is_reached_by_who_is_given_that_and_by_nobody_else() {
    let shop = Shop::open();
    let (cluster, api) = (shop.cluster, &shop.cluster.api);
    let s3 = S3::start_with(Transport::Https);
    let name = format!("private-ca-of-{}", shop.namespace);
    let cloud = std::fs::read_to_string(s3.credentials()).unwrap();
    secret(api, "remora", &name, &json!({"cloud": cloud}));
    let spec = json!({
        "url": s3.url(&s3.bucket("backups")), "credentialsSecret": {"name": name},
        "passphraseSecret": {"name": "passphrase"}, "allowedNamespaces": [shop.namespace],
    });
    repository(api, "remora", &name, &spec);
    let message = waits_for(&shop, "remora", &name, "Unavailable");
    assert!(message.contains("name it in caSecret") && !message.contains("--ca-file"), "{message}");

    // A wrong key of a Secret: what it holds is told to nobody.
    let path = super::cluster::repository_path("remora", &name);
    let give = |key: &str| {
        let reference = json!({"name": format!("{name}-ca"), "key": key});
        api.merge(&path, &json!({"spec": {"caSecret": reference}})).ok();
    };
    give("ca.crt");
    assert!(waits_for(&shop, "remora", &name, "SecretMissing").contains("the store's CA"));
    let ca = std::fs::read_to_string(s3.ca_file()).unwrap();
    secret(api, "remora", &format!("{name}-ca"), &json!({"ca.crt": ca, "other": "hunter2"}));
    give("other");
    let message = waits_for(&shop, "remora", &name, "CaInvalid");
    assert!(message.contains("Key other of Secret") && !message.contains("hunter2"), "{message}");

    give("ca.crt");
    waits_for(&shop, "remora", &name, "Opened");
    assert!(s3.files("backups").join("a/repository/remora.json").is_file());
    // The agent, and by it the movers, have the same.
    let run = shop.run("run", &json!({"repository": {"name": name, "namespace": "remora"}}));
    run.claim();
    let agent = cluster.agent("one", Some("remora-controller"));
    let given = cluster.controller.keys(api, Some(&agent), &shop.namespace, "run");
    assert_eq!((given.code, &given.body["ca"]), (200, &json!(ca)), "{}", given.code);
}

/// A place of Velero's in a bucket of the server, and its credentials.
fn location(api: &ApiServer, namespace: &str, name: &str, s3: &S3) {
    let keys = std::fs::read_to_string(s3.credentials()).unwrap();
    secret(api, namespace, name, &json!({"keys": keys}));
    let location = json!({
        "apiVersion": "velero.io/v1", "kind": "BackupStorageLocation", "metadata": {"name": name},
        "spec": {
            "provider": "velero.io/aws",
            "objectStorage": {"bucket": "velero", "prefix": "cluster"},
            "config": {"region": "us-east-1", "s3ForcePathStyle": "true", "s3Url": s3.endpoint()},
            "credential": {"name": name, "key": "keys"},
        },
    });
    api.create(&format!("/apis/velero.io/v1/namespaces/{namespace}/backupstoragelocations"), &location).ok();
}

#[test]
fn a_place_of_velero_s_holds_a_repository_beside_velero_s_folder_and_for_its_own_namespace() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    api.define(include_str!("../velero/locations.yaml"));
    let s3 = S3::start();
    s3.bucket("velero");
    let name = format!("velero-of-{}", shop.namespace);
    location(api, "remora", &name, &s3);
    let spec = |location: &str| json!({"backupStorageLocation": location, "passphraseSecret": {"name": "passphrase"}});
    repository(api, "remora", &name, &spec(&name));
    let message = waits_for(&shop, "remora", &name, "Opened");
    assert!(message.contains("s3://velero/cluster-remora"), "{message}");
    let bucket = s3.files("velero");
    assert!(bucket.join("cluster-remora/remora.json").is_file() && !bucket.join("cluster").exists());
    let asked = s3.all_requests();

    // A tenant has those of its own namespace only.
    secret(api, &shop.namespace, "passphrase", &json!({"passphrase": "correct horse battery staple"}));
    repository(api, &shop.namespace, "borrowed", &spec(&name));
    let message = waits_for(&shop, &shop.namespace, "borrowed", "LocationMissing");
    assert!(message.contains(&format!("no BackupStorageLocation {name} in namespace {}", shop.namespace)), "{message}");
    shop.tells("Repository", "borrowed", "LocationMissing");
    let run = shop.run("run", &json!({"repository": {"name": name, "namespace": "remora"}}));
    run.waits_for("Assigned", "RepositoryNotAllowed");
    // And of these none that leads inside.
    location(api, &shop.namespace, "inside", &s3);
    repository(api, &shop.namespace, "inside", &spec("inside"));
    let message = waits_for(&shop, &shop.namespace, "inside", "Unavailable");
    assert!(message.contains("is not an address of the internet"), "{message}");
    assert_eq!(s3.all_requests(), asked, "a tenant's repository was looked for");
}
