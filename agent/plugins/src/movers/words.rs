//! The words of `wit/mover` that host and child exchange; each stands there with its meaning.

use serde::{Deserialize, Serialize};

/// What an error means for the one who tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Class {
    Retryable,
    Throttled,
    Auth,
    Permission,
    NotFound,
    Conflict,
    Quota,
    Invalid,
    Corrupt,
    Permanent,
    Cancelled,
}

/// What went wrong, as a mover tells it, or as it is told to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MoverError {
    pub(crate) class: Class,
    pub(crate) code: String,
    pub(crate) retry_after_ms: Option<u64>,
    pub(crate) message: String,
    pub(crate) details: Vec<(String, String)>,
}

impl MoverError {
    pub(crate) fn new(class: Class, code: &str, message: impl Into<String>) -> Self {
        Self { class, code: code.into(), retry_after_ms: None, message: message.into(), details: Vec::new() }
    }
}

/// A setting that the mover does not take: a JSON Pointer, and what is wrong.
pub(crate) type WrongField = (String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Capabilities {
    pub(crate) max_put: u64,
    pub(crate) multipart: bool,
    pub(crate) min_part: u64,
    pub(crate) max_parts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) modified: i64,
    pub(crate) etag: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stored {
    Created,
    Exists,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Object>,
    pub(crate) next: Option<String>,
}

/// The value of a header; a secret is named by its handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HeaderValue {
    Text(String),
    /// After some text.
    Secret(String, u32),
    /// The Base64 of a user, a colon and the secret.
    Basic(String, u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Body {
    None,
    Inline(Vec<u8>),
    /// A part of the call's buffer.
    Buffer {
        offset: u64,
        len: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Receive {
    Discard,
    Inline(u32),
    /// Into the call's sink.
    Sink,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, HeaderValue)>,
    pub(crate) body: Body,
    pub(crate) receive: Receive,
    pub(crate) timeout_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}
