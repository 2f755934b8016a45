//! An open repository, and the entries of its VMs' sequences in it.

use bytes::Bytes;
use remora_core::point::Point;
use remora_core::ports::LineageBreak;
use remora_core::{Error, ErrorKind, MemoryBudget, PointId, Result, VmName};

use crate::descriptor::Descriptor;
use crate::keys::TenantKeys;
use crate::manifest::{self, Entry, Manifest, PointEntry};
use crate::names::{self, Folder};
use crate::segment::read::Segments;
use crate::store::{Created, Store};
use crate::workers::Workers;

/// How a vault uses memory.
#[derive(Clone, Debug)]
pub struct VaultOptions {
    /// The budget that the pieces in flight of a sequential reader are taken from.
    pub memory: MemoryBudget,
    /// Bytes of decoded chunks that a point's random reader keeps.
    pub cache: u64,
}

impl Default for VaultOptions {
    fn default() -> Self {
        Self { memory: MemoryBudget::new(96 * 1024 * 1024), cache: 32 * 1024 * 1024 }
    }
}

/// An open repository.
pub(crate) struct Repository {
    pub(crate) store: Store,
    pub(crate) descriptor: Descriptor,
    pub(crate) tenant: Folder,
    pub(crate) keys: TenantKeys,
    pub(crate) workers: Workers,
    pub(crate) options: VaultOptions,
}

/// A manifest and the hash of its object.
pub(crate) struct Stored {
    pub(crate) manifest: Manifest,
    pub(crate) hash: String,
}

impl Repository {
    pub(crate) fn folder(&self, vm: &VmName) -> Folder {
        Folder::of(&self.keys.names, vm.as_str())
    }

    pub(crate) fn segments(&self, vm: Folder) -> Segments {
        let repository = *self.descriptor.id.as_bytes();
        Segments::new(self.store.clone(), self.keys.clone(), repository, self.tenant, vm)
    }

    /// The sequence numbers of a VM's entries, ascending.
    pub(crate) async fn sequences(&self, vm: Folder) -> Result<Vec<u64>> {
        let names = self.store.children(&names::manifests(self.tenant, vm)).await?;
        let mut sequences: Vec<u64> = names.iter().filter_map(|name| names::sequence(name)).collect();
        sequences.sort_unstable();
        Ok(sequences)
    }

    /// An entry of a VM's sequence, if there is one.
    pub(crate) async fn manifest(&self, vm: Folder, sequence: u64) -> Result<Option<Stored>> {
        let name = names::manifest(self.tenant, vm, sequence);
        let Some(object) = self.store.get(&name, manifest::LIMIT).await? else { return Ok(None) };
        let place = manifest::place(self.descriptor.id, self.tenant, vm, sequence);
        let manifest =
            Manifest::open(&self.keys.manifests, &place, &object).map_err(|e| self.store.damaged(&name, e))?;
        if self.folder(&manifest.vm) != vm {
            return Err(self.store.damaged(&name, "it is another VM's"));
        }
        let hash = blake3::hash(&object).to_hex().to_string();
        Ok(Some(Stored { manifest, hash }))
    }

    /// The point of that id.
    pub(crate) async fn point(&self, id: &PointId) -> Result<(PointEntry, String)> {
        let unknown = || {
            Error::new(ErrorKind::NotFound, format!("repository {} has no point {id}", self.store.place()))
                .advise("List what there is with `remora points`.")
        };
        let vm = Folder::parse(id.vm()).ok_or_else(unknown)?;
        let stored = self.manifest(vm, id.sequence()).await.map_err(|e| e.within(format!("point {id}")))?;
        let stored = stored.ok_or_else(unknown)?;
        let entry = stored.manifest.into_point().ok_or_else(unknown)?;
        let name = names::manifest(self.tenant, vm, id.sequence());
        entry.check(id).map_err(|e| self.store.damaged(&name, e).within(format!("point {id}")))?;
        Ok((entry, stored.hash))
    }

    /// The newest point that can be read, and what came after it. Unreadable entries are passed over, loudly: the next
    /// point then follows an older one, whose checkpoint is gone, and rereads.
    pub(crate) async fn newest(&self, vm: Folder) -> Result<(Option<Point>, Vec<LineageBreak>)> {
        let mut breaks = Vec::new();
        for sequence in self.sequences(vm).await?.into_iter().rev() {
            match self.manifest(vm, sequence).await {
                Ok(Some(Stored { manifest: Manifest { entry: Entry::Point(point), .. }, .. })) => {
                    return Ok((Some(point.point), breaks));
                }
                Ok(Some(Stored { manifest: Manifest { entry: Entry::Break(broken), .. }, .. })) => breaks.push(broken),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(error = error.chain(), "an entry of the VM's sequence is unreadable");
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, breaks))
    }

    /// Stores an entry at a place of a VM's sequence. An unknown outcome is cleared up by looking.
    pub(crate) async fn append(&self, vm: Folder, sequence: u64, manifest: &Manifest) -> Result<()> {
        let name = names::manifest(self.tenant, vm, sequence);
        let place = manifest::place(self.descriptor.id, self.tenant, vm, sequence);
        let object = Bytes::from(manifest.seal(&self.keys.manifests, &place)?);
        let mut outcome = self.store.create(&name, object.clone().into()).await;
        if !matches!(outcome, Ok(Created::Yes)) {
            match self.store.get(&name, manifest::LIMIT).await? {
                Some(there) if there == object => return Ok(()),
                Some(_) => outcome = Ok(Created::NameTaken),
                None if outcome.is_err() => outcome = self.store.create(&name, object.clone().into()).await,
                None => {}
            }
        }
        match outcome? {
            Created::Yes => Ok(()),
            Created::NameTaken => {
                Err(Error::new(ErrorKind::Busy, format!("VM {:?} got another point meanwhile", manifest.vm.as_str()))
                    .advise("Nothing was lost: run the backup again."))
            }
        }
    }

    pub(crate) async fn vms(&self) -> Result<Vec<Folder>> {
        let children = self.store.children(&names::tenant(self.tenant)).await?;
        Ok(children.iter().filter_map(|name| Folder::parse(name)).collect())
    }
}
