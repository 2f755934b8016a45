//! Small objects of their own: a magic number, then a sealed JSON text.

use bytes::Bytes;
use remora_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::keys::Key;
use crate::seal::{Kind, NotAuthentic, Place, open_object, seal_object};

/// What such objects are.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// They begin with it.
    pub(crate) magic: &'static [u8; 8],
    pub(crate) kind: Kind,
    /// What one is, for people.
    pub(crate) what: &'static str,
}

/// Why an object cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it is no {0}")]
    Foreign(&'static str),
    #[error(transparent)]
    NotAuthentic(#[from] NotAuthentic),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl Form {
    /// The object that holds `value`.
    pub(crate) fn seal(self, key: &Key, place: &Place, value: &impl Serialize) -> Result<Bytes> {
        let text = serde_json::to_vec(value)
            .map_err(|e| Error::new(ErrorKind::Failed, format!("writing the {}", self.what)).because(e))?;
        Ok([self.magic.as_slice(), &seal_object(key, self.kind, place, text)].concat().into())
    }

    /// What an object holds.
    pub(crate) fn open<T: DeserializeOwned>(self, key: &Key, place: &Place, object: &[u8]) -> Result<T, Unreadable> {
        let sealed = object.strip_prefix(self.magic).ok_or(Unreadable::Foreign(self.what))?;
        Ok(serde_json::from_slice(&open_object(key, self.kind, place, sealed)?)?)
    }
}
