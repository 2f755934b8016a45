//! Key slots: the repository key, wrapped under a passphrase by Argon2id.

use argon2::{Algorithm, Argon2, Params, Version};
use bytes::Bytes;
use object_store::path::Path;
use remora_core::{Error, ErrorKind, RepositoryId, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::keys::{Key, Passphrase, random};
use crate::names::SLOTS;
use crate::seal::{Kind, Place, open_object, seal_object};
use crate::store::{Created, Store};

/// What a new slot costs: 64 MiB and three passes, about a fifth of a second on a core of 2021. The first
/// recommendation for memory-constrained use in RFC 9106 §4.
const COST: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

/// The most that a slot may ask of a reader: a hostile store must not be able to exhaust it.
const CAP: Cost = Cost { memory_kib: 1024 * 1024, passes: 16, lanes: 16 };

const LIMIT: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// A slot as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    /// `argon2id-passphrase`.
    kind: String,
    cost: Cost,
    #[serde(with = "hex::serde")]
    salt: [u8; 16],
    /// The sealed repository key: salt, ciphertext and tag.
    #[serde(with = "hex::serde")]
    wrapped: Vec<u8>,
    /// The hexadecimal BLAKE3 of `wrapped`: tells damage from a wrong passphrase.
    checksum: String,
}

const KIND: &str = "argon2id-passphrase";

fn place(repository: RepositoryId) -> Place {
    Place { repository: *repository.as_bytes(), tenant: [0; 8], object: [0; 16], number: 0 }
}

impl Slot {
    fn wrap(key: &Key, passphrase: &Passphrase, repository: RepositoryId, cost: Cost) -> Result<Self> {
        let salt = random();
        let wrapping = stretch(passphrase, &salt, cost)?;
        let wrapped = seal_object(&wrapping, Kind::Slot, &place(repository), key.as_bytes().to_vec());
        let checksum = blake3::hash(&wrapped).to_hex().to_string();
        Ok(Self { kind: KIND.into(), cost, salt, wrapped, checksum })
    }

    /// The repository key, or none if the passphrase is another's.
    fn unwrap(&self, passphrase: &Passphrase, repository: RepositoryId) -> Result<Option<Key>> {
        let wrapping = stretch(passphrase, &self.salt, self.cost)?;
        let Ok(mut bytes) = open_object(&wrapping, Kind::Slot, &place(repository), &self.wrapped) else {
            return Ok(None);
        };
        let key = <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Key::from_bytes);
        bytes.zeroize();
        Ok(key)
    }

    /// Refuses what is damaged, and what would cost a reader too much.
    fn check(&self) -> Result<(), &'static str> {
        if self.kind != KIND {
            return Err("it is a slot of an unknown kind");
        }
        if blake3::hash(&self.wrapped).to_hex().to_string() != self.checksum {
            return Err("its checksum is wrong");
        }
        let Cost { memory_kib, passes, lanes } = self.cost;
        if memory_kib > CAP.memory_kib || passes > CAP.passes || lanes > CAP.lanes {
            return Err("its Argon2 parameters ask for more than 1 GiB, 16 passes or 16 lanes");
        }
        Ok(())
    }
}

fn stretch(passphrase: &Passphrase, salt: &[u8; 16], cost: Cost) -> Result<Key> {
    let failed = |e: argon2::Error| Error::new(ErrorKind::Failed, format!("deriving a key by Argon2id: {e}"));
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(failed)?;
    let mut bytes = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut bytes)
        .map_err(failed)?;
    let key = Key::from_bytes(bytes);
    bytes.zeroize();
    Ok(key)
}

/// Adds a slot for `passphrase`.
pub(crate) async fn create(store: &Store, key: &Key, passphrase: &Passphrase, repository: RepositoryId) -> Result<()> {
    let slot = Slot::wrap(key, passphrase, repository, COST)?;
    let name = Path::from(format!("{SLOTS}/{}.json", hex::encode(random::<8>())));
    let text = serde_json::to_vec_pretty(&slot).expect("a slot is plain data");
    match store.create(&name, Bytes::from(text).into()).await? {
        Created::Yes => Ok(()),
        Created::NameTaken => Err(Error::new(ErrorKind::Exists, format!("key slot {name} exists already"))),
    }
}

/// How many slots there are.
pub(crate) async fn count(store: &Store) -> Result<usize> {
    Ok(store.children(&Path::from(SLOTS)).await?.len())
}

/// Opens the repository key with whichever slot the passphrase fits.
pub(crate) async fn open(store: &Store, passphrase: &Passphrase, repository: RepositoryId) -> Result<Key> {
    let mut unusable = None;
    let mut tried = 0;
    for name in store.children(&Path::from(SLOTS)).await? {
        let path = Path::from(format!("{SLOTS}/{name}"));
        match read(store, &path).await {
            Ok(slot) => {
                tried += 1;
                if let Some(key) = slot.unwrap(passphrase, repository)? {
                    return Ok(key);
                }
            }
            Err(error) => unusable = Some(error),
        }
    }
    match unusable {
        Some(error) => Err(error),
        None if tried == 0 => {
            Err(Error::new(ErrorKind::Damaged, format!("repository {} has no key slot", store.place()))
                .advise("Copy the folder `keys` back from another copy of the repository."))
        }
        None => Err(Error::new(
            ErrorKind::WrongKey,
            format!("repository {}: the passphrase opens none of its {tried} key slots", store.place()),
        )
        .advise("Check REMORA_PASSPHRASE, the passphrase file (one trailing newline is ignored), or what you typed.")),
    }
}

async fn read(store: &Store, name: &Path) -> Result<Slot> {
    let bytes = store.get(name, LIMIT).await?.ok_or_else(|| store.damaged(name, "it is missing"))?;
    let slot: Slot = serde_json::from_slice(&bytes).map_err(|e| store.damaged(name, e))?;
    slot.check().map_err(|why| store.damaged(name, why))?;
    Ok(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };

    #[test]
    fn a_slot_opens_for_its_passphrase_and_repository_only() {
        let (key, repository) = (Key::random(), RepositoryId::random());
        let slot = Slot::wrap(&key, &Passphrase::new(*b"right"), repository, CHEAP).unwrap();
        let opened = slot.unwrap(&Passphrase::new(*b"right"), repository).unwrap();
        assert_eq!(opened.unwrap().as_bytes(), key.as_bytes());
        assert!(slot.unwrap(&Passphrase::new(*b"wrong"), repository).unwrap().is_none());
        assert!(slot.unwrap(&Passphrase::new(*b"right"), RepositoryId::random()).unwrap().is_none());
    }

    #[test]
    fn a_hostile_or_damaged_slot_is_refused_before_it_costs_anything() {
        let slot = Slot::wrap(&Key::random(), &Passphrase::new(*b"p"), RepositoryId::random(), CHEAP).unwrap();
        slot.check().unwrap();
        for cost in
            [Cost { memory_kib: u32::MAX, ..CHEAP }, Cost { passes: u32::MAX, ..CHEAP }, Cost { lanes: 1000, ..CHEAP }]
        {
            assert!(Slot { cost, ..slot.clone() }.check().is_err(), "{cost:?}");
        }
        let mut damaged = slot;
        damaged.wrapped[40] ^= 1;
        assert!(damaged.check().is_err());
    }
}
