//! The policies in force: what the documents of a folder say, loaded.
//!
//! A [`Generation`] never changes. The next one is made beside it, from a new [`Snapshot`] of the folder, and takes its place
//! in one step; whoever works with the old one goes on with it. Each file stands for itself: a broken one keeps what it
//! last stood for, and says so, while its neighbours get on; one that is gone is gone.

mod kept;
mod load;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use remora_core::point::Quiesce;
use remora_core::{Error, Result};

use crate::documents::{Mode, Target};
use crate::host::{Digest, Host};
use crate::registry::WAITING;
use crate::{AuthorizePolicy, RetentionPolicy, SchedulePolicy, SelectPolicy};

use load::Having;

pub use kept::Kept;
pub use snapshot::Snapshot;

/// How a module is shown, whatever it decides on.
macro_rules! shown {
    ($field:literal, $policy:expr) => {
        ModuleInForce {
            field: $field,
            interface: $policy.interface(),
            digest: $policy.digest(),
            settings: $policy.settings_hash(),
            facts: $policy.facts().iter().cloned().collect(),
        }
    };
}

/// The policies of one snapshot.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Counts up.
    pub number: u64,
    /// By file, in the order of their names.
    pub files: Vec<Arc<PolicyFile>>,
}

/// What a file stands for, and how well.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// Its name.
    pub file: String,
    /// The digest of its text.
    pub text: Digest,
    /// The modules that its active version has from files, by name.
    pub(crate) modules: Vec<(String, Digest)>,
    /// By which document of registries, and which keys, it was loaded.
    pub(crate) trust: Digest,
    /// Whether it speaks of registries.
    pub(crate) remote: bool,
    /// Whether it is not readably a backup policy: one that was never good may have been meant to deny.
    pub(crate) may_deny: bool,
    /// The last good version; none if there never was one.
    pub active: Option<Active>,
    /// The digest of the text of that version.
    pub active_text: Option<Digest>,
    /// Why the version on disk is not the active one.
    pub broken: Option<Arc<Error>>,
    /// Whether it, or its last good version, may be loaded later though nothing of it changes.
    pub(crate) again: bool,
    /// Since when it has been so: active, or broken.
    pub since: Timestamp,
}

/// A loaded document.
#[derive(Clone, Debug)]
pub enum Active {
    /// A backup policy.
    Backup(Arc<BackupPolicy>),
    /// An access policy.
    Access(Arc<AccessPolicy>),
}

impl Active {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Backup(policy) => &policy.name,
            Self::Access(policy) => &policy.name,
        }
    }
}

/// A backup policy that is loaded.
#[derive(Clone, Debug)]
pub struct BackupPolicy {
    /// Its name.
    pub name: String,
    /// Which VMs it is for.
    pub select: SelectPolicy,
    /// When.
    pub schedule: SchedulePolicy,
    /// What is kept; everything if none.
    pub retention: Option<RetentionPolicy>,
    /// What the points go to; the only repository that there is if none.
    pub target: Option<Target>,
    /// The `StorageClass` of the scratch of runs, which Kubernetes alone has; the cluster's default if none.
    pub scratch_class: Option<String>,
    /// Whether guests are frozen.
    pub quiesce: Quiesce,
    /// How long a run may take; as long as where it runs says if none.
    pub deadline: Option<Duration>,
    /// How often the newest points are verified; never if none.
    pub verify_every: Option<Duration>,
}

/// An access policy that is loaded.
#[derive(Clone, Debug)]
pub struct AccessPolicy {
    /// Its name.
    pub name: String,
    /// The policies that are asked, in order.
    pub bindings: Vec<AccessBinding>,
    /// For how long it may decide while a newer version is broken.
    pub max_staleness: Duration,
}

/// A policy that is asked about files.
#[derive(Clone, Debug)]
pub struct AccessBinding {
    /// The module, as the document names it.
    pub module: String,
    /// The policy.
    pub policy: AuthorizePolicy,
    /// Whether its word counts.
    pub mode: Mode,
}

impl Generation {
    /// The generation that follows, from what lies in the folder now. Takes the time of compiling what is new.
    #[must_use]
    pub fn next(&self, host: &Host, snapshot: &Snapshot, now: Timestamp) -> Self {
        load::next(self, host, snapshot, None, Having::NOW, now)
    }

    /// Likewise; good versions are kept on disk, and taken from there for a document that is broken from the start.
    #[must_use]
    pub fn next_kept(&self, host: &Host, snapshot: &Snapshot, kept: &Kept, now: Timestamp) -> Self {
        load::next(self, host, snapshot, Some(kept), Having::NOW, now)
    }

    /// Likewise, from what is at hand: what has to be fetched is left to [`Registries::fetch_wanted`], where what is fetched is
    /// kept, and modules that take long to compile to [`Host::compile_wanted`]. The documents that want them are broken until
    /// they are there.
    ///
    /// [`Registries::fetch_wanted`]: crate::Registries::fetch_wanted
    #[must_use]
    pub fn next_at_hand(&self, host: &Host, snapshot: &Snapshot, kept: Option<&Kept>, now: Timestamp) -> Self {
        load::next(self, host, snapshot, kept, Having::later(host), now)
    }

    /// The first generation when the folder cannot be read: what was kept of it, stale since it was kept. The error again if
    /// nothing was.
    pub fn last_good(host: &Host, kept: &Kept, error: Error) -> Result<Self> {
        load::last_good(host, kept, error)
    }

    /// The generation that follows when the folder cannot be read: what is in force stays, and grows stale.
    #[must_use]
    pub fn unreadable(&self, error: Error, now: Timestamp) -> Self {
        let error = Arc::new(error);
        let stale = |file: &Arc<PolicyFile>| {
            let since = file.stale_since().unwrap_or(now);
            Arc::new(PolicyFile { broken: Some(Arc::clone(&error)), since, ..PolicyFile::clone(file) })
        };
        Self { number: self.number + 1, files: self.files.iter().map(stale).collect() }
    }

    /// The backup policies, and since when each has been stale, if it is.
    pub fn backups(&self) -> impl Iterator<Item = (&Arc<BackupPolicy>, Option<Timestamp>)> {
        self.files.iter().filter_map(|file| match &file.active {
            Some(Active::Backup(policy)) => Some((policy, file.stale_since())),
            _ => None,
        })
    }

    /// The access policies, likewise.
    pub fn accesses(&self) -> impl Iterator<Item = (&Arc<AccessPolicy>, Option<Timestamp>)> {
        self.files.iter().filter_map(|file| match &file.active {
            Some(Active::Access(policy)) => Some((policy, file.stale_since())),
            _ => None,
        })
    }

    /// Whether loading the same files again may come to something else: a registry may be there again, or what compiles, a module
    /// may be fetched or compiled by now, and another document of registries may trust others.
    pub fn is_due(&self, host: &Host) -> bool {
        let trust = host.registries().trust();
        self.files.iter().any(|file| file.again || file.is_trusting() && file.trust != trust)
    }

    /// Whether another generation stands for the same and fails alike: then nobody has to be told of it.
    pub fn is_same(&self, other: &Self) -> bool {
        let standing = |file: &PolicyFile| {
            let broken = file.broken.as_ref().map(|error| error.chain());
            (file.file.clone(), file.text, file.trust, file.active_text, file.again, broken)
        };
        self.files.iter().map(|file| standing(file)).eq(other.files.iter().map(|file| standing(file)))
    }

    /// The files whose version on disk is not in force, and why.
    pub fn broken(&self) -> impl Iterator<Item = (&PolicyFile, &Error)> {
        self.files.iter().filter_map(|file| Some((&**file, &**file.broken.as_ref()?)))
    }
}

impl PolicyFile {
    /// Whether anything that it has needs trust: all but what is built in. Of one that is broken nobody knows.
    fn is_trusting(&self) -> bool {
        self.remote || !self.modules.is_empty() || self.broken.is_some()
    }

    /// Whether the version on disk is not in force for no other reason than that a module of it is being fetched or compiled.
    pub fn is_waiting(&self) -> bool {
        self.broken.as_ref().is_some_and(|error| error.name() == Some(WAITING))
    }

    /// Since when a version is in force that is not the one on disk.
    pub fn stale_since(&self) -> Option<Timestamp> {
        self.broken.is_some().then_some(self.since)
    }
}

/// A module in force, as it is shown.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModuleInForce {
    /// What it decides on: `select`, `authorize`, …
    pub field: &'static str,
    /// The interface by which it is asked, with its version: `remora:policy/authorize@0.2.0`.
    pub interface: &'static str,
    /// The SHA-256 of its component.
    pub digest: Digest,
    /// The SHA-256 of its settings.
    pub settings: Digest,
    /// What it told of itself.
    pub facts: std::collections::BTreeMap<String, String>,
}

impl Active {
    /// Its modules, in the order of the document.
    pub fn modules(&self) -> Vec<ModuleInForce> {
        match self {
            Self::Backup(policy) => {
                let retention = policy.retention.as_ref().map(|policy| shown!("retention", policy));
                let first = [shown!("select", policy.select), shown!("schedule", policy.schedule)];
                first.into_iter().chain(retention).collect()
            }
            Self::Access(policy) => policy.bindings.iter().map(|binding| shown!("authorize", binding.policy)).collect(),
        }
    }
}
