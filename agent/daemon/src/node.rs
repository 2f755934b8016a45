//! `remora-agent node`: the agent of one node of Kubernetes.
//!
//! Here the parts are put together: `remora-kube` claims runs and tells how they go, `worker.rs` makes their points with
//! the engine, the source of KubeVirt and the vault, `verify.rs` has the vault read them back, and `restore.rs` sends those of
//! restores to the pods that have the claims. `policies.rs` follows the policies and drops the points that these keep no longer.

mod capabilities;
mod claims;
mod keys;
mod metrics;
mod policies;
mod restore;
mod verify;
mod worker;

use std::sync::Arc;

use remora_core::{Error, ErrorKind, Result};
use remora_kube::keys::clear;
use remora_kube::node::{Agent, KeyService, Me, Pace, Restores, Verifications};
use remora_plugins::movers::Movers;
use remora_service::Health;
use remora_source::kubevirt::KubevirtOptions;
use remora_vault::Plugins;
use tokio_util::sync::CancellationToken;

use self::keys::Keys;
use self::metrics::OfKinds;
use self::policies::NodePolicies;
use self::restore::TransferWorker;
use self::verify::VaultVerifier;
use self::worker::EngineWorker;
use crate::args::NodeArgs;

/// Works until `cancel`.
pub(crate) async fn work(args: Box<NodeArgs>, cancel: CancellationToken) -> Result<()> {
    let client = remora_kube::client("The agent of a node runs in a pod, or with KUBECONFIG.").await?;
    clear(&args.keys, keys::PREFIX)?;
    let keys = keys_of(&args)?;
    let counts = OfKinds::default();
    let mut beside = tokio::task::JoinSet::new();
    let policies = args.policies.map(|folder| {
        let state = keys.state.as_deref();
        NodePolicies::follow(folder, args.plugins.clone(), state, args.namespace.clone(), &counts, &mut beside, &cancel)
    });
    let worker = EngineWorker {
        client: client.clone(),
        policies: policies.transpose()?,
        keys: keys.clone(),
        options: KubevirtOptions {
            pods: args.pods,
            ..KubevirtOptions::new(vec!["/proc/self/exe".into(), "retire".into()])
        },
    };
    let token = Some(args.token);
    let me = Me { node: args.node, token, namespace: args.namespace, pod: args.pod, uid: args.pod_uid };
    if let Some(address) = args.listen {
        let listener = remora_service::bind(address).await;
        let listener = listener.map_err(|error| error.advise("Choose another address with `--listen`."))?;
        beside.spawn(remora_service::serve(listener, health(&counts), cancel.clone()));
    }
    tracing::info!(node = me.node, pod = me.pod, "the agent is at work");
    let pace = Pace { parallel: args.parallel.get(), ..Pace::default() };
    let restores = Restores::new(
        client.clone(),
        me.clone(),
        TransferWorker { keys: keys.clone() },
        pace,
        Arc::clone(&counts.restores),
    );
    // One at a time: nobody waits for it, and backups are to have the store and the processors.
    let one = Pace { parallel: 1, ..pace };
    let verifier = VaultVerifier { keys };
    let verifications =
        Verifications::new(client.clone(), me.clone(), verifier, one, Arc::clone(&counts.verifications));
    let agent = Agent::new(client, me, worker, pace, counts.backups);
    tokio::join!(agent.run(cancel.clone()), restores.run(cancel.clone()), verifications.run(cancel.clone()));
    cancel.cancel();
    beside.join_all().await;
    Ok(())
}

/// Who gives this node the keys of its runs, and what opens repositories with them.
fn keys_of(args: &NodeArgs) -> Result<Keys> {
    let service = KeyService { url: controller(args)?, ca: args.controller_ca.clone(), token: args.token.clone() };
    let movers = args.plugins.as_deref().map(|folder| Movers::new(folder, args.state.as_deref()));
    Ok(Keys {
        service,
        folder: args.keys.clone(),
        state: args.state.clone(),
        plugins: movers.map(|movers| Plugins::new(movers.opener())),
    })
}

fn controller(args: &NodeArgs) -> Result<http::Uri> {
    let url = args.controller.clone();
    let url = url.unwrap_or_else(|| format!("https://remora-controller.{}.svc:8443", args.namespace));
    // Keys go through no connection that anybody can read.
    let invalid = |why: String| Error::new(ErrorKind::Invalid, format!("the controller's URL {url}")).because(why);
    let parsed: http::Uri = url.parse().map_err(|e: http::uri::InvalidUri| invalid(e.to_string()))?;
    if parsed.scheme_str() != Some("https") {
        return Err(invalid("it is not https".into()));
    }
    Ok(parsed)
}

/// The agent is ready once it knows the runs of its node.
fn health(counts: &OfKinds) -> Health {
    let (of_text, of_ready) = (counts.clone(), counts.clone());
    Health { metrics: Box::new(move || of_text.text()), ready: Box::new(move || of_ready.are_known()) }
}
