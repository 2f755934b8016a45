//! Reads what the controller has to know of a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use remora_core::ports::Mover;
use remora_core::{Error, ErrorKind, PointId};
use remora_vault::VaultOptions;

use super::observed::{ClaimFacts, MachineFacts, Observed, PointFacts};
use super::{machine, overlays, rivals};
use crate::api_server::is_unknown;
use crate::conditions::holds;
use crate::controller::Settings;
use crate::controller::observe::Reader;
use crate::controller::observed::{RepositoryFacts, StorageClasses, Taken};
use crate::controller::opened::{IfEmpty, Opened};
use crate::controller::tenancy::{self, Trouble};
use crate::controller::users::{Others, kubevirt};
use crate::controller::worker::{self, PodState, Worker, WorkerFacts};
use crate::kubevirt::{RUN_LABEL, bytes};
use crate::resources::{Repository, RestoreRun, Run};
use crate::targets::{is_target, targets};

/// By so much the clocks of two API servers may differ.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

type Result<T> = std::result::Result<T, kube::Error>;

/// How long reading a point may take: all that is looked at has a minute.
const PATIENCE: Duration = Duration::from_secs(45);

/// Reads all of it; of a run that an agent has only what changes.
pub(super) async fn observe(
    client: &Client,
    settings: &Settings,
    opened: &Opened,
    run: RestoreRun,
    silent: Duration,
) -> Result<Observed> {
    let reader = Reader { client, settings, namespace: run.namespace().unwrap_or_default() };
    let uid = run.uid().unwrap_or_default();
    let age = run.creation_timestamp().map(|made| Timestamp::now().duration_since(made.0));
    let mut observed = Observed {
        age: age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default(),
        silent,
        agents: Vec::new(),
        repository: RepositoryFacts::Missing,
        point: PointFacts::Unread,
        first: None,
        claims: BTreeMap::new(),
        worker: Worker::default(),
        machine: MachineFacts::default(),
        classes: StorageClasses::default(),
        image: None,
        run,
    };
    observed.worker = worker::observe(&reader, &observed.run).await?;
    let written = holds(observed.run.conditions(), "Written");
    let preparing = observed.run.node().is_none() && !observed.run.is_over() && !observed.run.is_cancelled();
    let makes = written && !observed.run.has_ended() && observed.run.spec.virtual_machine.is_some();
    if preparing || makes {
        observed.repository = reader.repository(observed.run.repository()).await?;
        observed.point = point(&reader, opened, &observed).await?;
        observed.machine = machine_facts(&reader, &observed, &uid).await?;
    }
    // What is left of a run that has ended goes, whoever uses it.
    let others = if observed.run.has_ended() { Vec::new() } else { rivals::others(&reader, &observed.run).await? };
    observed.first = rivals::first(&observed.run, &others);
    observed.claims = claims(&reader, &observed, &uid, &others).await?;
    if preparing {
        observed.classes = reader.classes().await?;
        observed.image = worker::image(client, settings).await?;
    }
    let node = match &observed.worker.pod {
        WorkerFacts::Pod(_, PodState::Runs(node)) => Some(node.clone()),
        _ => None,
    };
    if let Some(node) = observed.run.node().map(ToOwned::to_owned).or(node) {
        observed.agents = reader.agents(&node).await?;
    }
    Ok(observed)
}

/// The point, as the run's own namespace can read it.
async fn point(reader: &Reader<'_>, opened: &Opened, observed: &Observed) -> Result<PointFacts> {
    if !matches!(observed.repository, RepositoryFacts::Ready(_)) {
        return Ok(PointFacts::Unread);
    }
    let text = &observed.run.spec.point;
    let Ok(id) = text.parse::<PointId>() else {
        let message = format!(
            "{text:?} is no id of a point: that is 16 hexadecimal digits, a dash and a number, as the status of a BackupRun \
             tells it. Create another RestoreRun."
        );
        return Ok(PointFacts::Unusable("NoSuchPoint", message));
    };
    let reference = observed.run.repository();
    let namespace = reference.namespace_or(&reader.namespace);
    let repositories: Api<Repository> = Api::namespaced(reader.client.clone(), namespace);
    let repository = repositories.get(&reference.name).await?;
    let material = match tenancy::material(reader.client, &reader.settings.namespace, &repository).await {
        Ok(material) => material,
        Err(Trouble::Says(says)) => return Ok(PointFacts::Later(says.message)),
        Err(Trouble::Api(error)) => return Err(error),
    };
    let reading = async {
        let open = opened.get((namespace.to_owned(), reference.name.clone()), &material, IfEmpty::Fail).await?;
        let vault = open.keyring.vault(&reader.namespace.parse()?, VaultOptions::default()).await?;
        Ok::<_, Error>(vault.open(&id).await?.point().clone())
    };
    let late = Error::new(ErrorKind::Unavailable, format!("the store did not answer within {} s", PATIENCE.as_secs()));
    Ok(match tokio::time::timeout(PATIENCE, reading).await.unwrap_or(Err(late)) {
        Ok(point) if point.vm.as_str().split_once('/').is_some_and(|(of, _)| of == reader.namespace) => {
            PointFacts::Found(Box::new(point))
        }
        Ok(_) => no_such_point(&id, &reader.namespace),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => no_such_point(&id, &reader.namespace),
            ErrorKind::Damaged | ErrorKind::Unsupported | ErrorKind::Invalid => {
                PointFacts::Unusable("PointNotReadable", format!("{}.", error.chain().trim_end_matches('.')))
            }
            _ => PointFacts::Later(error.chain()),
        },
    })
}

fn no_such_point(id: &PointId, namespace: &str) -> PointFacts {
    let message = format!(
        "The repository has no point {id} of a machine of namespace {namespace}. The status of a BackupRun tells its \
         point's id. Create another RestoreRun."
    );
    PointFacts::Unusable("NoSuchPoint", message)
}

/// The claims that the run names or has had made, and who uses them. `restores` are the others of the namespace.
async fn claims(
    reader: &Reader<'_>,
    observed: &Observed,
    uid: &str,
    restores: &[RestoreRun],
) -> Result<BTreeMap<String, ClaimFacts>> {
    let run = &observed.run;
    let mut names: BTreeSet<String> = run.spec.disks.iter().map(|to| to.claim.clone()).collect();
    if let PointFacts::Found(point) = &observed.point {
        names.extend(targets(&run.spec, point).into_iter().flatten().map(|target| target.claim));
    }
    let api: Api<PersistentVolumeClaim> = reader.api();
    let made = ListParams::default().labels(&format!("{RUN_LABEL}={uid}"));
    let made = api.list_metadata(&made).await?.items;
    names.extend(made.iter().map(ResourceExt::name_any).filter(|name| is_target(run, name)));
    let (others, states) = if run.has_ended() {
        Default::default()
    } else {
        (Others::read(reader, &names).await?, overlays::states(reader).await?)
    };
    let ending: Vec<_> = restores.iter().filter(|other| rivals::ends(other, run)).collect();
    let no_users: Vec<_> = ending.iter().filter_map(|other| other.uid()).chain([uid.to_owned()]).collect();
    let mut all = BTreeMap::new();
    for name in names {
        let claim = api.get_opt(&name).await?;
        let mut facts = claim.as_ref().map(|claim| claim_facts(claim, run)).unwrap_or_default();
        if let Some(claim) = &claim {
            facts.users = others.of(&name, &no_users);
            let has_it = |other: &&&RestoreRun| {
                let uid = other.uid().unwrap_or_default();
                others.has_worker(&name, &uid) || (is_labelled(claim, &uid) && rivals::takes_claims(other))
            };
            facts.left_by = ending.iter().find(has_it).map(|other| other.name_any());
        }
        // Also of one that is to be made in the place of another.
        facts.overlays = overlays::overlays(&name, &others.machines, &states);
        all.insert(name, facts);
    }
    Ok(all)
}

fn claim_facts(claim: &PersistentVolumeClaim, run: &RestoreRun) -> ClaimFacts {
    let size = |quantities: Option<&BTreeMap<String, _>>| quantities.and_then(|all| bytes(all.get("storage")?));
    let spec = claim.spec.as_ref();
    let asks = spec.and_then(|spec| size(spec.resources.as_ref()?.requests.as_ref()));
    let has = claim.status.as_ref().and_then(|status| size(status.capacity.as_ref()));
    let leaving = claim.metadata.deletion_timestamp.is_some();
    ClaimFacts {
        // It has no owner, for it stays; its name is one of the run's.
        taken: if is_made_for(claim, run) { Taken::Ours { leaving } } else { Taken::Foreign },
        uid: claim.uid().unwrap_or_default(),
        capacity: has.or(asks),
        block: spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block"),
        users: Vec::new(),
        left_by: None,
        overlays: Vec::new(),
    }
}

/// Whether a claim was made for a run, which removes it if it fails. Whoever may label claims, and not remove them, can give one that
/// was there before the run's label, but not another age.
fn is_made_for(claim: &PersistentVolumeClaim, run: &RestoreRun) -> bool {
    let was_there = match (claim.creation_timestamp(), run.creation_timestamp()) {
        (Some(claim), Some(run)) => run.0.duration_since(claim.0) > CLOCKS,
        _ => false,
    };
    is_labelled(claim, &run.uid().unwrap_or_default()) && !was_there
}

fn is_labelled(claim: &PersistentVolumeClaim, run: &str) -> bool {
    claim.labels().get(RUN_LABEL).is_some_and(|of| of == run)
}

async fn machine_facts(reader: &Reader<'_>, observed: &Observed, uid: &str) -> Result<MachineFacts> {
    let Some(wanted) = &observed.run.spec.virtual_machine else { return Ok(MachineFacts::default()) };
    let api = kubevirt(reader, "VirtualMachine");
    let there = match api.get_opt(&wanted.name).await {
        Err(error) if is_unknown(&error) => return Ok(MachineFacts { unknown: true, ..MachineFacts::default() }),
        there => there?,
    };
    let ours = |machine: &DynamicObject| machine.labels().get(RUN_LABEL).is_some_and(|of| of == uid);
    let taken = there
        .as_ref()
        .map_or(Taken::Free, |machine| if ours(machine) { Taken::Ours { leaving: false } } else { Taken::Foreign });
    let original = match &observed.point {
        PointFacts::Found(point) => machine::original(&point.definition),
        _ => None,
    };
    let original = match original {
        Some(original) if original != wanted.name => api.get_opt(&original).await?.is_some(),
        _ => false,
    };
    Ok(MachineFacts { taken, original, unknown: false })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_that_was_there_before_the_run_is_not_the_runs_whatever_its_label_says() {
        let run: RestoreRun = serde_json::from_value(json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun",
            "metadata": {"name": "run", "uid": "run-uid", "creationTimestamp": "2026-01-10T02:00:00Z"},
            "spec": {"point": "0011223344556677-1", "repository": {"name": "offsite"}},
        }))
        .unwrap();
        for (label, created, is_ours) in [
            ("run-uid", "2026-01-10T02:00:01Z", true),
            ("run-uid", "2026-01-10T01:59:58Z", true),
            ("run-uid", "2026-01-10T01:30:00Z", false),
            ("run-uid", "2025-01-10T02:00:01Z", false),
            ("other", "2026-01-10T02:00:01Z", false),
        ] {
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({
                "metadata": {"name": "data", "labels": {"remora.dev/run": label}, "creationTimestamp": created},
            }))
            .unwrap();
            let wanted = if is_ours { Taken::Ours { leaving: false } } else { Taken::Foreign };
            assert_eq!(claim_facts(&claim, &run).taken, wanted, "{label} at {created}");
        }
    }
}
