//! What this host saw of a repository: the highest number of each VM's sequence. Numbers only grow, so a store that ends
//! below it was put back to an earlier state, or does not list what it holds; nothing in the store itself could tell.
//!
//! There is a file for each VM, in a folder for each repository and place: a copy of a repository's folder elsewhere may
//! well be older. What cannot be read or written is as good as never seen.

use std::path::{Path, PathBuf};

use remora_core::{Error, RepositoryId, Result};

use crate::keys::random;
use crate::names::Folder;

/// Where this host remembers a repository; nowhere, if it has no state folder.
#[derive(Clone, Debug)]
pub(crate) struct Seen(Option<PathBuf>);

impl Seen {
    pub(crate) fn of(state: Option<&Path>, repository: RepositoryId, place: &str) -> Self {
        let place = blake3::hash(place.as_bytes()).to_hex();
        Self(state.map(|state| state.join("seen").join(format!("{repository}-{}", &place[..16]))))
    }

    /// The highest number that was ever seen of a VM, `number` included, which is remembered.
    pub(crate) async fn highest(&self, vm: Folder, number: u64) -> u64 {
        let Some(path) = self.file(vm) else { return number };
        let before = tokio::fs::read_to_string(&path).await.ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        if number > before
            && let Err(error) = remember(&path, number).await
        {
            tracing::debug!(error = error.chain(), "that a store was put back may go unnoticed");
        }
        number.max(before)
    }

    /// The VMs that were seen.
    pub(crate) async fn vms(&self) -> Vec<Folder> {
        let Some(folder) = &self.0 else { return Vec::new() };
        let Ok(mut files) = tokio::fs::read_dir(folder).await else { return Vec::new() };
        let mut vms = Vec::new();
        while let Ok(Some(file)) = files.next_entry().await {
            vms.extend(file.file_name().to_str().and_then(Folder::parse));
        }
        vms
    }

    /// The file that remembers a VM.
    pub(crate) fn file(&self, vm: Folder) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(vm.hex()))
    }
}

/// Writes a file whole or not at all: others may read it, or write it too, of this process and of those in other containers, whose
/// ids may be the same. So each writes into a file of its own.
async fn remember(path: &Path, number: u64) -> Result<()> {
    let staged = path.with_extension(format!("{}.new", hex::encode(random::<8>())));
    let write = async {
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        tokio::fs::write(&staged, number.to_string()).await?;
        tokio::fs::rename(&staged, path).await
    };
    let written = write.await;
    if written.is_err() {
        tokio::fs::remove_file(&staged).await.ok();
    }
    written.map_err(|e| Error::io(format!("writing {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::{ObjectStore, ObjectStoreExt};
    use remora_core::point::Decision;
    use remora_core::ports::{Mover, NoProgress};
    use remora_core::{ErrorKind, PointId, VmName};

    use super::Seen;
    use crate::collect::Mode;
    use crate::names;
    use crate::repository::Repository;
    use crate::testing::{FaultyStore, back_up, image, new_vault, over};
    use crate::vault::GAPS_TOLD;
    use crate::{Depth, Vault};

    fn vm() -> VmName {
        VmName::new("a VM").unwrap()
    }

    /// The repository as a host sees it that remembers in `state`.
    fn on_host(vault: &Vault, store: &FaultyStore, state: &tempfile::TempDir) -> Vault {
        let id = vault.0.descriptor.id;
        let repository = Arc::into_inner(over(vault, store).0).unwrap();
        Vault(Arc::new(Repository { seen: Seen::of(Some(state.path()), id, "a place"), ..repository }))
    }

    async fn back_up_seed(vault: &Vault, seed: u64) {
        back_up(vault, &vm(), Decision::Reread, &image(seed..seed + 2), &[]).await.unwrap();
    }

    /// What is wrong with which numbers.
    async fn wrong(vault: &Vault) -> Vec<(u64, String)> {
        let listing = vault.list(None).await.unwrap();
        listing.unreadable.into_iter().map(|(point, error)| (point.sequence(), error.chain())).collect()
    }

    #[tokio::test]
    async fn a_store_that_was_put_back_is_noticed_and_nothing_is_removed_until_it_has_caught_up() {
        let ((vault, store), state) = (new_vault().await, tempfile::tempdir().unwrap());
        let host = on_host(&vault, &store, &state);
        back_up_seed(&host, 10).await;
        let earlier = store.fork();
        back_up_seed(&host, 20).await;
        back_up_seed(&host, 30).await;
        assert_eq!(wrong(&host).await, []);

        let back = on_host(&vault, &earlier, &state);
        let found = wrong(&back).await;
        assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3]);
        assert!(found[0].1.contains("put back to an earlier state"), "{found:?}");
        let before = earlier.objects().await.len();
        let (_, failed) = back.collect(None, Mode::Run, &[]).await.unwrap();
        assert_eq!(failed.iter().map(remora_core::Error::kind).collect::<Vec<_>>(), [ErrorKind::Damaged]);
        assert!(earlier.objects().await.len() >= before);
        // Another host has seen nothing else, and neither has one without a folder.
        assert_eq!(wrong(&on_host(&vault, &earlier, &tempfile::tempdir().unwrap())).await, []);
        assert_eq!(wrong(&over(&vault, &earlier)).await, []);

        back_up_seed(&back, 40).await;
        assert_eq!(wrong(&back).await.len(), 1);
        back_up_seed(&back, 50).await;
        assert_eq!(wrong(&back).await, []);
        assert!(back.collect(None, Mode::Run, &[]).await.unwrap().1.is_empty());
    }

    #[tokio::test]
    async fn a_point_whose_entry_is_lost_is_damaged_and_one_that_never_was_is_unknown() {
        let ((vault, store), state) = (new_vault().await, tempfile::tempdir().unwrap());
        let host = on_host(&vault, &store, &state);
        for seed in [10, 20, 30] {
            back_up_seed(&host, seed).await;
        }
        let folder = host.0.folder(&vm());
        let point = |number| PointId::new(folder.hex(), number).unwrap();
        let error = async |vault: &Vault, number| {
            let verified = vault.verifier(Depth::All).point(&point(number), &NoProgress).await;
            let (read, verified) = (vault.open(&point(number)).await.err().unwrap(), verified.unwrap_err());
            assert_eq!(read.chain(), verified.chain());
            verified
        };
        assert_eq!(error(&host, 4).await.kind(), ErrorKind::NotFound);

        for number in [2, 3] {
            let name = names::manifest(host.0.tenant, folder, number);
            (&store as &dyn ObjectStore).delete(&name).await.unwrap();
            let lost = error(&host, number).await;
            assert_eq!(lost.kind(), ErrorKind::Damaged);
            assert!(lost.chain().contains(name.as_ref()), "{}", lost.chain());
            if number == 2 {
                // Without a memory, what comes after it tells.
                assert_eq!(error(&over(&vault, &store), number).await.kind(), ErrorKind::Damaged);
            }
        }
        assert_eq!(error(&over(&vault, &store), 3).await.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_entry_of_an_absurd_number_is_damage_and_no_endless_work() {
        let ((vault, store), state) = (new_vault().await, tempfile::tempdir().unwrap());
        let host = on_host(&vault, &store, &state);
        back_up_seed(&host, 10).await;
        for number in [u64::MAX - 1, u64::MAX] {
            let name = names::manifest(host.0.tenant, host.0.folder(&vm()), number);
            (&store as &dyn ObjectStore).put(&name, "not an entry".into()).await.unwrap();
            let listing = host.list(None).await.unwrap();
            assert_eq!((listing.points.len(), listing.unreadable.len()), (1, GAPS_TOLD + 1));
            assert!(!host.collect(None, Mode::Run, &[]).await.unwrap().1.is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_remembered_is_whole_at_every_instant_however_many_write_it() {
        let ((vault, store), state) = (new_vault().await, tempfile::tempdir().unwrap());
        let host = on_host(&vault, &store, &state);
        let folder = host.0.folder(&vm());
        let file = host.0.seen.file(folder).unwrap();
        host.0.seen.highest(folder, 1).await;
        let write = |writer: u64| {
            let seen = host.0.seen.clone();
            tokio::spawn(async move {
                for round in 1..100 {
                    seen.highest(folder, round * 8 + writer).await;
                }
            })
        };
        let written = futures::future::join_all((0..8).map(write));
        let looking = async {
            loop {
                let text = tokio::fs::read_to_string(&file).await.unwrap();
                assert!(text.parse::<u64>().is_ok(), "{text:?}");
            }
        };
        tokio::select! {
            ended = written => {
                for writer in ended {
                    writer.unwrap();
                }
            }
            () = looking => {}
        }
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_vm_that_is_gone_altogether_is_noticed_until_its_file_is_removed() {
        let ((vault, store), state) = (new_vault().await, tempfile::tempdir().unwrap());
        let empty = store.fork();
        back_up_seed(&on_host(&vault, &store, &state), 10).await;
        let back = on_host(&vault, &empty, &state);
        assert_eq!(wrong(&back).await.len(), 1);
        let file = back.0.seen.file(back.0.folder(&vm())).unwrap();
        let advice = back.list(None).await.unwrap().unreadable[0].1.advice().unwrap().to_owned();
        assert!(advice.contains(file.to_str().unwrap()), "{advice}");
        std::fs::remove_file(file).unwrap();
        assert_eq!(wrong(&back).await, []);
    }
}
