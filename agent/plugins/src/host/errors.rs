//! Why a component is not taken.

use remora_core::{Error, ErrorKind};

/// A setting that a component does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where in the settings, as a JSON Pointer; empty for all of them.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// What is wrong with a setting, after where it is; of all of them that is nowhere.
pub(crate) fn wrong_setting(path: &str, message: &str) -> String {
    if path.is_empty() { message.into() } else { format!("{path}: {message}") }
}

/// Why a component is not taken.
#[derive(Debug)]
pub enum Refused {
    /// It does not take its settings.
    Settings(Vec<FieldError>),
    /// Anything else.
    Because(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Because(error)
    }
}

/// What went wrong in a call, told from what wasmtime says.
pub(crate) fn failed_call(error: &wasmtime::Error, doing: &str, deadline: std::time::Duration) -> Error {
    use wasmtime::Trap;
    let cause = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => format!("it did not answer within {} ms", deadline.as_millis()),
        Some(Trap::StackOverflow) => "its calls nest too deep".into(),
        Some(trap) => format!("it trapped: {trap}"),
        // What is around it is the place in a component that nobody has the source of.
        None => error.root_cause().to_string(),
    };
    let kind =
        if matches!(error.downcast_ref(), Some(Trap::Interrupt)) { ErrorKind::Cancelled } else { ErrorKind::Failed };
    Error::new(kind, format!("{doing} failed")).because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_all_settings_is_told_without_a_place() {
        assert_eq!(wrong_setting("", "missing field `endpoint`"), "missing field `endpoint`");
        assert_eq!(wrong_setting("/endpoint", "it is empty"), "/endpoint: it is empty");
    }
}
