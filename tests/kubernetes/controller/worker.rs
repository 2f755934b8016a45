//! Workers of runs: the tests play the scheduler and the kubelet of node `one`.

use remora_tests::wait_until;
use serde_json::{Value, json};

use super::cluster::{SOON, Shop};

/// The worker of a run.
pub(super) struct Worker<'a> {
    pub(super) shop: &'a Shop,
    /// The run, as it was when it had its UID.
    pub(super) run: Value,
}

impl Worker<'_> {
    pub(super) fn path(&self) -> String {
        let uid = self.run["metadata"]["uid"].as_str().unwrap();
        format!("{}/remora-worker-{uid}", self.shop.core("pods"))
    }

    /// It runs; gives its pod.
    #[track_caller]
    pub(super) fn runs(&self) -> Value {
        let (api, path) = (&self.shop.cluster.api, self.path());
        wait_until("there is no worker", SOON, || api.look(&path).code == 200);
        let name = path.rsplit('/').next().unwrap();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "one"},
        });
        api.create(&format!("{path}/binding"), &binding).ok();
        let running = json!([{
            "name": "worker", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }]);
        let status = json!({"phase": "Running", "podIP": "192.0.2.7", "podIPs": [{"ip": "192.0.2.7"}], "containerStatuses": running});
        api.merge(&format!("{path}/status"), &json!({"status": status})).ok();
        api.get(&path)
    }

    /// It goes, once it is told to.
    #[track_caller]
    pub(super) fn goes(&self) {
        let (api, path) = (&self.shop.cluster.api, self.path());
        wait_until("the worker stays", SOON, || {
            let found = api.look(&path);
            if found.code == 200 && !found.body["metadata"]["deletionTimestamp"].is_null() {
                api.delete(&format!("{path}?gracePeriodSeconds=0"));
            }
            found.code == 404
        });
    }
}
