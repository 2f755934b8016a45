//! The one error that crosses ports: a small matchable kind, what failed on what, what to do, and the cause.

use std::borrow::Cow;
use std::fmt;

/// The result of every port.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse enough to choose an exit code, an errno or a condition from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller's input makes no sense: a bad name, a bad range, a bad option.
    Invalid,
    /// The VM, disk, point, path or repository does not exist.
    NotFound,
    /// The target exists already and was not to be replaced.
    Exists,
    /// The passphrase opens no key slot.
    WrongKey,
    /// Written by a newer remora, or needs something that this host does not have.
    Unsupported,
    /// Stored bytes are missing, truncated or not what was written.
    Damaged,
    /// Somebody else holds what is needed (another backup job, a mount in use).
    Busy,
    /// libvirt, QEMU, the guest agent or the store cannot be reached or broke off.
    Unavailable,
    /// A target, scratch or store is full.
    NoSpace,
    /// A condition that the caller demanded cannot be met, such as a required quiesce.
    Refused,
    /// It was done but for what is damaged, as the caller allowed.
    Incomplete,
    /// The caller cancelled, or a deadline passed.
    Cancelled,
    /// Anything else: an unexpected I/O error, a broken promise of ours.
    Failed,
}

/// An error with what a person needs to act: what failed on what, why (the source), and what to do (the advice).
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    name: Option<Cow<'static, str>>,
    what: String,
    advice: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `what` says what failed on what, without the cause.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, name: None, what: what.into(), advice: None, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Gives it a name of its own, in `CamelCase`, where its kind says too little for whoever has to tell it from others.
    #[must_use]
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds what the person should do, as a whole sentence.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Adds what the person should do, unless that is said already.
    #[must_use]
    pub fn advise_if_none(self, advice: impl Into<String>) -> Self {
        if self.advice.is_some() { self } else { self.advise(advice) }
    }

    /// Puts what was being done in front of what failed: `context: what`.
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.what = format!("{context}: {}", self.what);
        self
    }

    /// An I/O error while doing `what`; a full disk, a missing or an existing file keep their kind.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, what).because(source)
    }

    /// The kind to match on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The name of its own, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What the person should do, if it is known.
    pub fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    /// The message with all its causes, joined by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_every_cause_once() {
        let inner = std::io::Error::other("disk on fire");
        let error = Error::io("reading vda", inner).within("backing up vm1");
        assert_eq!(error.chain(), "backing up vm1: reading vda: disk on fire");
        assert_eq!(error.to_string(), "backing up vm1: reading vda");
    }

    #[test]
    fn a_full_disk_keeps_its_kind() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Error::io("writing", full).kind(), ErrorKind::NoSpace);
    }
}
