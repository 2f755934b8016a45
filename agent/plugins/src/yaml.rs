//! YAML, and what is wrong with one in words for whoever wrote it.

use serde::de::DeserializeOwned;
use serde_saphyr::UserMessageFormatter;

/// What is wrong.
pub(crate) struct Fault {
    /// Counted from 1; none if it is of the text as a whole.
    pub(crate) line: Option<u64>,
    /// In full: what is wrong stands in its first line.
    pub(crate) what: String,
}

impl Fault {
    /// What is wrong, on one line.
    pub(crate) fn brief(&self) -> &str {
        self.what.lines().next().unwrap_or_default()
    }
}

/// Reads a text.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    serde_saphyr::from_str(text).map_err(|error| Fault {
        line: error.location().map(|location| location.line()),
        // The error's own text names the place again, and shows a picture of it.
        what: error.without_snippet().render_with_formatter(&UserMessageFormatter),
    })
}
