//! Sealing: AES-256-GCM with what the bytes are and where they belong as associated data.

use ring::aead::{Aad, LessSafeKey, Nonce};

use crate::keys::{Key, random};

/// AES-GCM's tag.
pub(crate) const TAG_LEN: usize = 16;

/// The salt from which an object's key is derived.
pub(crate) const SALT_LEN: usize = 32;

/// Authentication failed: the bytes are not what was written, or not what was written here.
#[derive(Debug, thiserror::Error)]
#[error("it does not authenticate: the stored bytes are not what was written")]
pub(crate) struct NotAuthentic;

/// What sealed bytes are. Part of the associated data, so that one can never be taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chunk = 1,
    Node = 2,
    FooterIndex = 3,
    FooterDetails = 4,
    Manifest = 5,
    TenantKey = 6,
    Slot = 7,
    Session = 8,
    Settings = 9,
    Kept = 10,
    PartOfChunk = 11,
}

/// Where sealed bytes belong: `remora v1`, kind, repository, tenant, object and number, each of fixed width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The repository's id.
    pub(crate) repository: [u8; 16],
    /// The tenant's folder name as 8 bytes; zeros above the tenants.
    pub(crate) tenant: [u8; 8],
    /// The object: a segment's id, or the VM's folder name as 8 bytes and eight zeros.
    pub(crate) object: [u8; 16],
    /// The record in the object: a chunk's number, a manifest's sequence.
    pub(crate) number: u64,
}

impl Place {
    fn aad(&self, kind: Kind) -> [u8; 58] {
        let mut aad = [0; 58];
        aad[..9].copy_from_slice(b"remora v1");
        aad[9] = kind as u8;
        aad[10..26].copy_from_slice(&self.repository);
        aad[26..34].copy_from_slice(&self.tenant);
        aad[34..50].copy_from_slice(&self.object);
        aad[50..].copy_from_slice(&self.number.to_be_bytes());
        aad
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals `bytes` in place and appends the tag. Under one key each `place.number` may be used once.
pub(crate) fn seal(key: &LessSafeKey, kind: Kind, place: &Place, bytes: &mut Vec<u8>) {
    key.seal_in_place_append_tag(nonce(place.number), Aad::from(place.aad(kind)), bytes)
        .expect("AES-GCM seals anything below 64 GiB");
}

/// Opens `bytes` in place and returns the plaintext.
pub(crate) fn open<'a>(
    key: &LessSafeKey,
    kind: Kind,
    place: &Place,
    bytes: &'a mut [u8],
) -> Result<&'a mut [u8], NotAuthentic> {
    key.open_in_place(nonce(place.number), Aad::from(place.aad(kind)), bytes).map_err(|_| NotAuthentic)
}

/// Seals a small object under a fresh salt: `salt ‖ ciphertext ‖ tag`.
pub(crate) fn seal_object(key: &Key, kind: Kind, place: &Place, mut bytes: Vec<u8>) -> Vec<u8> {
    let salt: [u8; SALT_LEN] = random();
    seal(&key.for_object(&salt), kind, place, &mut bytes);
    let mut object = salt.to_vec();
    object.append(&mut bytes);
    object
}

/// Opens what [`seal_object`] made.
pub(crate) fn open_object(key: &Key, kind: Kind, place: &Place, object: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
    let (salt, sealed) = object.split_first_chunk::<SALT_LEN>().ok_or(NotAuthentic)?;
    let mut bytes = sealed.to_vec();
    let len = open(&key.for_object(salt), kind, place, &mut bytes)?.len();
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { repository: [1; 16], tenant: [2; 8], object: [3; 16], number: 4 };

    #[test]
    fn what_is_sealed_opens_only_as_what_and_where_it_was_sealed() {
        let key = Key::random();
        let object = seal_object(&key, Kind::Manifest, &PLACE, b"text".to_vec());
        assert_eq!(open_object(&key, Kind::Manifest, &PLACE, &object).unwrap(), b"text");
        let elsewhere = [
            Place { repository: [9; 16], ..PLACE },
            Place { tenant: [9; 8], ..PLACE },
            Place { object: [9; 16], ..PLACE },
            Place { number: 5, ..PLACE },
        ];
        for place in elsewhere {
            assert!(open_object(&key, Kind::Manifest, &place, &object).is_err(), "{place:?}");
        }
        assert!(open_object(&key, Kind::Slot, &PLACE, &object).is_err());
        assert!(open_object(&Key::random(), Kind::Manifest, &PLACE, &object).is_err());
    }

    #[test]
    fn every_flipped_or_missing_byte_is_noticed() {
        let key = Key::random();
        let object = seal_object(&key, Kind::Manifest, &PLACE, b"text".to_vec());
        for at in 0..object.len() {
            let mut bad = object.clone();
            bad[at] ^= 1;
            assert!(open_object(&key, Kind::Manifest, &PLACE, &bad).is_err(), "byte {at}");
            assert!(open_object(&key, Kind::Manifest, &PLACE, &object[..at]).is_err(), "cut at {at}");
        }
    }
}
