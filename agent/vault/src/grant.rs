//! One tenant's part of a repository, opened without a passphrase: what a node is given that holds that tenant's VMs and no
//! other's.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use remora_core::{Error, ErrorKind, RepositoryId, Result};
use zeroize::Zeroizing;

use crate::descriptor::Descriptor;
use crate::keyring::Keyring;
use crate::keys::{Key, TenantKeys};
use crate::location::Location;
use crate::names::Folder;
use crate::repository::{Repository, VaultOptions};
use crate::seen::Seen;
use crate::settings::Settings;
use crate::store::Store;
use crate::tenant::{self, Tenant};
use crate::vault::Vault;
use crate::workers::Workers;

/// Bytes of a repository's id, a tenant's folder, its data key, and the key of the repository's settings.
const LENGTH: usize = 16 + 8 + 32 + 32;

/// The keys of one tenant. Of another tenant, or of the repository's key slots, nothing can be had from it. Who holds it
/// can also read and write what is set for the whole repository: how long nothing can be deleted. Prints nothing of
/// itself.
#[derive(Clone)]
pub struct Grant {
    repository: RepositoryId,
    tenant: Folder,
    data: Key,
    settings: Key,
}

impl Keyring {
    /// The keys of one tenant; `NotFound` if it is not known.
    pub async fn grant(&self, tenant: &Tenant) -> Result<Grant> {
        let (keys, repository) = (self.keys(), self.descriptor.id);
        let folder = tenant.folder(&keys);
        let data = tenant::data_key(&self.store, &keys, repository, folder).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("repository {} has no tenant {tenant}", self.store.place()))
        })?;
        Ok(Grant { repository, tenant: folder, data, settings: keys.settings })
    }

    /// The repository's id.
    pub const fn repository(&self) -> RepositoryId {
        self.descriptor.id
    }
}

impl Grant {
    /// Opens the repository at `location`, which must be the one that it is of.
    pub async fn open(&self, location: &Location, options: VaultOptions) -> Result<Vault> {
        self.open_in(Store::open(location)?, options).await
    }

    pub(crate) async fn open_in(&self, store: Store, options: VaultOptions) -> Result<Vault> {
        let descriptor = Descriptor::read(&store).await?;
        if descriptor.id != self.repository {
            let what = format!("repository {} is {}, not {}", store.place(), descriptor.id, self.repository);
            return Err(Error::new(ErrorKind::WrongKey, what)
                .advise("Its store was exchanged or put back: look who did that before anything is written to it."));
        }
        let settings = Settings::read(&store, self.settings.clone(), descriptor.id).await?;
        let seen = Seen::of(options.state.as_deref(), descriptor.id, store.place());
        let (tenant, keys, workers) = (self.tenant, TenantKeys::new(&self.data), Workers::new());
        Ok(Vault(Arc::new(Repository { store, descriptor, tenant, keys, settings, workers, options, seen })))
    }

    /// As [`FromStr`] takes it: hexadecimal digits.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH));
        bytes.extend_from_slice(self.repository.as_bytes());
        bytes.extend_from_slice(&self.tenant.0);
        bytes.extend_from_slice(self.data.as_bytes());
        bytes.extend_from_slice(self.settings.as_bytes());
        Zeroizing::new(hex::encode(&*bytes))
    }
}

impl FromStr for Grant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // Not the text: it is a secret.
        let invalid = || Error::new(ErrorKind::Invalid, format!("a grant has {} hexadecimal digits", 2 * LENGTH));
        let mut bytes = Zeroizing::new([0; LENGTH]);
        hex::decode_to_slice(text, &mut *bytes).map_err(|_| invalid())?;
        let part = |at: usize| -> [u8; 32] { bytes[at..at + 32].try_into().expect("32 of 88 bytes") };
        Ok(Self {
            repository: RepositoryId::from_bytes(bytes[..16].try_into().expect("16 of 88 bytes")),
            tenant: Folder(bytes[16..24].try_into().expect("8 of 88 bytes")),
            data: Key::from_bytes(part(24)),
            settings: Key::from_bytes(part(56)),
        })
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({}, …)", self.repository)
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStore;
    use object_store::memory::InMemory;
    use remora_core::VmName;
    use remora_core::ports::Mover;

    use super::*;
    use crate::secret::{KeyFile, Secret};

    struct Bench(Arc<InMemory>, Keyring);

    async fn bench() -> Bench {
        let memory = Arc::new(InMemory::new());
        let store = || Store::over(Arc::clone(&memory) as Arc<dyn ObjectStore>);
        let secret = Secret::KeyFile(KeyFile::random());
        Vault::init_in(&store(), &secret).await.unwrap();
        let keyring = Keyring::open_in(store(), &secret).await.unwrap();
        Bench(memory, keyring)
    }

    impl Bench {
        async fn open(&self, grant: &Grant) -> Result<Vault> {
            let store = Store::over(Arc::clone(&self.0) as Arc<dyn ObjectStore>);
            grant.open_in(store, VaultOptions::default()).await
        }
    }

    #[tokio::test]
    async fn a_grant_opens_its_tenant_as_the_secret_does_and_no_other() {
        let bench = bench().await;
        let [shop, bank]: [Tenant; 2] = ["shop", "bank"].map(|name| name.parse().unwrap());
        assert_eq!(bench.1.grant(&shop).await.unwrap_err().kind(), ErrorKind::NotFound);
        for tenant in [&shop, &bank] {
            bench.1.add_tenant(tenant).await.unwrap();
        }
        let grant: Grant = bench.1.grant(&shop).await.unwrap().to_text().parse().unwrap();
        let granted = bench.open(&grant).await.unwrap();
        let vm = VmName::new("shop/web").unwrap();
        let broken = remora_core::ports::LineageBreak {
            time: jiff::Timestamp::UNIX_EPOCH,
            path: "/dev/vda".into(),
            reason: "a test".into(),
        };
        granted.record_break(&vm, broken).await.unwrap();
        for (tenant, breaks) in [(&shop, 1), (&bank, 0)] {
            let vault = bench.1.vault(tenant, VaultOptions::default()).await.unwrap();
            assert_eq!(vault.history(&vm).await.unwrap().breaks.len(), breaks, "{tenant}");
        }
    }

    #[tokio::test]
    async fn a_grant_of_another_repository_opens_nothing() {
        let (one, two) = (bench().await, bench().await);
        let grant = two.1.grant(&Tenant::default()).await.unwrap();
        assert_eq!(one.open(&grant).await.map(drop).unwrap_err().kind(), ErrorKind::WrongKey);
        two.open(&grant).await.unwrap();
    }

    #[tokio::test]
    async fn a_grant_does_not_print_and_is_not_guessed() {
        let grant = bench().await.1.grant(&Tenant::default()).await.unwrap();
        let text = grant.to_text();
        assert!(!format!("{grant:?}").contains(&text[48..112]));
        for wrong in ["", &text[2..], &format!("{}00", *text), &text.replacen(|_| true, "x", 1)] {
            let error = wrong.parse::<Grant>().unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && !error.chain().contains(&text[4..20]));
        }
    }
}
