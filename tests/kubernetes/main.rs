//! What must hold of remora's resources, on a real API server.

#![allow(clippy::unwrap_used, reason = "these are tests throughout")]

mod absence;
mod backup_run;
mod controller;
mod deploy;
mod described;
mod faults;
mod growth;
mod node;
mod rbac;
mod repository;
mod restore_run;
mod status;
mod tenancy;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use remora_tests::{Answer, ApiServer};
use serde_json::{Value, json};

/// The API server with the definitions that are deployed.
fn api() -> &'static ApiServer {
    static DEFINED: OnceLock<&ApiServer> = OnceLock::new();
    DEFINED.get_or_init(|| {
        let server = ApiServer::shared();
        server.define(&deployed("crds.yaml"));
        server
    })
}

/// A file that is deployed.
fn deployed(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// The resources of one kind in a namespace of the test's own.
struct Resources {
    api: &'static ApiServer,
    kind: &'static str,
    list: String,
}

impl Resources {
    fn new(kind: &'static str, plural: &str) -> Self {
        let api = api();
        let list = format!("/apis/remora.dev/v1alpha1/namespaces/{}/{plural}", api.namespace());
        Self { api, kind, list }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.list)
    }

    fn object(&self, name: &str, spec: &Value) -> Value {
        json!({"apiVersion": "remora.dev/v1alpha1", "kind": self.kind, "metadata": {"name": name}, "spec": spec})
    }

    fn create(&self, name: &str, spec: &Value) -> Answer {
        self.api.create(&self.list, &self.object(name, spec))
    }

    /// Changes fields of a spec; `null` takes one away.
    fn change(&self, name: &str, fields: &Value) -> Answer {
        self.api.merge(&self.path(name), &json!({"spec": fields}))
    }

    fn spec(&self, name: &str) -> Value {
        self.api.get(&self.path(name))["spec"].clone()
    }

    /// That an object of this spec is refused with these words.
    #[track_caller]
    fn refuses(&self, spec: &Value, words: &str) {
        says(&self.create("refused", spec).refused(), words);
    }

    /// That a change of an object is refused with these words.
    #[track_caller]
    fn refuses_change(&self, name: &str, fields: &Value, words: &str) {
        says(&self.change(name, fields).refused(), words);
    }
}

#[track_caller]
fn says(reason: &str, words: &str) {
    assert!(reason.contains(words), "wanted {words:?} in: {reason}");
}

/// A spec with some fields changed; `null` takes one away.
fn with(mut spec: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        if value.is_null() {
            spec.as_object_mut().unwrap().remove(name);
        } else {
            spec[name] = value.clone();
        }
    }
    spec
}
