//! The objects' names in the store.
//!
//! ```text
//! remora.json                            the descriptor
//! keys/<slot>.json                       a key slot
//! t/<tenant>/key                         a tenant's data key, sealed
//! t/<tenant>/<vm>/m/<sequence>           a manifest: a point, or another entry of the VM's sequence
//! t/<tenant>/<vm>/s/<segment>            a segment
//! ```
//! `<tenant>` and `<vm>` are keyed digests, so that the store's owner learns no names.

use object_store::path::Path;

use crate::keys::Key;

/// The plaintext descriptor.
pub(crate) const DESCRIPTOR: &str = "remora.json";

/// The folder of key slots.
pub(crate) const SLOTS: &str = "keys";

/// The folder of tenants.
pub(crate) const TENANTS: &str = "t";

/// A tenant's or VM's folder name: 64 bits of a keyed digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Folder(pub(crate) [u8; 8]);

impl Folder {
    pub(crate) fn of(key: &Key, name: &str) -> Self {
        Self(key.digest(name.as_bytes()).0[..8].try_into().expect("8 of 16 bytes"))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        (hex::encode(bytes) == text).then_some(Self(bytes))
    }

    pub(crate) fn hex(self) -> String {
        hex::encode(self.0)
    }

    /// As the object of a [`crate::seal::Place`].
    pub(crate) fn as_object(self) -> [u8; 16] {
        let mut object = [0; 16];
        object[..8].copy_from_slice(&self.0);
        object
    }
}

/// A segment's random id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SegmentId(pub(crate) [u8; 16]);

impl std::fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

pub(crate) fn tenant_key(tenant: Folder) -> Path {
    Path::from(format!("{TENANTS}/{}/key", tenant.hex()))
}

pub(crate) fn tenant(tenant: Folder) -> Path {
    Path::from(format!("{TENANTS}/{}", tenant.hex()))
}

pub(crate) fn manifests(tenant: Folder, vm: Folder) -> Path {
    Path::from(format!("{TENANTS}/{}/{}/m", tenant.hex(), vm.hex()))
}

pub(crate) fn manifest(tenant: Folder, vm: Folder, sequence: u64) -> Path {
    Path::from(format!("{TENANTS}/{}/{}/m/{sequence:012}", tenant.hex(), vm.hex()))
}

pub(crate) fn segment(tenant: Folder, vm: Folder, id: SegmentId) -> Path {
    Path::from(format!("{TENANTS}/{}/{}/s/{}", tenant.hex(), vm.hex(), hex::encode(id.0)))
}

/// The sequence number in a manifest's file name.
pub(crate) fn sequence(file_name: &str) -> Option<u64> {
    let sequence = file_name.parse().ok()?;
    (format!("{sequence:012}") == file_name).then_some(sequence)
}
