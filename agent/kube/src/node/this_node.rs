//! The `AgentNode` of this node: what the agent can do here, which policies it has, and that it lives. Written by this agent
//! alone: at its start, when something changes, and else every 15 to 20 minutes.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::again::LAST_WORDS;
use super::duty::Pace;
use super::record::{MANAGER, REQUEST};
use super::{Me, Worker};
use crate::resources::{AgentNode, AgentNodeStatus, Capability, PolicyState};

/// What is unchanged is written with every so many-th look.
const RENEW: u32 = 3;

/// So many documents of policies are told of. With messages of 1000 bytes they come to half a MiB at most; etcd takes no object of
/// 1.5 MiB.
const MOST: usize = 256;

pub(super) struct ThisNode<W> {
    nodes: Api<AgentNode>,
    me: Arc<Me>,
    worker: Arc<W>,
    pace: Pace,
    /// What was written last.
    written: Option<Told>,
    /// Since when it is ready, or not.
    since: Option<(bool, Timestamp)>,
}

/// What there is to tell.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    capabilities: Vec<Capability>,
    policies: Vec<PolicyState>,
}

/// What is said of the agent itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Lives,
    HasStopped,
}

type Policies = Option<watch::Receiver<Vec<PolicyState>>>;

/// As many as are told of, with how many more there are: then the worst come first.
fn bounded(mut policies: Vec<PolicyState>) -> (Vec<PolicyState>, Option<i64>) {
    let more = policies.len().saturating_sub(MOST);
    if more == 0 {
        return (policies, None);
    }
    policies.sort_by_key(|policy| Reverse(policy.state));
    policies.truncate(MOST);
    (policies, i64::try_from(more).ok())
}

/// Waits until other policies are in force.
async fn changed(policies: &mut Policies) {
    let changed = match policies {
        Some(policies) => policies.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        // Nobody follows them, or does so any more.
        std::future::pending::<()>().await;
    }
}

/// At most a quarter sooner: not in step with the agents of all other nodes, which one rollout has started. Never later, for
/// so it is promised of `renewTime`.
fn sooner(pace: Duration) -> Duration {
    pace.mul_f64(1.0 - fastrand::f64() / 4.0)
}

impl<W: Worker> ThisNode<W> {
    pub(super) fn new(client: Client, me: Arc<Me>, worker: Arc<W>, pace: Pace) -> Self {
        Self { nodes: Api::all(client), me, worker, pace, written: None, since: None }
    }

    /// Keeps the object until `stop`, then says that the agent has stopped.
    pub(super) async fn keep(mut self, stop: CancellationToken) {
        let mut looks = 0;
        let mut policies = self.worker.policies();
        loop {
            let capabilities = tokio::select! {
                capabilities = self.worker.capabilities() => capabilities,
                () = stop.cancelled() => break,
            };
            let policies_now = policies.as_mut().map(|policies| policies.borrow_and_update().clone());
            let told = Told { capabilities, policies: policies_now.unwrap_or_default() };
            looks += 1;
            if self.written.as_ref() != Some(&told) || looks > RENEW {
                let late = |late: tokio::time::error::Elapsed| Err(kube::Error::Service(late.into()));
                match tokio::time::timeout(REQUEST, self.write(&told, Life::Lives)).await.unwrap_or_else(late) {
                    Ok(()) => (self.written, looks) = (Some(told), 0),
                    Err(error) => {
                        tracing::warn!(%error, "the AgentNode of this node is not written; it is tried again");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(sooner(self.pace.capabilities)) => {}
                () = changed(&mut policies) => {}
                () = stop.cancelled() => break,
            }
        }
        let told = self.written.take().unwrap_or_default();
        let last = self.write(&told, Life::HasStopped);
        if let Ok(Err(error)) = tokio::time::timeout(LAST_WORDS, last).await {
            tracing::warn!(%error, "the AgentNode of this node does not say that the agent has stopped");
        }
    }

    async fn write(&mut self, told: &Told, life: Life) -> Result<(), kube::Error> {
        let now = Timestamp::now();
        let mut ready = self.ready(&told.capabilities, life);
        let since = self.since.filter(|(was, _)| *was == (ready.status == "True")).map_or(now, |(_, since)| since);
        self.since = Some((ready.status == "True", since));
        ready.last_transition_time = Time(since);
        let (policies, policies_left_out) = bounded(told.policies.clone());
        let status = AgentNodeStatus {
            conditions: vec![ready],
            version: Some(env!("CARGO_PKG_VERSION").into()),
            renew_time: Some(Time(now)),
            capabilities: told.capabilities.clone(),
            policies,
            policies_left_out,
        };
        self.make().await?;
        let object = json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "AgentNode", "metadata": {"name": self.me.node}, "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        self.nodes.patch_status(&self.me.node, &params, &Patch::Apply(&object)).await.map(drop)
    }

    /// The object itself. It is its node's: Kubernetes removes it when that is gone.
    async fn make(&self) -> Result<(), kube::Error> {
        let Some(uid) = self.me.node_uid() else { return self.apply(&json!({})).await };
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": self.me.node, "uid": uid});
        match self.apply(&json!({"ownerReferences": [owner]})).await {
            // OpenShift lets whoever makes an object say whose it is; of one that is there, who may delete it.
            Err(kube::Error::Api(status)) if status.is_forbidden() => self.apply(&json!({})).await,
            applied => applied,
        }
    }

    async fn apply(&self, metadata: &Value) -> Result<(), kube::Error> {
        let mut metadata = metadata.clone();
        metadata["name"] = json!(self.me.node);
        let object =
            json!({"apiVersion": "remora.dev/v1alpha1", "kind": "AgentNode", "metadata": metadata, "spec": {}});
        let params = PatchParams::apply(MANAGER).force();
        self.nodes.patch(&self.me.node, &params, &Patch::Apply(&object)).await.map(drop)
    }

    fn ready(&self, capabilities: &[Capability], life: Life) -> Condition {
        let missing: Vec<_> = capabilities.iter().filter(|one| !one.available).collect();
        let (status, reason, message) = match (life, missing.first()) {
            (Life::HasStopped, _) => ("False", "Stopped", format!("the agent {} has stopped", self.me.pod)),
            (Life::Lives, Some(first)) => ("False", "NodeLacks", format!("{}: {}", first.name, first.message)),
            (Life::Lives, None) => {
                ("True", "Ready", format!("the agent {} backs up the machines of this node", self.me.pod))
            }
        };
        Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: reason.into(),
            message: crate::conditions::shortened(&message),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::PolicyStanding;

    #[test]
    fn of_more_documents_than_the_object_takes_the_worst_are_told_of() {
        let policy = |number: usize, state: PolicyStanding| PolicyState {
            file: format!("{number}.yaml"),
            name: None,
            desired_digest: "d".repeat(64),
            active_digest: None,
            generation: 1,
            state,
            message: "m".repeat(1000),
            since: Time(Timestamp::UNIX_EPOCH),
        };
        let active = |many: usize| (0..many).map(|number| policy(number, PolicyStanding::Active)).collect::<Vec<_>>();
        assert_eq!(bounded(active(MOST)), (active(MOST), None));
        let worst = [PolicyStanding::Incomplete, PolicyStanding::Broken, PolicyStanding::Stale];
        let all: Vec<_> = active(5000).into_iter().chain(worst.map(|state| policy(5000, state))).collect();
        let (told, left_out) = bounded(all);
        let told_first: Vec<_> = told.iter().take(4).map(|policy| policy.state).collect();
        let wanted =
            [PolicyStanding::Broken, PolicyStanding::Stale, PolicyStanding::Incomplete, PolicyStanding::Active];
        assert_eq!((told_first.as_slice(), told.len(), left_out), (&wanted[..], MOST, Some(5003 - 256)));
        // Those of one kind in their order.
        assert_eq!(told[3..], active(MOST - 3));
        assert!(
            json!(told).to_string().len() < 512 * 1024,
            "etcd takes 1.5 MiB, with what the API server notes of each"
        );
    }

    #[test]
    fn nodes_are_not_in_step_and_none_is_later_than_it_is_promised() {
        let pace = Pace::default().capabilities;
        let times: Vec<_> = (0..100).map(|_| sooner(pace)).collect();
        assert!(times.iter().all(|time| (pace * 3 / 4..=pace).contains(time)), "{times:?}");
        assert!(times.iter().any(|time| *time != times[0]), "{times:?}");
        // docs/kubernetes.md, and `renewTime` of the definition.
        assert_eq!(pace * (RENEW + 1), Duration::from_mins(20));
    }
}
