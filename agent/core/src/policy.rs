//! The ports of policies: decisions that somebody else makes, and the records that they are made from.
//!
//! A policy decides and does nothing. What a failed one means is up to the caller, and safe for its kind: *select* and
//! *schedule* keep the last good answer, *retention* drops nothing, *authorize* denies.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::name::VmName;
use crate::retention::{Candidate, Rules, Verdict, plan};

/// What policies may know of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmFacts {
    /// Its name in repositories: on Kubernetes `<namespace>/<name>`.
    pub name: VmName,
    /// Its namespace on Kubernetes; empty on a plain host.
    #[serde(default)]
    pub namespace: String,
    /// Its UUID; empty if it has none.
    #[serde(default)]
    pub uid: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl VmFacts {
    /// A VM of which only the name is known.
    pub fn named(name: VmName) -> Self {
        Self { name, namespace: String::new(), uid: String::new(), labels: BTreeMap::new() }
    }

    /// Its name within its namespace: what policies are told.
    pub fn short_name(&self) -> &str {
        let name = self.name.as_str();
        let rest = name.strip_prefix(&self.namespace).and_then(|rest| rest.strip_prefix('/'));
        rest.filter(|_| !self.namespace.is_empty()).unwrap_or(name)
    }
}

/// Which VMs a backup policy is for.
#[async_trait]
pub trait Select: Send + Sync {
    /// An answer for each VM, in order.
    async fn select(&self, vms: &[VmFacts]) -> Result<Vec<Selection>>;
}

/// Whether a VM is selected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Whether the backup policy is for it.
    pub selected: bool,
    /// Why.
    pub reason: String,
}

/// When the next backup of a VM is due.
#[async_trait]
pub trait Schedule: Send + Sync {
    /// An answer for each question, in order.
    async fn next(&self, questions: &[Question]) -> Result<Vec<Due>>;
}

/// The question when the next backup of a VM is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The VM.
    pub vm: VmFacts,
    /// Now.
    pub now: Timestamp,
    /// The end of what is settled: the start of the last run that was due and did not fail, or the instant since when the VM is
    /// selected.
    pub after: Timestamp,
    /// Stays the same for a VM under a policy.
    pub seed: u64,
    /// The newest runs, newest first.
    pub runs: Vec<PastRun>,
}

/// A backup that made a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastRun {
    /// The instant that its point shows.
    pub time: Timestamp,
    /// Bytes that it read because they had changed, or all for a full or a reread.
    pub changed: u64,
    /// The sizes of the disks together, in bytes.
    pub size: u64,
    /// How many seconds it took.
    #[serde(default)]
    pub seconds: u64,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It made a point.
    Made(PastRun),
    /// It failed then, and is tried again.
    Failed(Timestamp),
    /// Nothing yet, or somebody did not want it: the next one is when the policy says.
    Settled,
}

/// When to start a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// At once if this is past; never if there is none.
    pub start: Option<Timestamp>,
    /// Why then.
    pub reason: String,
}

/// Whose word something follows, and why: what a log has to tell to hold a policy to account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The SHA-256 of the module, in hexadecimal digits; empty if it is not known any more.
    pub digest: String,
    /// The SHA-256 of its settings, as well.
    pub settings: String,
    /// What it gave as the reason.
    pub reason: String,
}

/// Which points of a VM are kept.
#[async_trait]
pub trait Retention: Send + Sync {
    /// A verdict on each point, in order. The points are those of one VM, oldest first; `now` is the store's time.
    async fn judge(&self, vm: &VmName, points: &[Candidate], now: Timestamp) -> Result<Vec<Verdict>>;
}

#[async_trait]
impl Retention for Rules {
    async fn judge(&self, _vm: &VmName, points: &[Candidate], now: Timestamp) -> Result<Vec<Verdict>> {
        Ok(plan(points, self, now))
    }
}

/// Who may do what with the files of a point. Quick enough to be asked for every file: it does not wait for anything but
/// the policy itself, whose deadline is 100 ms.
pub trait Authorize: Send + Sync {
    /// A decision on each request, in order.
    fn authorize(&self, requests: &[Access]) -> Result<Vec<Decision>>;
}

/// What somebody wants to do with a file of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who asks.
    pub subject: Subject,
    /// What is wanted.
    pub action: Action,
    /// The VM.
    pub vm: VmFacts,
    /// The point's id.
    pub point: String,
    /// The instant that it shows.
    pub point_time: Timestamp,
    /// The path in the served tree: absolute, links resolved, any bytes.
    pub path: Vec<u8>,
    /// Now.
    pub now: Timestamp,
    /// Consent of others to this request.
    pub approvals: Vec<Approval>,
}

/// Who asks; made sure of already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The user's name.
    pub user: String,
    /// The groups that the user is in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What the cluster lets the user do with the VM, as `verb resource`.
    #[serde(default)]
    pub grants: Vec<String>,
}

/// What is wanted of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The names in a folder.
    List,
    /// Its size, owner and times.
    Stat,
    /// Its bytes.
    Read,
}

impl Action {
    /// As policies know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Stat => "stat",
            Self::Read => "read",
        }
    }
}

/// Somebody's consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Who consents.
    pub user: String,
    /// The groups that this user is in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Since when.
    pub granted: Timestamp,
    /// Until when.
    pub expires: Timestamp,
}

/// What a policy, or all of them together, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It may be done.
    Allow,
    /// It may not.
    Deny,
    /// The policy has nothing to say of it.
    Abstain,
}

/// A decision on one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What.
    pub effect: Effect,
    /// A short name for programs, which the one who asks is shown.
    pub code: String,
    /// Why, for the log.
    pub reason: String,
    /// What must be done along with it.
    pub obligations: Vec<Obligation>,
    /// For how many milliseconds the same question may get the same answer unasked.
    pub cache_ttl_ms: u32,
}

/// What must be done along with an allowed request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obligation {
    /// What.
    pub id: String,
    /// With what.
    pub params: BTreeMap<String, String>,
    /// Whether a host that does not know it must deny instead.
    pub required: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_within_its_namespace_is_all_of_it_without_one() {
        let named = |name: &str, namespace: &str| {
            let facts = VmFacts::named(VmName::new(name).expect("a name"));
            VmFacts { namespace: namespace.into(), ..facts }.short_name().to_owned()
        };
        assert_eq!(named("shop/web", "shop"), "web");
        assert_eq!(named("shop/web", ""), "shop/web");
        assert_eq!(named("shopping/web", "shop"), "shopping/web");
        assert_eq!(named("web", "shop"), "web");
    }
}
