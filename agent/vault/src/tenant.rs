//! Tenants: each has a data key of its own, from which everything of its VMs is derived.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use remora_core::{Error, ErrorKind, RepositoryId, Result};

use crate::keys::{Key, RepositoryKeys, TenantKeys};
use crate::names::{self, Folder};
use crate::seal::{Kind, Place, open_object, seal_object};
use crate::store::{Created, Store};

/// A sealed data key has 80 bytes.
const LIMIT: u64 = 4096;

/// A tenant's name: a namespace, or `default` on a plain host. Two tenants share no id, no digest and no stored byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant(String);

impl Tenant {
    pub(crate) fn folder(&self, keys: &RepositoryKeys) -> Folder {
        Folder::of(&keys.names, &self.0)
    }
}

/// The one of everything on a plain host.
impl Default for Tenant {
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for Tenant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > 253 || text.chars().any(char::is_control) {
            return Err(Error::new(ErrorKind::Invalid, format!("{text:?} is no tenant's name"))
                .advise("Give 1 to 253 bytes without control characters, such as a namespace's name."));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn place(repository: RepositoryId, tenant: Folder) -> Place {
    Place { repository: *repository.as_bytes(), tenant: tenant.0, object: [0; 16], number: 0 }
}

/// Stores a new data key.
pub(crate) async fn create(store: &Store, keys: &RepositoryKeys, id: RepositoryId, tenant: &Tenant) -> Result<Created> {
    let folder = tenant.folder(keys);
    let data_key = Key::random().as_bytes().to_vec();
    let sealed = seal_object(&keys.tenants, Kind::TenantKey, &place(id, folder), data_key);
    store.create(&names::tenant_key(folder), Bytes::from(sealed).into()).await
}

/// The subkeys of a tenant; none if there is no such tenant.
pub(crate) async fn open(
    store: &Store,
    keys: &RepositoryKeys,
    id: RepositoryId,
    tenant: Folder,
) -> Result<Option<TenantKeys>> {
    Ok(data_key(store, keys, id, tenant).await?.map(|key| TenantKeys::new(&key)))
}

/// The key that a tenant's subkeys come from; none if there is no such tenant.
pub(crate) async fn data_key(
    store: &Store,
    keys: &RepositoryKeys,
    id: RepositoryId,
    tenant: Folder,
) -> Result<Option<Key>> {
    let name = names::tenant_key(tenant);
    let Some(sealed) = store.get(&name, LIMIT).await? else { return Ok(None) };
    let data_key = open_object(&keys.tenants, Kind::TenantKey, &place(id, tenant), &sealed)
        .map_err(|e| store.damaged(&name, e))?;
    let data_key = data_key.try_into().map_err(|_| store.damaged(&name, "it holds no key"))?;
    Ok(Some(Key::from_bytes(data_key)))
}
