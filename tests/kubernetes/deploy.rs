//! What is deployed: that the API server takes it, and that what is written about it is so.

mod alerts;
mod identity;
mod overlays;
mod plugin;
mod privileges;
mod resources;

pub(crate) use identity::agent_token;

use std::path::{Path, PathBuf};

use remora_tests::{ApiServer, run};
use serde_json::Value;

/// A file or folder of `deploy`.
fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// The objects of a kustomization, as `kubectl` makes them.
#[track_caller]
pub(crate) fn built(api: &ApiServer, kustomization: &str) -> Vec<Value> {
    let ran = run(api.kubectl().arg("kustomize").arg(deploy(kustomization))).ok();
    let objects: Vec<Value> = serde_saphyr::from_multiple(ran.text()).unwrap();
    assert!(objects.iter().all(|object| object["kind"].is_string()), "{}", ran.text());
    objects
}

/// The one object of a kind and name.
#[track_caller]
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The texts of a list.
pub(crate) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// The rows of the table below a heading of a document; none if there is no table.
#[track_caller]
fn table<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let mut lines = document.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "there is no heading {heading:?}");
    let section = lines.take_while(|line| !line.starts_with('#'));
    let rows = section.filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    // The first one has the columns' names.
    rows.skip(1).map(|row| row.split(" | ").map(str::trim).collect()).collect()
}
