//! What an API server was asked, by its own audit log.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use crate::process::Must;

/// The users of `ServiceAccounts` begin so.
const ACCOUNT: &str = "system:serviceaccount:remora:";

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The name of the `ServiceAccount` of remora's namespace, or of whoever else it was.
    pub user: String,
    /// The node of the pod that its token is of; empty if it is of none.
    pub node: String,
    /// As rules of access have it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: String,
    /// The API group; empty of the core's.
    pub group: String,
    /// With its subresource, such as `pods/status`; empty of what is no resource.
    pub resource: String,
    /// Empty of what is of the cluster.
    pub namespace: String,
    /// Empty of lists and of what is made.
    pub name: String,
    /// The status of HTTP.
    pub code: u16,
    /// Whether the rules of access allow it.
    pub allowed: bool,
}

impl Request {
    fn read(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        // A watch is told of when it begins, and again when it ends.
        if event["stage"] == "ResponseComplete" && event["verb"] == "watch" {
            return None;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (user, object) = (&event["user"], &event["objectRef"]);
        let name = text(&user["username"]);
        let sub = text(&object["subresource"]);
        let resource = text(&object["resource"]);
        Some(Self {
            user: name.strip_prefix(ACCOUNT).map_or(name.clone(), ToOwned::to_owned),
            node: text(&user["extra"]["authentication.kubernetes.io/node-name"][0]),
            verb: text(&event["verb"]),
            group: text(&object["apiGroup"]),
            resource: if sub.is_empty() { resource } else { format!("{resource}/{sub}") },
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
            code: event["responseStatus"]["code"].as_u64().unwrap_or_default().try_into().unwrap_or_default(),
            allowed: event["annotations"]["authorization.k8s.io/decision"] == "allow",
        })
    }

    /// Whether it changes something.
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u64);

/// The log's end as it is now.
pub(super) fn end(log: &Path) -> Mark {
    Mark(log.metadata().map(|metadata| metadata.len()).unwrap_or_default())
}

/// Calls `each` with all requests between two places.
pub(super) fn between(log: &Path, from: Mark, to: Mark, mut each: impl FnMut(Request)) {
    let mut file = File::open(log).must("open the audit log");
    file.seek(SeekFrom::Start(from.0)).must("seek in the audit log");
    for line in BufReader::new(file.take(to.0.saturating_sub(from.0))).lines() {
        if let Some(request) = Request::read(&line.must("read the audit log")) {
            each(request);
        }
    }
}
