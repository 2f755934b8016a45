//! Why a run failed, as a condition says it.

use remora_core::{Error, ErrorKind};

/// An error with the reason of its condition.
#[derive(Debug)]
pub struct Failure {
    reason: String,
    error: Error,
}

impl Failure {
    /// One whose reason somebody else gave: the controller, or KubeVirt.
    pub fn because(given: &str, error: Error) -> Self {
        Self { reason: valid(given).unwrap_or_else(|| reason(error.kind()).into()), error }
    }

    /// A word in CamelCase.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What failed.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// What failed on what, why, and what to do.
    pub fn message(&self) -> String {
        let mut message = self.error.chain();
        if let Some(advice) = self.error.advice() {
            message = format!("{}. {advice}", message.trim_end_matches('.'));
        }
        message
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let reason = error.name().and_then(valid).unwrap_or_else(|| reason(error.kind()).into());
        Self { reason, error }
    }
}

/// The reason of a kind of error.
pub const fn reason(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "InvalidSettings",
        ErrorKind::NotFound => "NotFound",
        ErrorKind::Exists => "AlreadyExists",
        ErrorKind::WrongKey => "WrongPassphrase",
        ErrorKind::Unsupported => "Unsupported",
        ErrorKind::Damaged => "RepositoryDamaged",
        ErrorKind::Busy => "Busy",
        ErrorKind::Unavailable => "Unavailable",
        ErrorKind::NoSpace => "NoSpace",
        ErrorKind::Refused => "Refused",
        ErrorKind::Incomplete => "Incomplete",
        ErrorKind::Cancelled => "Cancelled",
        ErrorKind::Failed => "InternalError",
    }
}

/// A reason as the API server takes it: the name may come from a condition that a tenant's object has.
fn valid(reason: &str) -> Option<String> {
    let plain = reason.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let begins = reason.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    (plain && begins && !reason.ends_with('_') && reason.len() <= 256).then(|| reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_no_condition_takes_is_replaced() {
        let error = || Error::new(ErrorKind::Refused, "no").advise("Ask.");
        assert_eq!(Failure::because("ScratchTooSmall", error()).reason(), "ScratchTooSmall");
        for bad in ["", "has space", "1st", "Ends_", &"A".repeat(257)] {
            assert_eq!(Failure::because(bad, error()).reason(), "Refused", "{bad:?}");
        }
        assert_eq!(Failure::from(error()).message(), "no. Ask.");
    }

    #[test]
    fn an_error_that_has_a_name_is_told_by_it() {
        let error = || Error::new(ErrorKind::Unavailable, "no");
        assert_eq!(Failure::from(error()).reason(), "Unavailable");
        assert_eq!(
            Failure::from(error().named("ScratchNotAttachable").within("opening")).reason(),
            "ScratchNotAttachable"
        );
        assert_eq!(Failure::from(error().named("no reason".to_owned())).reason(), "Unavailable");
    }
}
