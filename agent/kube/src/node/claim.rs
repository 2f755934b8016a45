//! Claiming a run, so that one agent alone works on it.

use kube::{Client, ResourceExt};

use super::Me;
use super::choose::{Candidate, Claimed};
use super::lives::live_agents;
use super::record::{Record, Unwritten};
use super::status::Words;

/// What became of a claim.
pub(super) enum Claim<S: Words> {
    /// The run is ours.
    Ours(Box<Record<S>>),
    /// Its agent lives: it is left alone.
    OfAnother,
    /// It has changed since it was seen: it is looked at again as it is now.
    Changed,
}

/// Claims a run. One that another agent of this node has claimed is taken over only when that agent's pod is gone.
/// `said` is what claims it.
pub(super) async fn claim<S: Words>(
    client: &Client,
    me: &Me,
    candidate: &Candidate<S::Run>,
    said: S,
) -> Result<Claim<S>, Unwritten> {
    if let Claimed::By(other) = &candidate.claimed {
        let live = live_agents(client, me).await.map_err(|e| Unwritten::Later(e.into()))?;
        if live.contains(other) {
            return Ok(Claim::OfAnother);
        }
        tracing::info!(run = candidate.run.name_any(), agent = other, "its agent is gone: the run is taken over");
    }
    let mut record = Record::new(client.clone(), &*candidate.run, me, said);
    Ok(if record.claim().await? { Claim::Ours(Box::new(record)) } else { Claim::Changed })
}
