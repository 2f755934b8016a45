//! Where in a document something is wrong, and what every kind of document has.

use std::time::Duration;

use jiff::{SignedDuration, SpanRelativeTo};
use remora_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

use crate::reference::ModuleRef;
use crate::yaml;

/// A file.
pub(crate) struct At<'a> {
    /// What errors call it.
    pub(crate) file: &'a str,
    /// A sentence that says where all fields are listed.
    pub(crate) guide: &'a str,
}

impl At<'_> {
    pub(crate) fn error(&self, line: Option<u64>, what: impl std::fmt::Display) -> Error {
        let place = match line {
            Some(line) => format!("{}, line {line}: {what}", self.file),
            None => format!("{}: {what}", self.file),
        };
        Error::new(ErrorKind::Invalid, place)
    }

    pub(crate) fn yaml<T: DeserializeOwned>(&self, text: &str) -> Result<T> {
        yaml::read(text).map_err(|fault| self.error(fault.line, fault.brief()).advise(self.guide))
    }

    /// What a field names.
    pub(crate) fn module(&self, field: &str, module: &Spanned<String>) -> Result<ModuleRef> {
        module.value.parse::<ModuleRef>().map_err(|error| {
            let placed = self.error(Some(module.referenced.line()), format!("{field}: {error}"));
            let placed = Error::new(error.kind(), placed.to_string());
            match error.advice() {
                Some(advice) => placed.advise(advice),
                None => placed,
            }
        })
    }

    /// A name is shown, logged and a label of metrics: so it is short and plain.
    pub(crate) fn name(&self, name: Spanned<String>) -> Result<String> {
        let plain = name.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if name.value.is_empty() || name.value.len() > 63 || !plain {
            let line = Some(name.referenced.line());
            return Err(self
                .error(line, format!("name: {:?} is no name", name.value))
                .advise("Use letters, digits, '-', '_' and '.', at most 63."));
        }
        Ok(name.value)
    }

    pub(crate) fn length(&self, field: &str, text: &Spanned<String>) -> Result<Duration> {
        let parsed = || {
            let span: jiff::Span = text.value.parse().ok()?;
            let length: SignedDuration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
            Duration::try_from(length).ok().filter(|length| !length.is_zero())
        };
        parsed().ok_or_else(|| {
            self.error(Some(text.referenced.line()), format!("{field}: {:?} is no length of time", text.value))
                .advise("Write it as 90s, 30m, 12h or 7d.")
        })
    }
}
