//! The file of what policies answered last, so that one that fails when the agent is restarted is no silence.

use std::path::{Path, PathBuf};

use remora_core::{Error, ErrorKind, Result};
use remora_schedule::Answered;
use serde::{Deserialize, Serialize};

use crate::ledger::replace;

/// The version of the file's form.
const VERSION: u32 = 1;

/// Where it is kept.
#[derive(Debug)]
pub(crate) struct AnswersFile {
    path: PathBuf,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    policies: Answered,
}

impl AnswersFile {
    pub(crate) fn new(state: &Path) -> Self {
        Self { path: state.join("answers.json") }
    }

    /// What is kept. Where that cannot be read there is nothing: it counts only for policies that fail now.
    pub(crate) fn read(&self) -> Answered {
        match self.stored() {
            Ok(answered) => answered,
            Err(error) => {
                let advice = error.advice().unwrap_or_default();
                tracing::error!(
                    error = error.chain(),
                    advice,
                    "a policy that fails now backs up nothing until it answers"
                );
                Answered::new()
            }
        }
    }

    fn stored(&self) -> Result<Answered> {
        let named = || format!("what policies answered last, {}", self.path.display());
        let bytes = match std::fs::read(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Answered::new()),
            bytes => bytes.map_err(|e| Error::io(named(), e))?,
        };
        let damaged = |e| Error::new(ErrorKind::Damaged, named()).because(e).advise("It is written anew.");
        let Version { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version != VERSION {
            let what = format!("{}: it has version {version}, and this agent knows {VERSION}", named());
            return Err(Error::new(ErrorKind::Unsupported, what).advise("It is written anew."));
        }
        let Stored { policies, .. } = serde_json::from_slice(&bytes).map_err(damaged)?;
        Ok(policies)
    }

    /// Keeps this, in one step.
    pub(crate) fn keep(&self, policies: Answered) -> Result<()> {
        let stored = serde_json::to_vec(&Stored { version: VERSION, policies }).map_err(std::io::Error::from);
        stored
            .and_then(|bytes| replace(&self.path, &bytes))
            .map_err(|e| Error::io(format!("writing what policies answered last, {}", self.path.display()), e))
    }
}
