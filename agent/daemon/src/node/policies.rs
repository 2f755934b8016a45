//! The policies of a cluster on its nodes: they say which points of a machine are dropped after its backup, and the
//! `AgentNode` says which of them are in force.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use remora_core::point::Point;
use remora_core::policy::{Select, VmFacts};
use remora_core::{Error, ErrorKind, Result};
use remora_kube::node::Order;
use remora_kube::resources::{PolicyStanding, PolicyState};
use remora_plugins::documents::Target;
use remora_plugins::set::{Active, BackupPolicy, Generation, Kept, PolicyFile};
use remora_plugins::{Host, HostOptions, Kind, Registries};
use remora_schedule::{Policies, PolicyMetrics, Selects};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::keys::Opened;
use super::metrics::OfKinds;
use crate::keepers::{Keepers, prune};

/// The policies that this node has.
pub(super) struct NodePolicies {
    current: watch::Receiver<Arc<Generation>>,
    states: watch::Receiver<Vec<PolicyState>>,
    /// Remora's, whose Repositories policies name.
    namespace: String,
    counts: OfKinds,
}

impl NodePolicies {
    /// Follows a folder until `cancel`. What was good last is kept in `state`, with what was compiled and what was fetched by the
    /// document of registries among the `plugins`.
    pub(super) fn follow(
        folder: PathBuf,
        plugins: Option<PathBuf>,
        state: Option<&Path>,
        namespace: String,
        counts: &OfKinds,
        beside: &mut JoinSet<()>,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let registries = plugins.map(|folder| Registries::new(folder, state)).unwrap_or_default();
        let host = host(state.map(Path::to_owned), registries)?;
        let kept = state.map(|state| Kept::new(state.join("policies")));
        let policies = Policies::new(folder, host, kept, counts.policies.clone());
        let (current, mut followed) = (policies.subscribe(), policies.subscribe());
        let (tell, states) = watch::channel(Vec::new());
        beside.spawn(policies.keep(cancel.clone()));
        beside.spawn(async move {
            // Ends with the one who follows.
            while followed.changed().await.is_ok() {
                tell.send_replace(states_of(&followed.borrow_and_update()));
            }
        });
        Ok(Self { current, states, namespace, counts: counts.clone() })
    }

    /// What there is to say of each document, now and from then on.
    pub(super) fn states(&self) -> watch::Receiver<Vec<PolicyState>> {
        self.states.clone()
    }

    /// Drops the points of a machine that its policies keep no longer. Gives what people should know of that.
    pub(super) async fn prune(
        &self,
        order: &Order,
        point: &Point,
        opened: &Opened,
        cancel: &CancellationToken,
    ) -> Option<String> {
        match self.dropped(order, point, opened, cancel).await {
            Ok(0) => None,
            Ok(dropped) => {
                self.counts.dropped.inc_by(dropped as u64);
                Some(format!("points that its policies keep no longer were dropped: {dropped}"))
            }
            Err(error) => Some(format!("no points were dropped, or not all that may be: {}", error.chain())),
        }
    }

    async fn dropped(
        &self,
        order: &Order,
        point: &Point,
        opened: &Opened,
        cancel: &CancellationToken,
    ) -> Result<usize> {
        let generation = Arc::clone(&self.current.borrow());
        let Some(target) = target(order, &self.namespace) else { return Ok(0) };
        let place = Place { target, elsewhere: &opened.elsewhere };
        let keepers = keepers(&generation, &facts(point)?, &place, &self.counts.policies).await;
        // Policies that have changed since may keep more: the next run asks them.
        if !keepers.hold_in(&self.current.borrow()) {
            return Ok(0);
        }
        prune(&opened.vault, &point.vm, &keepers, cancel).await
    }
}

/// The host of the policies. A folder for what was compiled that cannot be used costs their compiling at each start, and must
/// not keep the agent from its backups.
fn host(state: Option<PathBuf>, registries: Registries) -> Result<Host> {
    let mut options = HostOptions { state, registries, ..HostOptions::default() };
    Host::new(&options).or_else(|error| {
        tracing::warn!(error = error.chain(), "compiled components are not kept");
        options.state = None;
        Host::new(&options)
    })
}

/// The Repository of a run, if it is one of those that policies name.
fn target(order: &Order, namespace: &str) -> Option<Target> {
    let repository = &order.spec.repository;
    let of = repository.namespace_or(&order.namespace);
    (of == namespace).then(|| Target::Repository(repository.name.clone()))
}

/// Where the points of a run are.
struct Place<'a> {
    /// Its Repository.
    target: Target,
    /// The Repositories that are certainly not in that place.
    elsewhere: &'a [String],
}

/// Who says what is kept of a machine's points in a place. One policy that fails is enough for nothing to be dropped: the others
/// are not asked then, for they may fail as slowly.
async fn keepers(generation: &Generation, vm: &VmFacts, place: &Place<'_>, metrics: &PolicyMetrics) -> Keepers {
    let mut selects = HashMap::new();
    for (policy, _) in generation.backups() {
        let answers = match policy.select.select(std::slice::from_ref(vm)).await {
            Ok(answers) => answers,
            Err(error) => {
                metrics.failed(&(policy.name.clone(), Kind::Select, error));
                break;
            }
        };
        let selected = answers.iter().any(|answer| answer.selected);
        selects.insert(policy.name.as_str(), if selected { Selects::Yes } else { Selects::No });
    }
    let selects = |policy: &str| selects.get(policy).copied().unwrap_or(Selects::Unknown);
    Keepers::of(generation, vm, Some(&place.target), |named| place.meant(named), selects)
}

impl Place<'_> {
    /// What a policy means that names this. One that names nothing means nothing that is known here. A Repository that is not known
    /// to be elsewhere may be another name of this place: what one policy keeps there is not dropped by another one's rules.
    fn meant(&self, named: Option<&Target>) -> Option<Target> {
        match named? {
            Target::Repository(name) if !self.elsewhere.contains(name) => Some(self.target.clone()),
            other => Some(other.clone()),
        }
    }
}

/// What a point says of its machine.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    virtual_machine: Machine,
}

#[derive(Deserialize)]
struct Machine {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    namespace: String,
    uid: Option<String>,
    labels: Option<std::collections::BTreeMap<String, String>>,
}

/// What policies may know of a point's machine: as it was when the point was made.
fn facts(point: &Point) -> Result<VmFacts> {
    let Definition { virtual_machine: Machine { metadata } } =
        serde_json::from_str(&point.definition).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("the machine's labels in point {}", point.id)).because(error)
        })?;
    Ok(VmFacts {
        name: point.vm.clone(),
        namespace: metadata.namespace,
        uid: metadata.uid.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
    })
}

fn states_of(generation: &Generation) -> Vec<PolicyState> {
    generation.files.iter().map(|file| state_of(file, generation.number)).collect()
}

fn state_of(file: &PolicyFile, generation: u64) -> PolicyState {
    let (state, message) = match (&file.broken, &file.active) {
        (Some(broken), active) => {
            let state = if active.is_some() { PolicyStanding::Stale } else { PolicyStanding::Broken };
            (state, [Some(broken.chain()), broken.advice().map(str::to_owned)].into_iter().flatten().collect())
        }
        (None, Some(Active::Backup(policy))) => standing(policy),
        (None, _) => (PolicyStanding::Active, Vec::new()),
    };
    PolicyState {
        file: file.file.clone(),
        name: file.active.as_ref().map(|active| active.name().to_owned()),
        desired_digest: file.text.to_string(),
        active_digest: file.active_text.map(|digest| digest.to_string()),
        generation: i64::try_from(generation).unwrap_or(i64::MAX),
        state,
        message: shortened(message.join(". ")),
        since: Time(rounded(file.since)),
    }
}

/// Of what is in force, what nevertheless is not done.
fn standing(policy: &BackupPolicy) -> (PolicyStanding, Vec<String>) {
    let lacks = |what: String| (PolicyStanding::Incomplete, vec![what]);
    match &policy.target {
        None => lacks(
            "nothing is backed up by it on Kubernetes, where target.repository has to name a Repository".to_owned(),
        ),
        Some(Target::Mover(name)) => lacks(format!(
            "nothing is backed up by it on Kubernetes, where no mover keeps points in a form of its own. In place of \
             target.mover: {name}, name a Repository in target.repository; the url of one is plugin:NAME/prefix where a mover \
             keeps its objects"
        )),
        Some(Target::Repository(_)) => (PolicyStanding::Active, Vec::new()),
    }
}

/// Objects hold whole seconds.
fn rounded(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// There may be hundreds of documents in one object.
fn shortened(mut text: String) -> String {
    const LONGEST: usize = 1000;
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
