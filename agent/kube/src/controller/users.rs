//! Who uses a claim.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::observe::Reader;
use super::worker::Placement;
use crate::api_server::is_unknown;
use crate::kubevirt::is_of_run;

type Result<T> = std::result::Result<T, kube::Error>;

/// So many objects are read at once. A namespace may have thousands of machines, of some 20 KiB each as JSON.
const PAGE: u32 = 250;

/// What might use some claims of a namespace.
#[derive(Default)]
pub(super) struct Others {
    pods: Vec<Pod>,
    instances: Vec<Value>,
    pub(super) machines: Vec<Value>,
}

impl Others {
    /// Looks for what has any of these claims.
    pub(super) async fn read(reader: &Reader<'_>, claims: &BTreeSet<String>) -> Result<Self> {
        Ok(Self {
            pods: with_any(&reader.api::<Pod>(), claims, mounts).await?,
            instances: of_kubevirt(reader, "VirtualMachineInstance", claims, runs_with).await?,
            machines: of_kubevirt(reader, "VirtualMachine", claims, is_made_with).await?,
        })
    }

    /// Who uses one of them, but for the workers of some runs.
    pub(super) fn of(&self, claim: &str, runs: &[String]) -> Vec<String> {
        users(claim, runs, &self.pods, &self.instances, &self.machines)
    }

    /// Whether the worker of a run has one of them.
    pub(super) fn has_worker(&self, claim: &str, run: &str) -> bool {
        self.pods.iter().any(|pod| is_of_run(&pod.metadata, run) && mounts(pod, claim))
    }

    /// Where a machine may run, as its template has it.
    pub(super) fn placement(&self, machine: &str) -> Placement {
        let machine = self.machines.iter().find(|one| name(one) == machine);
        machine.map(|one| Placement::of(&one["spec"]["template"]["spec"])).unwrap_or_default()
    }
}

pub(super) fn kubevirt(reader: &Reader<'_>, kind: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kubevirt.io", "v1", kind));
    Api::namespaced_with(reader.client.clone(), &reader.namespace, &kind)
}

async fn of_kubevirt(
    reader: &Reader<'_>,
    kind: &str,
    claims: &BTreeSet<String>,
    has: fn(&DynamicObject, &str) -> bool,
) -> Result<Vec<Value>> {
    match with_any(&kubevirt(reader, kind), claims, has).await {
        Ok(found) => Ok(found.into_iter().filter_map(|one| serde_json::to_value(one).ok()).collect()),
        Err(error) if is_unknown(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The objects that have any of these claims. No more than a page of the others is in memory.
async fn with_any<K>(api: &Api<K>, claims: &BTreeSet<String>, has: fn(&K, &str) -> bool) -> Result<Vec<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    let (mut found, mut page) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let list = api.list(&page).await?;
        found.extend(list.items.into_iter().filter(|one| claims.iter().any(|claim| has(one, claim))));
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(found),
        }
    }
}

fn runs_with(instance: &DynamicObject, claim: &str) -> bool {
    has_volume(&instance.data["spec"]["volumes"], claim)
}

fn is_made_with(machine: &DynamicObject, claim: &str) -> bool {
    has_volume(&machine.data["spec"]["template"]["spec"]["volumes"], claim)
}

/// Pods, instances and machines of a namespace that use a claim, or are about to; but for the workers of these runs.
fn users(claim: &str, runs: &[String], pods: &[Pod], instances: &[Value], machines: &[Value]) -> Vec<String> {
    let lives = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let pods = pods.iter().filter(lives).filter(|pod| !runs.iter().any(|run| is_of_run(&pod.metadata, run)));
    let pods = pods.filter(|pod| mounts(pod, claim)).map(|pod| format!("pod {}", pod.name_any()));
    let runs_still = |instance: &&Value| !matches!(instance["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let instances = instances.iter().filter(runs_still).filter(|one| has_volume(&one["spec"]["volumes"], claim));
    let instances = instances.map(|one| format!("VirtualMachineInstance {}", name(one)));
    let machines = machines.iter().filter(|one| is_to_run(&one["spec"]));
    let machines = machines.filter(|one| has_volume(&one["spec"]["template"]["spec"]["volumes"], claim));
    let machines = machines.map(|one| format!("VirtualMachine {}", name(one)));
    pods.chain(instances).chain(machines).collect()
}

fn mounts(pod: &Pod, claim: &str) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes.into_iter().flatten().any(|volume| {
        let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim);
        // One of its own is named after pod and volume.
        named || (volume.ephemeral.is_some() && format!("{}-{}", pod.name_any(), volume.name) == claim)
    })
}

fn has_volume(volumes: &Value, claim: &str) -> bool {
    volumes.as_array().into_iter().flatten().any(|volume| has_claim(volume, claim))
}

/// Whether a volume of a machine is that claim.
pub(super) fn has_claim(volume: &Value, claim: &str) -> bool {
    volume["persistentVolumeClaim"]["claimName"] == claim
        || volume["dataVolume"]["name"] == claim
        || volume["ephemeral"]["persistentVolumeClaim"]["claimName"] == claim
        || volume["memoryDump"]["claimName"] == claim
}

/// Whether KubeVirt starts it by itself.
fn is_to_run(spec: &Value) -> bool {
    spec["running"] == true || !matches!(spec["runStrategy"].as_str(), None | Some("Halted" | "Manual"))
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use http::Uri;
    use kube::Client;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn who_has_a_claim_is_found_on_whatever_page_and_nobody_else_is_kept() {
        let pod = |name: &str, claim: &str| {
            let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
            json!({"metadata": {"name": name}, "spec": {"containers": [], "volumes": volumes}})
        };
        let page = |next: &str, pods: &[Value]| {
            json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"continue": next}, "items": pods}).to_string()
        };
        let first = page("second", &[pod("a", "root"), pod("b", "nobody-s")]);
        let second = page("", &[pod("c", "nobody-s"), pod("d", "data")]);
        let answer = move |uri: Uri| async move {
            let query = uri.query().unwrap_or_default();
            assert!(query.contains(&format!("limit={PAGE}")), "{query}");
            if query.contains("continue=second") { second } else { first }
        };
        let server: Router = Router::new().fallback(answer);
        let pods: Api<Pod> = Api::namespaced(Client::new(server, "default"), "shop");
        let claims = ["root", "data"].map(str::to_owned).into();
        let found = with_any(&pods, &claims, mounts).await.unwrap();
        assert_eq!(found.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["a", "d"]);
    }

    #[test]
    fn whoever_runs_with_a_claim_uses_it_and_whoever_does_not_does_not() {
        let pod = |name: &str, phase: &str, volume: &Value, run: Option<&str>| -> Pod {
            let owners = run.map(
                |uid| json!([{"apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun", "name": "r", "uid": uid}]),
            );
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"remora.dev/run": run.unwrap_or("none")}, "ownerReferences": owners},
                "spec": {"containers": [], "volumes": [volume]}, "status": {"phase": phase},
            }))
            .unwrap()
        };
        let claim = json!({"name": "v", "persistentVolumeClaim": {"claimName": "root"}});
        let pods = [
            pod("runs", "Running", &claim, None),
            pod("waits", "Pending", &claim, None),
            pod("done", "Succeeded", &claim, None),
            pod("other", "Running", &json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}), None),
            pod("ours", "Running", &claim, Some("run-uid")),
            pod("of-another-run", "Running", &claim, Some("other-uid")),
        ];
        let ours = ["run-uid".to_owned()];
        assert_eq!(users("root", &ours, &pods, &[], &[]), ["pod runs", "pod waits", "pod of-another-run"]);
        let both = ["run-uid", "other-uid"].map(str::to_owned);
        assert_eq!(users("root", &both, &pods, &[], &[]), ["pod runs", "pod waits"]);
        let own = [pod("app", "Running", &json!({"name": "v", "ephemeral": {}}), None)];
        assert_eq!(users("app-v", &ours, &own, &[], &[]), ["pod app"]);

        let volumes = |volume: &Value| json!([{"name": "cd"}, volume]);
        let filled = json!({"name": "v", "dataVolume": {"name": "root"}});
        let instances = [
            json!({"metadata": {"name": "a"}, "spec": {"volumes": volumes(&claim)}, "status": {"phase": "Running"}}),
            json!({"metadata": {"name": "b"}, "spec": {"volumes": volumes(&filled)}}),
            json!({"metadata": {"name": "c"}, "spec": {"volumes": volumes(&claim)}, "status": {"phase": "Failed"}}),
        ];
        let used = ["VirtualMachineInstance a", "VirtualMachineInstance b"];
        assert_eq!(users("root", &ours, &[], &instances, &[]), used);

        let machine = |name: &str, spec: &Value| {
            let mut spec = spec.clone();
            spec["template"] = json!({"spec": {"volumes": volumes(&claim)}});
            json!({"metadata": {"name": name}, "spec": spec})
        };
        let machines = [
            machine("always", &json!({"runStrategy": "Always"})),
            machine("running", &json!({"running": true})),
            machine("halted", &json!({"runStrategy": "Halted"})),
            machine("stopped", &json!({"running": false})),
        ];
        assert_eq!(users("root", &ours, &[], &[], &machines), ["VirtualMachine always", "VirtualMachine running"]);
        assert!(users("data", &ours, &[], &instances, &machines).is_empty());
    }
}
