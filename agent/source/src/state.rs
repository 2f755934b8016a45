//! Why a job broke, shared by all who use it: the first reason counts, for the rest follows from it.

use std::sync::{Mutex, PoisonError};

use remora_core::{Error, ErrorKind};

/// The first reason, if any, why a job can no longer be read.
#[derive(Debug, Default)]
pub(crate) struct JobState {
    broken: Mutex<Option<Broken>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) kind: ErrorKind,
    pub(crate) what: String,
    pub(crate) advice: &'static str,
}

impl JobState {
    /// Notes a reason; a later one changes nothing.
    pub(crate) fn break_off(&self, broken: Broken) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(broken);
    }

    /// The reason as an error.
    pub(crate) fn error(&self) -> Option<Error> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Error::new(broken.kind, broken.what).advise(broken.advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let state = JobState::default();
        assert!(state.error().is_none());
        for (kind, what) in [(ErrorKind::NoSpace, "full"), (ErrorKind::Unavailable, "closed")] {
            state.break_off(Broken { kind, what: what.into(), advice: "Do it." });
        }
        let error = state.error().unwrap();
        assert_eq!(
            (error.kind(), error.to_string().as_str(), error.advice()),
            (ErrorKind::NoSpace, "full", Some("Do it."))
        );
    }
}
