//! What a failed call means, in words of ours.

use std::io;
use std::time::Duration;

use remora_core::{Error, ErrorKind};

use super::conversation::Failed;
use super::words::{Class, MoverError};

/// Whether it may go well the next time, and when that is.
pub(super) fn again_after(failed: &Failed) -> Option<Duration> {
    match failed {
        Failed::Fault(_) | Failed::Lost(_) => Some(Duration::ZERO),
        Failed::Refused(_) => None,
        Failed::Error(error) => match error.class {
            Class::Retryable | Class::Throttled => {
                Some(Duration::from_millis(error.retry_after_ms.unwrap_or_default()))
            }
            _ => None,
        },
    }
}

/// Whether there was no connection to the store, or it broke.
pub(super) fn is_away(failed: &Failed) -> bool {
    let codes = ["broker-connect", "broker-broken"];
    matches!(failed, Failed::Error(error) if error.class == Class::Retryable && codes.contains(&error.code.as_str()))
}

/// Whether the store has answered, though with an error.
pub(super) fn is_an_answer(failed: &Failed) -> bool {
    matches!(failed, Failed::Error(MoverError { class: Class::NotFound, .. }))
}

/// Of a store that was away for so long, and was waited for.
pub(super) fn after_waiting(failed: Failed, waited: Duration) -> Failed {
    match failed {
        Failed::Error(mut error) => {
            let seconds = waited.as_secs();
            error.message = format!("{}; the store was waited for in vain for {seconds} s", error.message);
            Failed::Error(error)
        }
        other => other,
    }
}

/// There is an object of that key.
pub(super) fn exists(key: &str) -> object_store::Error {
    let why = io::Error::from(io::ErrorKind::AlreadyExists);
    object_store::Error::AlreadyExists { path: key.into(), source: why.into() }
}

/// Of a call about an object.
pub(super) fn of(mover: &str, doing: &str, key: &str, failed: Failed) -> object_store::Error {
    if let Failed::Error(MoverError { class: Class::NotFound, message, .. }) = &failed {
        return object_store::Error::NotFound { path: key.into(), source: message.clone().into() };
    }
    object_store::Error::Generic { store: "mover", source: Box::new(plain(mover, &format!("{doing} {key}"), failed)) }
}

/// Of any call.
pub(super) fn plain(mover: &str, doing: &str, failed: Failed) -> Error {
    let what = format!("mover {mover}: {doing}");
    match failed {
        Failed::Refused(error) => error.within(format!("mover {mover}")),
        Failed::Fault(why) | Failed::Lost(why) => Error::new(ErrorKind::Unavailable, what)
            .because(why)
            .advise("Run this again; if it stays so, ask who made the mover. What was committed is safe."),
        Failed::Error(error) => {
            let (kind, advice) = meaning(&error);
            let why = if error.code.is_empty() { error.message } else { format!("{} ({})", error.message, error.code) };
            Error::new(kind, what).because(why).advise(advice)
        }
    }
}

fn meaning(error: &MoverError) -> (ErrorKind, &'static str) {
    if error.class == Class::Permission && error.code.starts_with("broker-") {
        let advice = "Let the mover reach it in its document (network), if it is to; docs/plugins.md tells how.";
        return (ErrorKind::Refused, advice);
    }
    if error.code == "broker-certificate" {
        let advice = "Name the certificate of its authority in the mover's document (network.caFile), if it is the right server.";
        return (ErrorKind::Unavailable, advice);
    }
    match error.class {
        Class::Retryable | Class::Cancelled => (
            ErrorKind::Unavailable,
            "Check the store and the network between; then run this again: what was committed is safe.",
        ),
        Class::Throttled => (
            ErrorKind::Unavailable,
            "The store asks for fewer requests: use --limit-requests, or run fewer backups at once.",
        ),
        Class::Auth => (
            ErrorKind::Unavailable,
            "The store does not accept the credentials: check the secrets in the mover's document, and whether they expired.",
        ),
        Class::Permission => {
            (ErrorKind::Unavailable, "Let the credentials' user list, get, put and delete objects below the prefix.")
        }
        Class::NotFound => {
            (ErrorKind::NotFound, "Check the settings in the mover's document: a bucket or folder is missing.")
        }
        Class::Conflict => (ErrorKind::Busy, "Run this again."),
        Class::Quota => (ErrorKind::NoSpace, "Free space in the repository's store; what was committed is safe."),
        Class::Invalid => (ErrorKind::Invalid, "Check the settings in the mover's document."),
        Class::Corrupt => (ErrorKind::Damaged, "Run `remora verify` to learn what else is affected."),
        Class::Permanent => {
            (ErrorKind::Failed, "Check the settings in the mover's document, or ask who made the mover.")
        }
    }
}
