//! What `kubectl explain`, `kubectl api-resources` and completion know of the resources.

use std::time::Duration;

use remora_tests::wait_until;
use serde_json::Value;

use crate::api;

/// The descriptions follow the definitions after a moment.
const PUBLISHED: Duration = Duration::from_mins(10);

/// The schemas of the group, as `kubectl explain` asks for them.
fn schemas() -> Value {
    let mut schemas = Value::Null;
    wait_until("the schemas of remora.dev/v1alpha1 are not published", PUBLISHED, || {
        let paths = &api().get("/openapi/v3")["paths"]["apis/remora.dev/v1alpha1"]["serverRelativeURL"];
        schemas = paths.as_str().map_or(Value::Null, |path| api().get(path)["components"]["schemas"].clone());
        KINDS.iter().all(|kind| schemas.get(schema(kind)).is_some())
    });
    schemas
}

const KINDS: [&str; 4] = ["Repository", "BackupRun", "RestoreRun", "AgentNode"];

fn schema(kind: &str) -> String {
    format!("dev.remora.v1alpha1.{kind}")
}

/// The field of a kind that a path of names leads to, through the items of lists.
fn field<'a>(schemas: &'a Value, path: &str) -> &'a Value {
    let mut names = path.split('.');
    let kind = &schemas[schema(names.next().unwrap())];
    names.fold(
        kind,
        |at, name| if at["items"].is_null() { &at["properties"][name] } else { &at["items"]["properties"][name] },
    )
}

/// A sentence that stands for itself: `kubectl explain` shows it alone, and knows nothing of links in sources.
fn is_documentation(text: &str) -> bool {
    let begins = text.starts_with(|first: char| first.is_uppercase() || first == '`');
    begins
        && text.trim_end().ends_with('.')
        && text.len() >= 15
        && !["[`", "`]", "::"].iter().any(|of| text.contains(of))
}

fn every_field_has_a_description(path: &str, schema: &Value) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        // The API server's own, which stand elsewhere.
        if ["apiVersion", "kind", "metadata", "status"].contains(&name.as_str()) && path.matches('.').count() == 1 {
            assert!(name != "status" || field["description"].is_string(), "{path}");
        } else {
            let text = field["description"].as_str().unwrap_or_default();
            // What stands in conditions is Kubernetes' own.
            assert!(is_documentation(text) || path.contains(".conditions.") && !text.is_empty(), "{path}: {text:?}");
        }
        every_field_has_a_description(&path, field);
        every_field_has_a_description(&path, &field["items"]);
    }
}

#[test]
fn explain_tells_of_each_field_what_it_is() {
    let schemas = schemas();
    for kind in KINDS {
        let of_kind = &schemas[schema(kind)];
        assert!(is_documentation(of_kind["description"].as_str().unwrap_or_default()), "{kind}");
        every_field_has_a_description(kind, of_kind);
    }
    for (path, words) in [
        ("BackupRun.spec.scratch", "keeps the old bytes"),
        ("BackupRun.spec.deadline", "counted from its creation"),
        ("BackupRun.spec.verify", "read back of the point"),
        ("BackupRun.status.storedBytes", "Bytes stored so far"),
        ("BackupRun.status.disks.sizeBytes", "size in bytes"),
        ("BackupRun.status.heartbeat", "30 seconds"),
        ("BackupRun.status.percent", "0 to 100"),
        ("Repository.spec.caSecret", "trusted everywhere"),
        ("Repository.spec.passphraseSecret", "Whoever loses it loses the points"),
        ("RestoreRun.spec.virtualMachine.keepIdentity", "MAC addresses"),
        ("RestoreRun.spec.disks.claim", "must not be in use"),
        ("AgentNode.status.capabilities.message", "what to do where it is missing"),
    ] {
        let text = field(&schemas, path)["description"].as_str().unwrap_or_default();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{path}: {text:?}");
    }
}

#[test]
fn the_resources_have_short_names_and_a_category_and_are_where_they_belong() {
    let resources = api().get("/apis/remora.dev/v1alpha1")["resources"].clone();
    let found = |name: &str| {
        let resource = resources.as_array().unwrap().iter().find(|resource| resource["name"] == name).unwrap();
        assert_eq!(resource["categories"], serde_json::json!(["remora"]), "{name}");
        let short = resource["shortNames"][0].as_str().unwrap().to_owned();
        (short, resource["namespaced"].as_bool().unwrap())
    };
    assert_eq!(found("repositories"), ("rrepo".into(), true));
    assert_eq!(found("backupruns"), ("brun".into(), true));
    assert_eq!(found("restoreruns"), ("rrun".into(), true));
    assert_eq!(found("agentnodes"), ("anode".into(), false));
}
