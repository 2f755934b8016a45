//! VMs of one disk, backed up as the engine does it, and what a repository may hold of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use remora_core::point::{Decision, Point};
use remora_core::ports::{DiskIndex, DiskReads, Mover, NewPoint, PointWriter};
use remora_core::testing::{new_disk, new_point};
use remora_core::{BLOCK_SIZE, ByteRange, PIECE_SIZE, PointId, Result, VmName};

use super::FaultyStore;
use crate::collect::reach::{Reach, walk};
use crate::manifest::Entry;
use crate::repository::Repository;
use crate::store::Store;
use crate::tests::secret;
use crate::{Vault, VaultOptions};

const DISK: DiskIndex = DiskIndex(0);

/// A new repository in a new store.
pub(crate) async fn new_vault() -> (Vault, FaultyStore) {
    let store = FaultyStore::new();
    (new_vault_in(&store).await, store)
}

/// A new repository in a store that is empty.
pub(crate) async fn new_vault_in(store: &FaultyStore) -> Vault {
    Vault::init_in(&store.as_store(), &secret()).await.unwrap();
    Vault::open_in(store.as_store(), &secret(), VaultOptions::default()).await.unwrap()
}

/// The same repository in another store, with nothing cached.
pub(crate) fn over(vault: &Vault, store: &FaultyStore) -> Vault {
    over_store(vault, store.as_store())
}

/// The same repository in another store, which may have locks.
pub(crate) fn over_store(vault: &Vault, store: Store) -> Vault {
    let Repository { descriptor, tenant, keys, settings, workers, options, seen, .. } = &*vault.0;
    Vault(Arc::new(Repository {
        store,
        descriptor: descriptor.clone(),
        tenant: *tenant,
        keys: keys.clone(),
        settings: settings.clone(),
        workers: workers.clone(),
        options: options.clone(),
        seen: seen.clone(),
    }))
}

/// What of a block is noise; the rest costs the tests no time.
pub(crate) const NOISE: usize = 2048;

/// Blocks that begin with noise, each its own for its seed.
pub(crate) fn image(seeds: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let block = |seed: u64| {
        let mut block = vec![0; BLOCK_SIZE as usize];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut block[..NOISE]);
        block
    };
    seeds.into_iter().flat_map(block).collect()
}

/// Begins a point after the newest one.
pub(crate) async fn begin(
    vault: &Vault,
    vm: &VmName,
    decision: Decision,
    size: usize,
    time: Timestamp,
) -> Result<Box<dyn PointWriter>> {
    let parent = vault.history(vm).await?.newest.map(|point| point.id);
    let disks = vec![new_disk("vda", size as u64, decision)];
    vault.begin(NewPoint { time, ..new_point(vm, parent, disks) }).await
}

/// Makes a point of `image`, as the engine does: a first one is full, and what fails is abandoned. `Incremental` writes the blocks in `changed`
/// only, which must be all that differ from the newest point.
pub(crate) async fn back_up(
    vault: &Vault,
    vm: &VmName,
    decision: Decision,
    image: &[u8],
    changed: &[u64],
) -> Result<Point> {
    let first = vault.history(vm).await?.newest.is_none();
    let decision = if first { Decision::Full } else { decision };
    let writer = begin(vault, vm, decision, image.len(), Timestamp::UNIX_EPOCH).await?;
    let written = write(writer.as_ref(), decision, image, changed).await;
    if let Err(error) = written {
        writer.abandon().await;
        return Err(error);
    }
    writer.commit(&[DiskReads::default()]).await
}

/// Writes `image`, or the blocks in `changed` of an increment.
pub(crate) async fn write(writer: &dyn PointWriter, decision: Decision, image: &[u8], changed: &[u64]) -> Result<()> {
    let step = if decision == Decision::Incremental { BLOCK_SIZE } else { PIECE_SIZE };
    for piece in ByteRange::new(0, image.len() as u64).split(step) {
        if decision == Decision::Incremental && !changed.contains(&(piece.start / BLOCK_SIZE)) {
            writer.unchanged(DISK, piece).await?;
        } else {
            let bytes = Bytes::copy_from_slice(&image[piece.start as usize..piece.end as usize]);
            writer.write(DISK, piece.start, bytes).await?;
        }
    }
    Ok(())
}

/// All bytes of a point.
pub(crate) async fn read(vault: &Vault, point: &PointId) -> Result<Vec<u8>> {
    let reader = vault.open(point).await?;
    let size = reader.point().disks[0].size;
    let mut image = vec![0; size as usize];
    let mut pieces = reader.pieces(DISK, ByteRange::new(0, size));
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        image[piece.at as usize..piece.at as usize + piece.data.len()].copy_from_slice(&piece.data);
    }
    Ok(image)
}

/// That the store holds what every repository of one key slot does, the entries of each VM, empty where they were
/// dropped, the segments that the others reach, and nothing else.
pub(crate) async fn assert_only_what_is_needed(vault: &Vault, store: &FaultyStore, context: &str) {
    let repository = &vault.0;
    let tenant_key = crate::names::tenant_key(repository.tenant).to_string();
    let beside_vms =
        shape(store).await.into_iter().filter(|name| !name.contains("/vm/") && !name.starts_with("settings/"));
    let usual = ["clock", "doctor/create-only", "keys/slot", "remora.json", "t/tenant/key"];
    assert_eq!(beside_vms.collect::<Vec<_>>(), usual, "{context}");
    assert!(store.objects().await.contains_key(&tenant_key), "{context}: the data key is another tenant's");
    for vm in repository.vms().await.unwrap() {
        let (sequence, segments) = (repository.sequence(vm).await.unwrap(), repository.segments(vm));
        assert!(sequence.gaps().next().is_none(), "{context}");
        let mut reach = Reach::default();
        for (number, listed) in &sequence.listed {
            let entry = match listed.size {
                0 => None,
                _ => Some(repository.manifest(vm, *number).await.unwrap().unwrap().manifest.entry),
            };
            match entry {
                None => assert!(!sequence.counts(*number), "{context}: {number} is empty"),
                Some(Entry::Point(point)) => {
                    assert!(sequence.counts(*number), "{context}: {number} was dropped and is not empty");
                    for (disk, map) in point.point.disks.iter().zip(&point.maps) {
                        walk(&segments, disk.size, map.root, &mut |record| reach.mark(record)).await.unwrap();
                    }
                }
                Some(_) => {}
            }
        }
        let folder = crate::names::manifests(repository.tenant, vm).to_string();
        let folder = folder.strip_suffix('m').unwrap();
        let there: Vec<String> = store.objects().await.into_keys().filter(|name| name.starts_with(folder)).collect();
        // A folder has entries, and perhaps the record of what is kept.
        let record = format!("{folder}kept");
        let others = there.iter().filter(|name| !name.starts_with(&format!("{folder}m/")) && **name != record);
        let id = |name: &String| crate::names::segment_name(name.strip_prefix(&format!("{folder}s/"))?);
        let found: Vec<_> = others.map(|name| id(name).unwrap_or_else(|| panic!("{context}: {name}")).0).collect();
        assert_eq!(found.iter().copied().collect::<BTreeSet<_>>().len(), found.len(), "{context}: two generations");
        assert_eq!(
            found.into_iter().collect::<BTreeSet<_>>(),
            reach.segments().collect::<BTreeSet<_>>(),
            "{context}: segments that are there, and segments that are needed"
        );
    }
}

/// What is in a store, without what is random in the names.
pub(crate) async fn shape(store: &FaultyStore) -> Vec<String> {
    let name = |name: String| {
        let parts: Vec<&str> = name.split('/').collect();
        match parts[..] {
            ["keys", slot] if slot.len() == 21 => "keys/slot".into(),
            ["init", announced] if announced.len() == 66 => "init/announced".into(),
            ["t", tenant, "key"] if tenant.len() == 16 => "t/tenant/key".into(),
            ["t", tenant, vm, ref rest @ ..] if tenant.len() == 16 && vm.len() == 16 => {
                format!("t/tenant/vm/{}", rest.join("/"))
            }
            _ => name,
        }
    };
    let mut shape: Vec<String> = store.objects().await.into_keys().map(name).collect();
    shape.sort();
    shape
}
