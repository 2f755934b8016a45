#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::*;

fn location(fields: &Value) -> BackupStorageLocationSpec {
    let mut spec = json!({
        "provider": "aws",
        "objectStorage": {"bucket": "backups", "prefix": "velero/one"},
        "config": {"region": "eu-west-1", "s3Url": "https://s3.example.org", "s3ForcePathStyle": "true"},
    });
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn reason(trouble: Trouble) -> String {
    match trouble {
        Trouble::Says(says) => says.reason.into_owned(),
        Trouble::Api(error) => panic!("{error}"),
    }
}

#[test]
fn a_place_of_velero_s_becomes_a_folder_beside_velero_s_own() {
    for (fields, url) in [
        (
            json!({}),
            "s3://backups/velero/one-remora?region=eu-west-1&endpoint=https%3A%2F%2Fs3.example.org&path-style=true",
        ),
        (json!({"config": {}}), "s3://backups/velero/one-remora"),
        (
            json!({"provider": "velero.io/azure", "config": {"storageAccount": "shop", "resourceGroup": "g"}}),
            "az://backups/velero/one-remora?account=shop",
        ),
        (
            json!({"provider": "gcp", "objectStorage": {"bucket": "b", "prefix": "/p/"}, "config": {}}),
            "gs://b/p-remora",
        ),
    ] {
        let found = url_of(&location(&fields)).map_err(reason).unwrap();
        assert_eq!(found, url);
        found.parse::<remora_vault::Location>().unwrap();
    }
}

#[test]
fn what_a_place_of_velero_s_cannot_be_used_for_is_said() {
    for (fields, wanted) in [
        (json!({"provider": "example.org/tape"}), "LocationUnsupported"),
        (json!({"config": {"insecureSkipTLSVerify": "true"}}), "LocationUnsupported"),
        (json!({"objectStorage": {"bucket": "b"}}), "LocationWithoutPrefix"),
        (json!({"objectStorage": {"bucket": "b", "prefix": "/"}}), "LocationWithoutPrefix"),
        (json!({"objectStorage": {"bucket": "a b/?c", "prefix": "p"}}), "LocationInvalid"),
    ] {
        assert_eq!(url_of(&location(&fields)).map_err(reason).unwrap_err(), wanted, "{fields}");
    }
    // Parts of a place are no way to another place.
    let sly = json!({"objectStorage": {"bucket": "b", "prefix": "p?endpoint=http://10.0.0.1"}, "config": {}});
    assert_eq!(
        url_of(&location(&sly)).map_err(reason).unwrap(),
        "s3://b/p%3Fendpoint=http:%2F%2F10.0.0.1-remora".replace("%2F%2F", "//")
    );
}

fn repository(fields: &Value) -> Repository {
    let mut spec = json!({"url": "s3://b/p", "passphraseSecret": {"name": "p"}});
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    let object = json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "offsite"}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_tenant_borrows_nothing_whatever_was_admitted() {
    let access = |url: &str, reach: ReachOfStore, credentials: bool| StoreAccess {
        url: url.into(),
        reach,
        credentials: credentials.then(BTreeMap::new),
        ca: None,
    };
    let lends = json!({"allowedNamespaces": ["bank"]});
    for (fields, store) in [
        (json!({}), access("file:///srv", ReachOfStore::Internet, true)),
        (json!({}), access("/srv", ReachOfStore::Internet, true)),
        (json!({}), access("plugin:acme/p", ReachOfStore::Internet, true)),
        (json!({}), access("s3://b/p", ReachOfStore::Internet, false)),
        (lends.clone(), access("s3://b/p", ReachOfStore::Internet, true)),
    ] {
        let refused = borrows_nothing(&repository(&fields), &store).map_err(reason);
        assert_eq!(refused, Err("NotAllowed".to_owned()), "{fields} {store:?}");
    }
    borrows_nothing(&repository(&json!({})), &access("s3://b/p", ReachOfStore::Internet, true))
        .map_err(reason)
        .unwrap();
    borrows_nothing(&repository(&lends), &access("file:///srv", ReachOfStore::Anywhere, false))
        .map_err(reason)
        .unwrap();
}

#[test]
fn credentials_that_would_fill_the_controller_s_memory_are_refused() {
    let access = |files: usize, each: usize, ca: usize| {
        let mut access = StoreAccess::default();
        let value = Base64::encode_string(&vec![0; each]);
        access.credentials = Some((0..files).map(|number| (format!("{number:02}"), value.clone())).collect());
        access.ca = Some("x".repeat(ca));
        access
    };
    let most = LARGEST - 2;
    for fits in [access(1, most / 3 * 3, 0), access(1, 3000, 60_000), access(MOST_FILES, 3000, 0)] {
        is_small(&fits).map_err(reason).unwrap();
    }
    for large in [access(1, LARGEST, 0), access(1, 3000, LARGEST - 1000), access(MOST_FILES + 1, 1, 0)] {
        assert_eq!(is_small(&large).map_err(reason).unwrap_err(), "CredentialsTooLarge");
    }
}

#[test]
fn a_ca_is_certificates_as_text_and_nothing_else() {
    let pem = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    assert_eq!(certificates(pem.into()).as_deref(), Ok(pem));
    let key = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n";
    for with_key in [key.to_owned(), format!("{pem}{key}")] {
        assert_eq!(certificates(with_key.into()), Err(NotAuthorities::Key));
    }
    for other in [b"".as_slice(), b"\x30\x82\xff"] {
        assert_eq!(certificates(other.to_vec()), Err(NotAuthorities::Nothing), "{other:?}");
    }
}
