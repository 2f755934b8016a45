//! What was not at hand when policies were loaded: it is fetched beside them, so that a registry that is slow or away holds up nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_core::{Error, ErrorKind};

use super::artifact::Artifact;
use super::{WAITING, Wants};

/// What is wanted, and why it could not be had when that was last tried. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    now: HashMap<Artifact, Option<Failure>>,
    /// What was wanted the last time that all policies were looked at.
    before: HashMap<Artifact, Option<Failure>>,
}

#[derive(Clone, Debug)]
struct Failure {
    kind: ErrorKind,
    why: String,
    advice: Option<String>,
}

impl Wanted {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All policies are looked at again: what none of them wants then is forgotten.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.before = std::mem::take(&mut state.now);
    }

    /// Notes that something is wanted, and says why it is not there.
    pub(super) fn note(&self, artifact: &Artifact) -> Error {
        let mut state = self.state();
        let before = state.before.remove(artifact).flatten();
        match state.now.entry(artifact.clone()).or_insert(before) {
            Some(failure) => {
                let error = Error::new(failure.kind, failure.why.clone());
                failure.advice.iter().fold(error, |error, advice| error.advise(advice.clone()))
            }
            None => Error::new(ErrorKind::Unavailable, "it is being fetched")
                .named(WAITING)
                .advise("It is in force as soon as it is here. What was fetched once needs no registry."),
        }
    }

    /// What is to be fetched.
    pub(super) fn list(&self, what: Wants) -> Vec<Artifact> {
        let state = self.state();
        let wanted = state.now.iter().filter(|(_, tried)| what == Wants::All || tried.is_none());
        wanted.map(|(artifact, _)| artifact.clone()).collect()
    }

    /// Something was tried. What is at hand now is not wanted again.
    pub(super) fn tried(&self, artifact: &Artifact, failed: Option<&Error>) {
        let mut state = self.state();
        match failed {
            None => drop(state.now.remove(artifact)),
            Some(error) => {
                let advice = error.advice().map(str::to_owned);
                let failure = Failure { kind: error.kind(), why: error.chain(), advice };
                if let Some(tried) = state.now.get_mut(artifact) {
                    *tried = Some(failure);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Digest;

    fn artifact(host: &str) -> Artifact {
        Artifact::parse(&format!("//{host}/a@sha256:{}", Digest::of(&[]))).unwrap()
    }

    #[test]
    fn what_was_tried_in_vain_is_told_and_not_tried_again_at_once() {
        let (wanted, one, other) = (Wanted::default(), artifact("one.example"), artifact("other.example"));
        wanted.begin();
        assert!(wanted.note(&one).to_string().contains("being fetched"));
        wanted.note(&other);
        wanted.tried(&one, Some(&Error::new(ErrorKind::NotFound, "it is not there").advise("Push it.")));
        wanted.tried(&other, None);
        assert_eq!(wanted.list(Wants::New), []);
        assert_eq!(wanted.list(Wants::All), std::slice::from_ref(&one));
        wanted.begin();
        let told = wanted.note(&one);
        assert_eq!(
            (told.kind(), told.to_string().as_str(), told.advice()),
            (ErrorKind::NotFound, "it is not there", Some("Push it."))
        );
        // Nobody names it any more.
        wanted.begin();
        assert_eq!(wanted.list(Wants::All), []);
    }
}
