//! `Repository`.

use serde_json::{Value, json};

use crate::{Resources, with};

fn repositories() -> Resources {
    Resources::new("Repository", "repositories")
}

fn spec() -> Value {
    json!({"url": "s3://bucket/prefix", "passphraseSecret": {"name": "passphrase"}})
}

#[test]
fn a_repository_has_one_place_and_stays_there() {
    let repositories = repositories();
    let words = "name the place either by url or by backupStorageLocation";
    repositories.refuses(&with(spec(), &json!({"url": null})), words);
    repositories.refuses(&with(spec(), &json!({"backupStorageLocation": "default"})), words);

    repositories.create("by-url", &spec()).ok();
    let velero = json!({"url": null, "backupStorageLocation": "default"});
    repositories.create("by-location", &with(spec(), &velero)).ok();
    let words = "a repository stays where it is: create another Repository";
    repositories.refuses_change("by-url", &json!({"url": "s3://bucket/elsewhere"}), words);
    repositories.refuses_change("by-url", &velero, words);
    repositories.refuses_change("by-location", &json!({"backupStorageLocation": "other"}), words);
    repositories.refuses_change(
        "by-location",
        &json!({"backupStorageLocation": null, "url": "s3://bucket/prefix"}),
        words,
    );

    // What opens it may change.
    repositories.change("by-url", &json!({"passphraseSecret": {"name": "renamed"}})).ok();
    repositories.change("by-url", &json!({"credentialsSecret": {"name": "rotated"}})).ok();
    assert_eq!(repositories.spec("by-url")["passphraseSecret"], json!({"name": "renamed", "key": "passphrase"}));
}

#[test]
fn a_url_is_one_that_remora_knows() {
    let repositories = repositories();
    for url in [
        "bucket/prefix",
        "/backups",
        "s3:bucket",
        "s3:///prefix",
        "https://s3.example.org/b",
        "file://host/a",
        "ftp://x/y",
        "plugin:",
        "plugin:../x/y",
        "plugin:acme/a?b",
        "plugin:acme/a b",
    ] {
        repositories.refuses(&with(spec(), &json!({"url": url})), "url is s3://bucket/prefix, az://container/prefix");
    }
    for (name, url) in [
        ("s3", "s3://b"),
        ("az", "az://c/p?account=a"),
        ("gs", "gs://b/p"),
        ("file", "file:///srv/backups"),
        ("plugin", "plugin:acme/a/b"),
    ] {
        let credentials = if name == "plugin" { Value::Null } else { json!({"name": "credentials"}) };
        repositories.create(name, &with(spec(), &json!({"url": url, "credentialsSecret": credentials}))).ok();
    }
    let words = "the document of a plugin names its own secrets";
    let fields = json!({"url": "plugin:acme", "credentialsSecret": {"name": "credentials"}});
    repositories.refuses(&with(spec(), &fields), words);
}

#[test]
fn a_url_holds_no_credentials() {
    let repositories = repositories();
    for url in [
        "s3://user:hunter2@bucket/prefix",
        "s3://bucket/prefix?endpoint=https://user:hunter2@s3.example.org",
        "s3://bucket/prefix?region=x&secret_access_key=hunter2",
        "az://container/prefix?SAS=hunter2",
        "gs://bucket/prefix?token=hunter2",
    ] {
        repositories.refuses(&with(spec(), &json!({"url": url})), "url holds no credentials: put them into a Secret");
    }
    // Words that sound like secrets are names of their own elsewhere.
    let sounds = "s3://passwords/token?endpoint=https://keys.example.org&region=secret";
    repositories.create("sounds", &with(spec(), &json!({"url": sounds}))).ok();
}

#[test]
fn a_location_of_velero_has_its_own_credentials() {
    let fields = json!({"url": null, "backupStorageLocation": "default", "credentialsSecret": {"name": "mine"}});
    repositories().refuses(&with(spec(), &fields), "a backupStorageLocation names its own credentials");
}

#[test]
fn a_ca_is_for_the_server_of_a_bucket() {
    let repositories = repositories();
    let ca = json!({"caSecret": {"name": "ca"}});
    repositories.create("bucket", &with(spec(), &ca)).ok();
    assert_eq!(repositories.spec("bucket")["caSecret"], json!({"name": "ca", "key": "ca.crt"}));
    repositories.change("bucket", &json!({"caSecret": {"name": "renewed", "key": "other.pem"}})).ok();
    for place in [
        json!({"url": "file:///srv/backups"}),
        json!({"url": "plugin:acme"}),
        json!({"url": null, "backupStorageLocation": "default"}),
    ] {
        repositories.refuses(&with(with(spec(), &ca), &place), "a CA is for the server of a bucket that url names");
    }
}

/// It is asked for by its name, below a path of the API server's.
#[test]
fn a_location_of_velero_is_a_name_and_no_path() {
    for name in ["velero/default", "../default", "default?x", "Default", ""] {
        let fields = json!({"url": null, "backupStorageLocation": name});
        repositories().refuses(&with(spec(), &fields), "spec.backupStorageLocation in body should ");
    }
}

#[test]
fn what_is_missing_or_twice_there_is_named() {
    let repositories = repositories();
    for (fields, words) in [
        (json!({"passphraseSecret": null}), "spec.passphraseSecret: Required value"),
        (json!({"passphraseSecret": {"key": "k"}}), "spec.passphraseSecret.name: Required value"),
        (json!({"allowedNamespaces": ["shop", "bank", "shop"]}), "spec.allowedNamespaces[2]: Duplicate value"),
        (json!({"allowedNamespaces": [""]}), "spec.allowedNamespaces[0] in body should be at least 1 chars long"),
        (json!({"passphrase": "hunter2"}), r#"unknown field "spec.passphrase""#),
    ] {
        repositories.refuses(&with(spec(), &fields), words);
    }
}
