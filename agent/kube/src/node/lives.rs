//! Whether the agent that has claimed a run is still there.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use super::Me;
use super::record::REQUEST;

/// The UIDs of the agents' pods on this node that may still be at work, read now and not from a cache: a pod that is gone
/// from there was stopped before.
pub(super) async fn live_agents(client: &Client, me: &Me) -> Result<Vec<String>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &me.namespace);
    let here = ListParams::default()
        .fields(&format!("spec.nodeName={}", me.node))
        .labels("app.kubernetes.io/name=remora-agent");
    let late = |late: tokio::time::error::Elapsed| Err(kube::Error::Service(late.into()));
    let listed = tokio::time::timeout(REQUEST, pods.list(&here)).await.unwrap_or_else(late)?;
    let live = listed.items.into_iter().filter(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    });
    Ok(live.filter_map(|pod| pod.uid()).collect())
}
