//! An open repository, and the entries of its VMs' sequences in it.

use std::path::PathBuf;

use remora_core::{Error, ErrorKind, MemoryBudget, PointId, Result, VmName};

use crate::descriptor::Descriptor;
use crate::keys::TenantKeys;
use crate::manifest::{self, Manifest, PointEntry};
use crate::names::{self, Folder};
use crate::seen::Seen;
use crate::segment::read::Segments;
use crate::settings::Settings;
use crate::store::Store;
use crate::workers::Workers;

/// How a vault uses the host it runs on.
#[derive(Clone, Debug)]
pub struct VaultOptions {
    /// The budget that the pieces in flight of a sequential reader are taken from.
    pub memory: MemoryBudget,
    /// Bytes of decoded chunks that a point's random reader keeps.
    pub cache: u64,
    /// The folder where the host remembers what it saw, to notice a store that was put back to an earlier state; none if
    /// it remembers nothing.
    pub state: Option<PathBuf>,
}

impl Default for VaultOptions {
    fn default() -> Self {
        Self { memory: MemoryBudget::new(96 * 1024 * 1024), cache: 32 * 1024 * 1024, state: None }
    }
}

/// An open repository.
pub(crate) struct Repository {
    pub(crate) store: Store,
    pub(crate) descriptor: Descriptor,
    pub(crate) tenant: Folder,
    pub(crate) keys: TenantKeys,
    pub(crate) settings: Settings,
    pub(crate) workers: Workers,
    pub(crate) options: VaultOptions,
    pub(crate) seen: Seen,
}

/// A manifest and the hash of its object.
pub(crate) struct Stored {
    pub(crate) manifest: Manifest,
    pub(crate) hash: String,
}

/// What stands at a number of a VM's sequence.
pub(crate) enum Number {
    /// Nothing yet.
    Free,
    /// A point that was dropped, and then emptied.
    Emptied,
    /// An entry.
    Taken(Box<Stored>),
}

impl Repository {
    pub(crate) fn folder(&self, vm: &VmName) -> Folder {
        Folder::of(&self.keys.names, vm.as_str())
    }

    pub(crate) fn segments(&self, vm: Folder) -> Segments {
        let repository = *self.descriptor.id.as_bytes();
        Segments::new(self.store.clone(), self.keys.clone(), repository, self.tenant, vm)
    }

    /// An entry of a VM's sequence, if there is one. An emptied one is damaged: only numbers that count are asked for.
    pub(crate) async fn manifest(&self, vm: Folder, sequence: u64) -> Result<Option<Stored>> {
        match self.number(vm, sequence).await? {
            Number::Free => Ok(None),
            Number::Taken(stored) => Ok(Some(*stored)),
            Number::Emptied => {
                let name = names::manifest(self.tenant, vm, sequence);
                Err(self.store.damaged(&name, "it is empty, but no tombstone says that it was dropped"))
            }
        }
    }

    /// What stands at a number of a VM's sequence.
    pub(crate) async fn number(&self, vm: Folder, sequence: u64) -> Result<Number> {
        let name = names::manifest(self.tenant, vm, sequence);
        let Some(object) = self.store.get(&name, manifest::LIMIT).await? else { return Ok(Number::Free) };
        if object.is_empty() {
            return Ok(Number::Emptied);
        }
        let place = manifest::place(self.descriptor.id, self.tenant, vm, sequence);
        let manifest =
            Manifest::open(&self.keys.manifests, &place, &object).map_err(|e| self.store.damaged(&name, e))?;
        if self.folder(&manifest.vm) != vm {
            return Err(self.store.damaged(&name, "it is another VM's"));
        }
        let hash = blake3::hash(&object).to_hex().to_string();
        Ok(Number::Taken(Box::new(Stored { manifest, hash })))
    }

    /// The point of that id. One whose entry the store has lost is `Damaged`, and not `NotFound`.
    pub(crate) async fn point(&self, id: &PointId) -> Result<(PointEntry, String)> {
        let vm = Folder::parse(id.vm()).ok_or_else(|| self.unknown(id))?;
        let sequence = self.sequence(vm).await?;
        if !sequence.counts(id.sequence()) {
            return Err(self.unknown(id).within("it was dropped"));
        }
        match self.counting_point(id).await {
            Err(error) if error.kind() == ErrorKind::NotFound && sequence.lacks(id.sequence()) => {
                Err(self.gap(vm, &sequence, id.sequence()).within(format!("point {id}")))
            }
            // Also of one that the listing does not have yet.
            read => read,
        }
    }

    /// The point of that id, which is known to count: of a long sequence the listing is most of what that costs to learn.
    pub(crate) async fn counting_point(&self, id: &PointId) -> Result<(PointEntry, String)> {
        let vm = Folder::parse(id.vm()).ok_or_else(|| self.unknown(id))?;
        let stored = self.manifest(vm, id.sequence()).await.map_err(|e| e.within(format!("point {id}")))?;
        let stored = stored.ok_or_else(|| self.unknown(id))?;
        let entry = stored.manifest.into_point().ok_or_else(|| self.unknown(id))?;
        let name = names::manifest(self.tenant, vm, id.sequence());
        entry.check(id).map_err(|e| self.store.damaged(&name, e).within(format!("point {id}")))?;
        Ok((entry, stored.hash))
    }

    fn unknown(&self, id: &PointId) -> Error {
        Error::new(ErrorKind::NotFound, format!("repository {} has no point {id}", self.store.place()))
            .advise("List what there is with `remora points`.")
    }

    pub(crate) async fn vms(&self) -> Result<Vec<Folder>> {
        let children = self.store.children(&names::tenant(self.tenant)).await?;
        let mut vms: Vec<_> = children.iter().filter_map(|name| Folder::parse(name)).collect();
        vms.extend(self.seen.vms().await);
        vms.sort_unstable();
        vms.dedup();
        Ok(vms)
    }
}
