//! A key slot: the repository key, wrapped for one passphrase or one key file.

use jiff::Timestamp;
use remora_core::{RepositoryId, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::keys::{Key, random};
use crate::seal::{Kind, Place, open_object, seal_object};
use crate::secret::Secret;
use crate::store::Reach;
use crate::stretch::Cost;

/// A slot as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slot {
    pub(crate) created: Timestamp,
    pub(crate) opens_by: OpensBy,
    /// The sealed repository key: salt, ciphertext and tag.
    #[serde(with = "hex::serde")]
    wrapped: Vec<u8>,
    /// The hexadecimal BLAKE3 of all the rest: tells damage from a wrong passphrase.
    checksum: String,
}

/// What opens a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OpensBy {
    Passphrase(Argon2id),
    KeyFile,
}

/// How a passphrase becomes a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Argon2id {
    cost: Cost,
    #[serde(with = "hex::serde")]
    salt: [u8; 16],
}

/// Why a slot cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it is no key slot of this version")]
    Json(#[from] serde_json::Error),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("{0}")]
    Cost(&'static str),
}

/// What is done to the secret of a new slot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effort {
    /// A passphrase is stretched for about a second.
    Measured,
    /// It is stretched for an instant.
    #[cfg(test)]
    Least,
}

impl Effort {
    fn cost(self) -> Result<Cost> {
        match self {
            Self::Measured => Cost::measured(),
            #[cfg(test)]
            Self::Least => Ok(Cost { memory_kib: 64, passes: 1, lanes: 1 }),
        }
    }
}

fn place(repository: RepositoryId) -> Place {
    Place { repository: *repository.as_bytes(), tenant: [0; 8], object: [0; 16], number: 0 }
}

impl Slot {
    /// Wraps the repository key. Blocks, for a passphrase for a second or two.
    pub(crate) fn wrap(key: &Key, secret: &Secret, repository: RepositoryId, effort: Effort) -> Result<Self> {
        let opens_by = match secret {
            Secret::Passphrase(_) => OpensBy::Passphrase(Argon2id { cost: effort.cost()?, salt: random() }),
            Secret::KeyFile(_) => OpensBy::KeyFile,
        };
        let mut slot = Self { created: Timestamp::now(), opens_by, wrapped: Vec::new(), checksum: String::new() };
        if let Some(wrapping) = slot.wrapping(secret)? {
            slot.wrapped = seal_object(&wrapping, Kind::Slot, &place(repository), key.as_bytes().to_vec());
        }
        slot.checksum = slot.sum();
        Ok(slot)
    }

    /// The repository key, or none if the secret is another's. Blocks as long as the slot's cost says.
    pub(crate) fn unwrap(&self, secret: &Secret, repository: RepositoryId) -> Result<Option<Key>> {
        let Some(wrapping) = self.wrapping(secret)? else { return Ok(None) };
        let Ok(mut bytes) = open_object(&wrapping, Kind::Slot, &place(repository), &self.wrapped) else {
            return Ok(None);
        };
        let key = <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Key::from_bytes);
        bytes.zeroize();
        Ok(key)
    }

    /// Whether a secret of this kind could open it.
    pub(crate) const fn could_open(&self, secret: &Secret) -> bool {
        matches!(
            (&self.opens_by, secret),
            (OpensBy::Passphrase(_), Secret::Passphrase(_)) | (OpensBy::KeyFile, Secret::KeyFile(_))
        )
    }

    /// Refuses what costs more than is paid for a store that is reached so.
    pub(crate) fn check_cost(&self, reach: Reach) -> Result<(), &'static str> {
        match (&self.opens_by, reach) {
            (OpensBy::Passphrase(Argon2id { cost, .. }), Reach::Internet) => cost.check_of_stranger(),
            _ => Ok(()),
        }
    }

    /// The key under which the repository key is sealed; none if the secret is of another kind than the slot.
    fn wrapping(&self, secret: &Secret) -> Result<Option<Key>> {
        match (&self.opens_by, secret) {
            (OpensBy::Passphrase(Argon2id { cost, salt }), Secret::Passphrase(passphrase)) => {
                cost.stretch(passphrase, salt).map(Some)
            }
            (OpensBy::KeyFile, Secret::KeyFile(file)) => Ok(Some(file.wrapping())),
            _ => Ok(None),
        }
    }

    fn sum(&self) -> String {
        let opens_by = match &self.opens_by {
            OpensBy::Passphrase(Argon2id { cost: Cost { memory_kib, passes, lanes }, salt }) => {
                format!("passphrase {memory_kib} {passes} {lanes} {}", hex::encode(salt))
            }
            OpensBy::KeyFile => "key-file".into(),
        };
        let text = format!("{}\n{opens_by}\n{}\n", self.created, hex::encode(&self.wrapped));
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a slot is plain data");
        text.push(b'\n');
        text
    }

    /// What a hostile writer makes of a slot's text: its checksum is right.
    pub(crate) fn forged(bytes: &[u8]) -> Option<Self> {
        let mut slot: Self = serde_json::from_slice(bytes).ok()?;
        slot.checksum = slot.sum();
        Self::decode(&slot.encode()).ok()
    }

    /// Refuses what is damaged, and what would cost a reader too much.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unusable> {
        let slot: Self = serde_json::from_slice(bytes)?;
        if slot.sum() != slot.checksum {
            return Err(Unusable::Checksum);
        }
        if let OpensBy::Passphrase(Argon2id { cost, .. }) = &slot.opens_by {
            cost.check().map_err(Unusable::Cost)?;
        }
        Ok(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{KeyFile, Passphrase};

    fn passphrase(text: &str) -> Secret {
        Secret::Passphrase(Passphrase::new(text))
    }

    fn slot(secret: &Secret) -> (Slot, Key, RepositoryId) {
        let (key, repository) = (Key::random(), RepositoryId::random());
        (Slot::wrap(&key, secret, repository, Effort::Least).unwrap(), key, repository)
    }

    #[test]
    fn a_slot_opens_for_its_secret_and_repository_only() {
        for secret in [passphrase("right"), Secret::KeyFile(KeyFile::random())] {
            let (slot, key, repository) = slot(&secret);
            let slot = Slot::decode(&slot.encode()).unwrap();
            assert_eq!(slot.unwrap(&secret, repository).unwrap().unwrap().as_bytes(), key.as_bytes());
            for other in [passphrase("wrong"), Secret::KeyFile(KeyFile::random())] {
                assert!(slot.unwrap(&other, repository).unwrap().is_none(), "{other:?}");
            }
            assert!(slot.unwrap(&secret, RepositoryId::random()).unwrap().is_none());
        }
    }

    /// Whatever a flipped byte changes is damage, never a wrong passphrase.
    #[test]
    fn damage_anywhere_is_told_from_a_wrong_passphrase() {
        for secret in [passphrase("p"), Secret::KeyFile(KeyFile::random())] {
            let (slot, key, repository) = slot(&secret);
            let text = slot.encode();
            for at in 0..text.len() {
                for bit in 0..8 {
                    let mut bad = text.clone();
                    bad[at] ^= 1 << bit;
                    // A digit that became a capital, a blank that became a tab: the same slot.
                    if let Ok(same) = Slot::decode(&bad) {
                        assert_eq!(same, slot, "byte {at}, bit {bit}");
                        assert_eq!(same.unwrap(&secret, repository).unwrap().unwrap().as_bytes(), key.as_bytes());
                    }
                }
                assert!(Slot::decode(&text[..at]).is_err() || at + 1 == text.len(), "cut at {at}");
            }
        }
    }

    #[test]
    fn a_hostile_cost_is_refused_though_its_checksum_is_right() {
        let (mut slot, ..) = slot(&passphrase("p"));
        if let OpensBy::Passphrase(argon2id) = &mut slot.opens_by {
            argon2id.cost.memory_kib = u32::MAX;
        }
        slot.checksum = slot.sum();
        assert!(matches!(Slot::decode(&slot.encode()), Err(Unusable::Cost(_))));
    }
}
