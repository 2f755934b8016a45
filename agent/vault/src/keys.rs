//! The key hierarchy: a repository key, one data key a tenant, and subkeys that are each used for one thing.
//!
//! Subkeys are `BLAKE3.derive_key(context, parent)`; the contexts below are part of the format.

use std::fmt;

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 256 bits of key. Prints nothing of itself, and is wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn random() -> Self {
        Self(random())
    }

    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The subkey for one use.
    pub(crate) fn derive(&self, context: &str) -> Self {
        Self(blake3::derive_key(context, &self.0))
    }

    /// The key of one sealed object: this subkey and the object's own random salt.
    pub(crate) fn for_object(&self, salt: &[u8; 32]) -> LessSafeKey {
        let mut bytes = *blake3::keyed_hash(&self.0, salt).as_bytes();
        let key = UnboundKey::new(&AES_256_GCM, &bytes).expect("AES-256 takes 32 bytes");
        bytes.zeroize();
        LessSafeKey::new(key)
    }

    /// A keyed 128-bit digest.
    pub(crate) fn digest(&self, data: &[u8]) -> Digest {
        let hash = blake3::keyed_hash(&self.0, data);
        Digest(hash.as_bytes()[..16].try_into().expect("16 of 32 bytes"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A keyed 128-bit digest of a block's plaintext, or of a chunk's digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest(pub(crate) [u8; 16]);

/// The subkeys of the repository key.
#[derive(Clone, Debug)]
pub(crate) struct RepositoryKeys {
    /// Seals the tenants' data keys.
    pub(crate) tenants: Key,
    /// Names the tenants' folders.
    pub(crate) names: Key,
    /// Seals what is set for the repository.
    pub(crate) settings: Key,
}

impl RepositoryKeys {
    pub(crate) fn new(repository_key: &Key) -> Self {
        Self {
            tenants: repository_key.derive("remora vault v1 tenant keys"),
            names: repository_key.derive("remora vault v1 tenant names"),
            settings: repository_key.derive("remora vault v1 settings"),
        }
    }
}

/// The subkeys of a tenant's data key.
#[derive(Clone, Debug)]
pub(crate) struct TenantKeys {
    /// Chunks' ids.
    pub(crate) ids: Key,
    /// Blocks' digests.
    pub(crate) digests: Key,
    /// Seals chunks.
    pub(crate) chunks: Key,
    /// Seals map nodes.
    pub(crate) nodes: Key,
    /// Seals segments' footers.
    pub(crate) footers: Key,
    /// Seals manifests.
    pub(crate) manifests: Key,
    /// Names the VMs' folders.
    pub(crate) names: Key,
}

impl TenantKeys {
    pub(crate) fn new(data_key: &Key) -> Self {
        Self {
            ids: data_key.derive("remora vault v1 chunk ids"),
            digests: data_key.derive("remora vault v1 block digests"),
            chunks: data_key.derive("remora vault v1 chunks"),
            nodes: data_key.derive("remora vault v1 map nodes"),
            footers: data_key.derive("remora vault v1 segment footers"),
            manifests: data_key.derive("remora vault v1 manifests"),
            names: data_key.derive("remora vault v1 vm names"),
        }
    }
}

/// Random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    #[cfg(test)]
    if let Some(bytes) = crate::simulation::random() {
        return bytes;
    }
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random numbers never fail on a booted Linux");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let key = Key::from_bytes([7; 32]);
        let text = format!("{key:?} {:?} {:?}", RepositoryKeys::new(&key), TenantKeys::new(&key));
        assert!(!text.contains('7'), "{text}");
    }
}
