//! The agents.

use std::sync::Arc;

use kube::ResourceExt as _;
use remora_kube::node::{Agent, Counts, KeyService, Me, Pace, Restores, Verifications};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, REMORA, node};
use crate::worker::{NoRestores, NoVerifications, Played};
use crate::{Args, Result};

/// Starts one for each node.
pub(crate) async fn start(args: &Args, cluster: &Cluster, held: &Arc<Semaphore>) -> Result<Vec<JoinHandle<()>>> {
    let mut tasks = Vec::new();
    for number in 0..args.nodes {
        let node = node(number);
        let (pod, uid, [api, keys]) = cluster.agent(&node, args).await?;
        let client = args.client(args.agents.as_ref().unwrap_or(&args.server), Some(api))?;
        let ca = args.folder.join("keys-ca.crt");
        if number == 0 {
            tokio::fs::write(&ca, controller_ca(args).await?).await?;
        }
        let worker = Played {
            client: client.clone(),
            keys: KeyService { url: args.keys.parse()?, ca, token: keys },
            repository: cluster.id,
            held: Arc::clone(held),
        };
        let me = Me { node, token: None, namespace: REMORA.into(), pod, uid };
        let counts = Arc::new(Counts::default());
        let pace = Pace::default();
        let restores = Restores::new(client.clone(), me.clone(), NoRestores, pace, Arc::clone(&counts));
        tasks.push(tokio::spawn(restores.run(CancellationToken::new())));
        let one = Pace { parallel: 1, ..pace };
        let verifications = Verifications::new(client.clone(), me.clone(), NoVerifications, one, Arc::clone(&counts));
        tasks.push(tokio::spawn(verifications.run(CancellationToken::new())));
        tasks.push(tokio::spawn(Agent::new(client, me, worker, pace, counts).run(CancellationToken::new())));
    }
    Ok(tasks)
}

/// What the controller has published of its key service.
async fn controller_ca(args: &Args) -> Result<String> {
    let client = args.client(&args.server, None)?;
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::namespaced(client, REMORA);
    let map = maps.get("remora-controller-ca").await?;
    let name = map.name_any();
    let ca = map.data.unwrap_or_default().remove("ca.crt");
    ca.ok_or_else(|| format!("ConfigMap {name} has no ca.crt").into())
}
