//! The objects' names in the store.
//!
//! ```text
//! remora.json                            the descriptor
//! keys/<slot>.json                       a key slot
//! removals/<number>                      a key slot that goes
//! init/<repository>-<slot>-<tenant>      an init announces what it stores, so that what it leaves is known for that
//! doctor/create-only                     shows that the store honours create-only PUTs; no reader needs it
//! t/<tenant>/key                         a tenant's data key, sealed
//! t/<tenant>/<vm>/m/<sequence>           a manifest: a point, or another entry of the VM's sequence
//! t/<tenant>/<vm>/s/<segment>            a segment
//! t/<tenant>/<vm>/s/<segment>.<n>        the same segment, stored again by a collection or a repair
//! t/<tenant>/<vm>/w/<session>            a writer's session
//! t/<tenant>/<vm>/kept                   until when the store keeps what the VM's points need
//! settings/<repository>/<number>         what is set for the repository
//! clock                                  stored again and again to learn the store's time
//! ```
//! `<tenant>` and `<vm>` are keyed digests, so that the store's owner learns no names.

use object_store::path::Path;
use remora_core::RepositoryId;
use serde::{Deserialize, Serialize};

use crate::keys::Key;

/// The plaintext descriptor.
pub(crate) const DESCRIPTOR: &str = "remora.json";

/// What is stored to learn the store's time.
pub(crate) const CLOCK: &str = "clock";

/// The object that every writer tries to store anew: it must not succeed twice.
pub(crate) const CREATE_ONLY: &str = "doctor/create-only";
pub(crate) const CREATE_ONLY_TEXT: &[u8] = b"This object shows that the store honours create-only PUTs.\n";

/// The folder of what `remora doctor` tries.
pub(crate) const TRIALS: &str = "doctor";

/// The folder in which inits announce themselves.
pub(crate) const INITS: &str = "init";

/// The folder of key slots.
pub(crate) const SLOTS: &str = "keys";

/// The folder of the removals of key slots.
pub(crate) const REMOVALS: &str = "removals";

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
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SegmentId(#[serde(with = "hex::serde")] pub(crate) [u8; 16]);

impl std::fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A session's random id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SessionId(#[serde(with = "hex::serde")] pub(crate) [u8; 16]);

impl SessionId {
    /// Of entries that need no session.
    pub(crate) const NONE: Self = Self([0; 16]);

    pub(crate) fn parse(text: &str) -> Option<Self> {
        parse_id(text).map(Self)
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

fn parse_id(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    (hex::encode(bytes) == text).then_some(bytes)
}

pub(crate) fn settings(repository: RepositoryId) -> Path {
    Path::from(format!("settings/{repository}"))
}

pub(crate) fn setting(repository: RepositoryId, number: u64) -> Path {
    Path::from(format!("settings/{repository}/{number:012}"))
}

pub(crate) fn kept(tenant: Folder, vm: Folder) -> Path {
    Path::from(format!("{TENANTS}/{}/{}/kept", tenant.hex(), vm.hex()))
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

pub(crate) fn segments(tenant: Folder, vm: Folder) -> Path {
    Path::from(format!("{TENANTS}/{}/{}/s", tenant.hex(), vm.hex()))
}

pub(crate) fn segment(tenant: Folder, vm: Folder, id: SegmentId, generation: u32) -> Path {
    let (folder, id) = (segments(tenant, vm), hex::encode(id.0));
    Path::from(if generation == 0 { format!("{folder}/{id}") } else { format!("{folder}/{id}.{generation}") })
}

pub(crate) fn removal(number: u64) -> Path {
    Path::from(format!("{REMOVALS}/{number:012}"))
}

/// The segment that an object of this name is, or was.
pub(crate) fn segment_of(object: &str) -> Option<SegmentId> {
    object.rsplit_once("/s/").and_then(|(_, file_name)| segment_name(file_name)).map(|(id, _)| id)
}

/// The tenant, VM and segment of a segment's object.
pub(crate) fn segment_path(name: &Path) -> Option<(Folder, Folder, SegmentId)> {
    let parts: Vec<_> = name.parts().collect();
    let [_, tenant, vm, folder, segment] = &parts[..] else { return None };
    let (id, _) = segment_name(segment.as_ref()).filter(|_| folder.as_ref() == "s")?;
    Some((Folder::parse(tenant.as_ref())?, Folder::parse(vm.as_ref())?, id))
}

/// The segment and generation in a segment's file name.
pub(crate) fn segment_name(file_name: &str) -> Option<(SegmentId, u32)> {
    let (id, generation) = match file_name.split_once('.') {
        Some((id, text)) => (id, text.parse().ok().filter(|n: &u32| *n > 0 && n.to_string() == text)?),
        None => (file_name, 0),
    };
    Some((SegmentId(parse_id(id)?), generation))
}

/// How an object may change once it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not at all.
    Fixed,
    /// It may be removed.
    Slot,
    /// It may be emptied.
    Entry,
}

/// How the object of that name may change; none of one that comes and goes.
pub(crate) fn standing(object: &str) -> Option<Standing> {
    let parts: Vec<&str> = object.split('/').collect();
    match parts[..] {
        [DESCRIPTOR] | ["settings", _, _] | [TENANTS, _, "key"] | [TENANTS, _, _, "s", _] => Some(Standing::Fixed),
        [SLOTS, _] => Some(Standing::Slot),
        [TENANTS, _, _, "m", _] => Some(Standing::Entry),
        _ => None,
    }
}

pub(crate) fn sessions(tenant: Folder, vm: Folder) -> Path {
    Path::from(format!("{TENANTS}/{}/{}/w", tenant.hex(), vm.hex()))
}

pub(crate) fn session(tenant: Folder, vm: Folder, id: SessionId) -> Path {
    Path::from(format!("{}/{}", sessions(tenant, vm), hex::encode(id.0)))
}

/// The sequence number in a manifest's file name.
pub(crate) fn sequence(file_name: &str) -> Option<u64> {
    let sequence = file_name.parse().ok().filter(|number| *number < u64::MAX)?; // There is always a next one.
    (format!("{sequence:012}") == file_name).then_some(sequence)
}

/// Whether an object belongs to a trial of `remora doctor`: they lie in folders with random names.
pub(crate) fn is_trial(name: &Path) -> bool {
    let parts: Vec<_> = name.parts().collect();
    let [folder, trial, _, ..] = &parts[..] else { return false };
    folder.as_ref() == TRIALS && Folder::parse(trial.as_ref()).is_some()
}

/// Who may be storing an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    /// One process: the name was drawn at random.
    One,
    /// Any number of them at the same time.
    Many,
}

/// Who may be storing an object of this name; none if it is not of ours.
pub(crate) fn writers(name: &Path) -> Option<Writers> {
    let parts: Vec<_> = name.parts().collect();
    let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
    match parts[..] {
        [DESCRIPTOR | CLOCK] | [TRIALS | REMOVALS, _] | ["settings", _, _] | [TENANTS, _, _, "kept"] => {
            Some(Writers::Many)
        }
        [SLOTS | INITS, _] => Some(Writers::One),
        // Two could add one tenant at the same time; but nothing is sealed under a key that is not there yet.
        [TENANTS, tenant, "key"] => Folder::parse(tenant).map(|_| Writers::One),
        [TENANTS, _, _, "m", number] => sequence(number).map(|_| Writers::Many),
        [TENANTS, _, _, "s", segment] => {
            let (_, generation) = segment_name(segment)?;
            Some(if generation == 0 { Writers::One } else { Writers::Many })
        }
        [TENANTS, _, _, "w", session] => SessionId::parse(session).map(|_| Writers::One),
        _ => is_trial(name).then_some(Writers::One),
    }
}
