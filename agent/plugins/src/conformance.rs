//! The conformance kit: what a policy or a mover must hold, tried on the host that runs it in production.
//!
//! [`policy`] and [`mover`] take a component and give a [`Report`]. The trials themselves stand beside what they try:
//! `policies/conformance.rs` and `movers/conformance.rs`. A trial that fails is in the report and is no error; an error means that
//! nothing could be tried.

mod report;
pub(crate) mod settings;

use remora_core::{Error, ErrorKind, Result};

pub use crate::movers::conformance::{MoverTrial, mover};
pub use crate::policies::conformance::{PolicyTrial, policy};
pub(crate) use report::Findings;
pub use report::{Check, Figure, Outcome, Report};
pub use settings::settings_of;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What can be told without asking it much: its form, its world, its settings.
    Check,
    /// Everything.
    Test,
    /// How long it takes, and nothing else.
    Bench,
}

/// In a report, why a component is not taken, and what to do.
pub(crate) fn told(error: &Error) -> String {
    let advice = error.advice().map(|advice| format!(". {advice}"));
    error.chain() + &advice.unwrap_or_default()
}

/// What a component is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It decides.
    Policy,
    /// It stores objects, or points.
    Mover,
}

impl Made {
    /// Of a component, by the names in it. Only a guess: the host looks closer.
    pub fn of(component: &[u8]) -> Result<Self> {
        crate::host::check_form(component)?;
        let names = |what: &[u8]| component.windows(what.len()).any(|bytes| bytes == what);
        if names(b"remora:mover/") {
            Ok(Self::Mover)
        } else if names(b"remora:policy/") {
            Ok(Self::Policy)
        } else {
            Err(Error::new(ErrorKind::Invalid, "it is neither a policy nor a mover: it names nothing of remora")
                .advise("Build it against wit/policy or wit/mover; docs/plugins.md tells how."))
        }
    }
}
