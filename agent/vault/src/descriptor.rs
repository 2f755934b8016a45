//! The descriptor: the only plaintext object, which says that this is a repository and of which format.

use bytes::Bytes;
use jiff::Timestamp;
use object_store::path::Path;
use remora_core::{Error, ErrorKind, RepositoryId, Result};
use serde::{Deserialize, Serialize};

use crate::names::DESCRIPTOR;
use crate::store::{Created, Store};

/// The version of the format that this crate writes, and the highest that it reads.
pub(crate) const FORMAT: u32 = 1;

const KIND: &str = "remora vault";
const LIMIT: u64 = 64 * 1024;

/// What every version of the descriptor has.
#[derive(Deserialize)]
struct AnyVersion {
    kind: String,
    format: u32,
}

/// The descriptor of format 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Descriptor {
    kind: String,
    format: u32,
    /// The repository's id.
    pub(crate) id: RepositoryId,
    /// When it was made.
    pub(crate) created: Timestamp,
    /// The hexadecimal BLAKE3 of `kind`, `format`, `id` and `created`, a newline after each: tells damage from a typo.
    checksum: String,
}

impl Descriptor {
    pub(crate) fn new(id: RepositoryId, created: Timestamp) -> Self {
        let mut new = Self { kind: KIND.into(), format: FORMAT, id, created, checksum: String::new() };
        new.checksum = new.sum();
        new
    }

    fn sum(&self) -> String {
        let text = format!("{}\n{}\n{}\n{}\n", self.kind, self.format, self.id, self.created);
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a descriptor is plain data");
        text.push(b'\n');
        text
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let any: AnyVersion = serde_json::from_slice(bytes).map_err(Unreadable::Json)?;
        if any.kind != KIND {
            return Err(Unreadable::OtherKind(any.kind));
        }
        if any.format > FORMAT {
            return Err(Unreadable::Newer(any.format));
        }
        let descriptor: Self = serde_json::from_slice(bytes).map_err(Unreadable::Json)?;
        if descriptor.sum() == descriptor.checksum && descriptor.format == FORMAT {
            Ok(descriptor)
        } else {
            Err(Unreadable::Checksum)
        }
    }

    /// Writes it, unless the place holds a repository already.
    pub(crate) async fn create(&self, store: &Store) -> Result<Created> {
        store.create(&Path::from(DESCRIPTOR), Bytes::from(self.encode()).into()).await
    }

    /// Reads the descriptor of the repository at `store`.
    pub(crate) async fn read(store: &Store) -> Result<Self> {
        let place = store.place();
        let name = Path::from(DESCRIPTOR);
        let Some(bytes) = store.get(&name, LIMIT).await? else {
            return Err(Error::new(ErrorKind::NotFound, format!("{place} is no repository: it has no {DESCRIPTOR}"))
                .advise("Check the path, or make a repository there with `remora repo init`."));
        };
        Self::decode(&bytes).map_err(|why| match why {
            Unreadable::Newer(_) => Error::new(ErrorKind::Unsupported, format!("repository {place}"))
                .because(why)
                .advise("Use the version of remora that made it, or a later one."),
            Unreadable::OtherKind(_) => {
                Error::new(ErrorKind::NotFound, format!("{place} is no repository")).because(why)
            }
            Unreadable::Json(_) | Unreadable::Checksum => store
                .damaged(&name, why)
                .advise("Copy the object back from another copy of the repository; it never changes after init."),
        })
    }
}

pub(crate) fn exists(store: &Store) -> Error {
    Error::new(ErrorKind::Exists, format!("{} holds a repository already", store.place()))
        .advise("Use it as it is, or choose another place.")
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("its {DESCRIPTOR} is not readable")]
    Json(#[source] serde_json::Error),
    #[error("its {DESCRIPTOR} describes a {0:?}")]
    OtherKind(String),
    #[error("its {DESCRIPTOR} has format {0}, this remora reads up to {FORMAT}")]
    Newer(u32),
    #[error("its checksum is wrong")]
    Checksum,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_descriptor_is_noticed_and_a_newer_one_named() {
        let descriptor = Descriptor::new(RepositoryId::random(), Timestamp::UNIX_EPOCH);
        let text = String::from_utf8(descriptor.encode()).unwrap();
        assert_eq!(Descriptor::decode(text.as_bytes()).unwrap(), descriptor);
        let newer = text.replace("\"format\": 1", "\"format\": 2");
        assert!(matches!(Descriptor::decode(newer.as_bytes()), Err(Unreadable::Newer(2))));
        let id = descriptor.id.to_string();
        let other = text.replace(&id, &RepositoryId::from_bytes([0; 16]).to_string());
        assert!(matches!(Descriptor::decode(other.as_bytes()), Err(Unreadable::Checksum)));
        assert!(matches!(Descriptor::decode(b"{}"), Err(Unreadable::Json(_))));
    }
}
