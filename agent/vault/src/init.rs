//! Making a repository, and clearing away what an init that was broken off left.
//!
//! An init stores the tenant's data key, a key slot, and last the descriptor: only then is there a repository. Before
//! them it announces, by the name of an empty object, which slot and which tenant's folder it is about to make, and for
//! which repository id. Once there is a descriptor, whatever was announced for another id is nobody's: no slot that
//! opens this repository has ever been announced for another one. So neither age nor content has to tell a leftover from
//! a slot that somebody needs.

use jiff::Timestamp;
use object_store::PutPayload;
use object_store::path::Path;
use remora_core::{Error, ErrorKind, RepositoryId, Result};

use crate::collect::Mode;
use crate::descriptor::{self, Descriptor};
use crate::keyring::{self, SlotId};
use crate::keys::{Key, RepositoryKeys};
use crate::leftovers::Leftovers;
use crate::names::{self, Folder, INITS};
use crate::secret::Secret;
use crate::settings::{self, Immutable, Settings};
use crate::slot::Effort;
use crate::store::{Created, Store};
use crate::tenant::{self, Tenant};

/// What an init is about to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    repository: RepositoryId,
    slot: SlotId,
    tenant: Folder,
}

impl Announced {
    fn path(self) -> Path {
        Path::from(format!("{INITS}/{}-{}-{}", self.repository, self.slot, self.tenant.hex()))
    }

    /// From an object's name; none for anything else that lies there.
    pub(crate) fn parse(file_name: &str) -> Option<Self> {
        let mut parts = file_name.splitn(3, '-');
        let repository = parts.next()?.parse().ok()?;
        let slot = parts.next()?.parse().ok()?;
        let announced = Self { repository, slot, tenant: Folder::parse(parts.next()?)? };
        (announced.path().filename() == Some(file_name)).then_some(announced)
    }
}

/// Makes a repository in a store.
pub(crate) async fn init(store: &Store, secret: &Secret, immutable: Option<Immutable>) -> Result<RepositoryId> {
    if store.exists(&Path::from(names::DESCRIPTOR)).await? {
        return Err(descriptor::exists(store));
    }
    if holds_vms(store).await? {
        let what = format!("{} holds the points of a repository whose {} is missing", store.place(), names::DESCRIPTOR);
        return Err(Error::new(ErrorKind::Exists, what).advise(
            "Put that object back from a copy of the repository, and it is there again; or choose another place.",
        ));
    }
    if immutable.is_some() {
        settings::prove(store).await?;
    }
    let (id, repository_key) = (RepositoryId::random(), Key::random());
    let (keys, tenant) = (RepositoryKeys::new(&repository_key), Tenant::default());
    let announced = Announced { repository: id, slot: SlotId::random(), tenant: tenant.folder(&keys) };
    store.create(&announced.path(), PutPayload::default()).await?;
    if immutable.is_some() {
        Settings::store(keys.settings.clone(), store, id, 1, immutable).await?;
    }
    tenant::create(store, &keys, id, &tenant).await?;
    keyring::create(store, announced.slot, &repository_key, secret, id, Effort::Measured).await?;
    let descriptor = Descriptor::new(id, Timestamp::now());
    if descriptor.create(store).await? == Created::NameTaken {
        // Somebody else was faster.
        if !store.keeps_new() {
            clear(store, announced).await?;
            forget(store, announced).await?;
        }
        return Err(descriptor::exists(store));
    }
    if let Err(error) = clear_others(store, &descriptor, Timestamp::MIN, Mode::Run).await {
        tracing::warn!(error = error.chain(), "what earlier inits left stays until `remora gc` removes it");
    }
    Ok(id)
}

/// Whether there is a VM of any tenant.
async fn holds_vms(store: &Store) -> Result<bool> {
    for tenant in store.children(&Path::from(names::TENANTS)).await? {
        let Some(tenant) = Folder::parse(&tenant) else { continue };
        if has_vms(store, tenant).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a tenant has a VM: then there was a repository once, whose descriptor was lost and may be put back.
async fn has_vms(store: &Store, tenant: Folder) -> Result<bool> {
    let children = store.children(&names::tenant(tenant)).await?;
    Ok(children.iter().any(|name| Folder::parse(name).is_some()))
}

/// Removes what inits that came to nothing have stored. One that is still at work may store its slot yet: what it
/// announced is forgotten only if it was announced before `long_ago`.
pub(crate) async fn clear_others(
    store: &Store,
    descriptor: &Descriptor,
    long_ago: Timestamp,
    mode: Mode,
) -> Result<Leftovers> {
    let mut found = Leftovers::default();
    for object in store.listed(&Path::from(INITS)).await? {
        let Some(announced) = Announced::parse(&object.name) else { continue };
        let ours = announced.repository == descriptor.id;
        // Nobody tries to remove what the store keeps, nor what a repository needs.
        if !ours && (store.keeps_new() || has_vms(store, announced.tenant).await?) {
            continue;
        }
        if !ours {
            for name in announced.objects() {
                found.add(store.size(&name).await?);
            }
        }
        if mode == Mode::DryRun {
            continue;
        }
        if !ours {
            clear(store, announced).await?;
        }
        if ours || object.stored < long_ago {
            forget(store, announced).await?;
        }
    }
    Ok(found)
}

impl Announced {
    fn objects(self) -> [Path; 2] {
        [self.slot.path(), names::tenant_key(self.tenant)]
    }
}

async fn clear(store: &Store, announced: Announced) -> Result<()> {
    for name in announced.objects() {
        store.remove(&name).await?;
    }
    store.remove_empty(&names::tenant(announced.tenant));
    Ok(())
}

/// Forgets what was announced.
async fn forget(store: &Store, announced: Announced) -> Result<()> {
    store.remove(&announced.path()).await?;
    store.remove_empty(&Path::from(INITS));
    Ok(())
}
