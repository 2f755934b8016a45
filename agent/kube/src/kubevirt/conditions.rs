//! What a `VirtualMachineBackup` says of itself, in the words of KubeVirt 1.8 and of 1.9.

use serde::{Deserialize, Serialize};

/// A condition: of 1.9 the usual one, of 1.8 one of KubeVirt's own, with fewer fields that are always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupCondition {
    /// 1.9: `Progressing`, `Complete`, `Failed`, `Quiesced`. 1.8: `Initializing`, `Progressing`, `ExportInitiated`,
    /// `ExportReady`, `Aborting`, `Deleting`, `Done`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// In one word.
    #[serde(default)]
    pub reason: Option<String>,
    /// For people.
    #[serde(default)]
    pub message: Option<String>,
}

/// How far a backup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is about to run, or runs: in KubeVirt's last words.
    InFlight(String),
    /// It is being taken down.
    Ending(String),
    /// It ended.
    Complete,
    /// It ended, and is no good.
    Failed {
        /// In one word.
        reason: String,
        /// For people.
        message: String,
    },
}

impl Stage {
    /// What conditions tell. None at all are those of a backup that nobody has looked at yet.
    pub fn of(conditions: &[BackupCondition]) -> Self {
        let holds = |kind: &str| conditions.iter().find(|one| one.kind == kind && one.status == "True");
        if let Some(failed) = holds("Failed") {
            return Self::Failed { reason: failed.reason().into(), message: failed.message().into() };
        }
        if holds("Complete").is_some() || holds("Done").is_some() {
            return Self::Complete;
        }
        let ending = holds("Aborting").or_else(|| holds("Deleting"));
        let progressing = holds("Progressing");
        if let Some(ending) = ending.or_else(|| progressing.filter(|one| one.reason() == "Aborting")) {
            return Self::Ending(ending.words());
        }
        let last =
            ["ExportReady", "ExportInitiated", "Progressing", "Initializing"].iter().find_map(|kind| holds(kind));
        let last = last.or_else(|| conditions.iter().find(|one| one.kind == "Progressing"));
        Self::InFlight(last.map_or_else(|| "KubeVirt has not begun it".into(), BackupCondition::words))
    }
}

impl BackupCondition {
    fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }

    fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }

    fn words(&self) -> String {
        let parts = [self.reason(), self.message()].into_iter().filter(|part| !part.is_empty());
        let words: Vec<_> = parts.collect();
        if words.is_empty() { self.kind.clone() } else { words.join(": ") }
    }
}
