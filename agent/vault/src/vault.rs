//! The vault as a [`Mover`]: making, opening and asking repositories.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use object_store::ObjectStore;
use remora_core::ports::{
    Damage, DamagedPoint, Effect, History, LineageBreak, Listing, Mended, Mover, NewPoint, PointReader, PointWriter,
    Progress, VerifyReport, VmDisks,
};
use remora_core::{ByteRange, DiskName, Error, ErrorKind, PointId, RepositoryId, Result, VmName};
use serde::Serialize;

use crate::descriptor;
use crate::diff;
use crate::immutable;
use crate::init;
use crate::keyring::{self, Keyring};
use crate::location::Location;
use crate::manifest::{Entry, Lost};
use crate::names;
use crate::reader::Reader;
use crate::repair;
use crate::repository::{Repository, VaultOptions};
use crate::salvage::Salvage;
use crate::sample::Depth;
use crate::secret::Secret;
use crate::seen::Seen;
use crate::settings::{Immutable, Settings};
use crate::store::{Created, Store};
use crate::tenant::{self, Tenant};
use crate::verify::Verifier;
use crate::workers::Workers;
use crate::writer::Writer;

/// How many missing entries of a VM are told.
pub(crate) const GAPS_TOLD: usize = 1000;
/// How many manifests are read at once.
pub(crate) const MANIFEST_FETCHES: usize = 16;

/// What a repository is and holds.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its id.
    pub id: RepositoryId,
    /// The version of its format.
    pub format: u32,
    /// When it was made.
    pub created: Timestamp,
    /// How many key slots open it.
    pub key_slots: usize,
    /// How many VMs have points.
    pub vms: usize,
    /// How many points there are.
    pub points: usize,
    /// How many objects are in the store.
    pub objects: u64,
    /// The bytes of all objects.
    pub bytes: u64,
    /// How long what is stored cannot be deleted, in days; none if it can.
    pub immutable_days: Option<i64>,
    /// Until when all that points need cannot be deleted; none if that is not known of every VM.
    pub locked_until: Option<Timestamp>,
}

/// An open repository. Cheap to clone.
#[derive(Clone)]
pub struct Vault(pub(crate) Arc<Repository>);

impl Vault {
    /// Makes a repository at `location`, opened by `secret`. The descriptor is stored last, so that what an interrupted
    /// call left is no repository, and the same call again makes one.
    pub async fn init(location: &Location, secret: &Secret, immutable: Option<Immutable>) -> Result<RepositoryId> {
        if let Some(folder) = location.folder() {
            let made = tokio::fs::create_dir_all(folder).await;
            made.map_err(|e| Error::io(format!("making the folder {location}"), e))?;
        }
        Self::init_immutable(&Store::open(location)?, secret, immutable).await
    }

    #[cfg(test)]
    pub(crate) async fn init_in(store: &Store, secret: &Secret) -> Result<RepositoryId> {
        Self::init_immutable(store, secret, None).await
    }

    pub(crate) async fn init_immutable(
        store: &Store,
        secret: &Secret,
        immutable: Option<Immutable>,
    ) -> Result<RepositoryId> {
        init::init(store, secret, immutable).await
    }

    /// Opens the repository at `location` for the tenant `default`.
    pub async fn open(location: &Location, secret: &Secret, options: VaultOptions) -> Result<Self> {
        Self::open_in(Store::open(location)?, secret, options).await
    }

    /// Opens the repository in a store of the caller's: one that counts, or keeps only a part. For measurements.
    pub async fn open_over(store: Arc<dyn ObjectStore>, secret: &Secret, options: VaultOptions) -> Result<Self> {
        Self::open_in(Store::over(store), secret, options).await
    }

    pub(crate) async fn open_in(store: Store, secret: &Secret, options: VaultOptions) -> Result<Self> {
        Keyring::open_in(store, secret).await?.vault(&Tenant::default(), options).await
    }

    /// Verifies any number of points, reading what they share once.
    pub fn verifier(&self, depth: Depth) -> Verifier {
        Verifier::new(Arc::clone(&self.0), depth)
    }

    /// Notes what a verification found lost of a point, if that is its VM's newest: the next backup rereads, and stores
    /// it again. Says whether there was something to note.
    pub async fn note_lost(&self, point: &PointId, damage: &[Damage]) -> Result<bool> {
        let lost = damage.iter().filter(|damage| damage.effect == Effect::Lost);
        let segments: BTreeSet<_> = lost.filter_map(|damage| names::segment_of(&damage.object)).collect();
        let vm = self.0.point(point).await?.0.point.vm;
        let newest = self.history(&vm).await?.newest;
        if segments.is_empty() || newest.is_none_or(|newest| newest.id != *point) {
            return Ok(false);
        }
        let lost = Lost { time: Timestamp::now(), segments: segments.into_iter().collect() };
        self.0.append_next(&vm, &Entry::Lost(lost)).await.map(|()| true)
    }

    /// Opens a point to read all of it that is not lost.
    pub async fn salvage(&self, point: &PointId) -> Result<Salvage> {
        Ok(Salvage::of(Reader::open(Arc::clone(&self.0), point).await?))
    }

    /// Sets how long what is stored cannot be deleted, from now on. What is stored already stays as it is until the next
    /// backup or collection of its VM keeps it longer.
    pub async fn set_immutable(&self, immutable: Option<Immutable>) -> Result<()> {
        self.0.set_immutable(immutable).await
    }

    /// What the repository is and holds.
    pub async fn status(&self) -> Result<Status> {
        let store = &self.0.store;
        let (objects, bytes) = store.usage().await?;
        let points = self.list(None).await?.points;
        let mut vms: Vec<_> = points.iter().map(|p| &p.vm).collect();
        vms.dedup();
        Ok(Status {
            id: self.0.descriptor.id,
            format: descriptor::FORMAT,
            created: self.0.descriptor.created,
            key_slots: keyring::count(store).await?,
            vms: vms.len(),
            points: points.len(),
            objects,
            bytes,
            immutable_days: self.0.settings.immutable.map(Immutable::days),
            locked_until: match self.0.settings.immutable {
                Some(_) => immutable::locked_until(&self.0).await?,
                None => None,
            },
        })
    }
}

impl Keyring {
    /// Opens the repository for a tenant; `NotFound` if it is not known.
    pub async fn vault(&self, tenant: &Tenant, options: VaultOptions) -> Result<Vault> {
        let (keys, store, descriptor) = (self.keys(), self.store.clone(), self.descriptor.clone());
        let folder = tenant.folder(&keys);
        let keys = tenant::open(&store, &keys, descriptor.id, folder).await?.ok_or_else(|| {
            if *tenant == Tenant::default() {
                return store.damaged(&names::tenant_key(folder), "it is missing");
            }
            Error::new(ErrorKind::NotFound, format!("repository {} has no tenant {tenant}", store.place()))
        })?;
        let settings = Settings::read(&store, self.keys().settings, descriptor.id).await?;
        let workers = Workers::new();
        let seen = Seen::of(options.state.as_deref(), descriptor.id, store.place());
        Ok(Vault(Arc::new(Repository { store, descriptor, tenant: folder, keys, settings, workers, options, seen })))
    }

    /// Adds a tenant with a data key of its own; `Exists` if there is one of that name.
    pub async fn add_tenant(&self, tenant: &Tenant) -> Result<()> {
        match tenant::create(&self.store, &self.keys(), self.descriptor.id, tenant).await? {
            Created::Yes => Ok(()),
            Created::NameTaken => Err(Error::new(ErrorKind::Exists, format!("there is a tenant {tenant} already"))),
        }
    }
}

#[async_trait]
impl Mover for Vault {
    fn repository(&self) -> RepositoryId {
        self.0.descriptor.id
    }

    async fn list(&self, vm: Option<&VmName>) -> Result<Listing> {
        let folders = match vm {
            Some(vm) => vec![self.0.folder(vm)],
            None => self.0.vms().await?,
        };
        let mut listing = Listing::default();
        for folder in folders {
            let sequence = self.0.sequence(folder).await?;
            for number in sequence.gaps().take(GAPS_TOLD) {
                listing.unreadable.push((PointId::new(folder.hex(), number)?, self.0.gap(folder, &sequence, number)));
            }
            let entries = stream::iter(sequence.counting())
                .map(|sequence| async move { (sequence, self.0.manifest(folder, sequence).await) });
            let mut entries = entries.buffered(MANIFEST_FETCHES);
            while let Some((sequence, stored)) = entries.next().await {
                match stored {
                    Ok(stored) => listing.points.extend(stored.and_then(|s| s.manifest.into_point()).map(|e| e.point)),
                    Err(error) if error.kind() == ErrorKind::Damaged => {
                        listing.unreadable.push((PointId::new(folder.hex(), sequence)?, error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        listing.points.sort_by(|a, b| (&a.vm, a.id.sequence()).cmp(&(&b.vm, b.id.sequence())));
        // No manifest tells how its segments were stored, so all of them are.
        if self.0.store.is_behind_a_mover() {
            listing.sampled = listing.points.iter().map(|point| point.id.clone()).collect();
        }
        Ok(listing)
    }

    async fn history(&self, vm: &VmName) -> Result<History> {
        let folder = self.0.folder(vm);
        self.0.newest(folder, &self.0.sequence(folder).await?).await
    }

    async fn record_break(&self, vm: &VmName, broken: LineageBreak) -> Result<()> {
        self.0.append_next(vm, &Entry::Break(broken)).await
    }

    async fn begin(&self, point: NewPoint) -> Result<Box<dyn PointWriter>> {
        Ok(Box::new(Writer::begin(Arc::clone(&self.0), point).await?))
    }

    async fn open(&self, point: &PointId) -> Result<Arc<dyn PointReader>> {
        Ok(Arc::new(Reader::open(Arc::clone(&self.0), point).await?))
    }

    async fn diff(&self, from: &PointId, to: &PointId, disk: &DiskName) -> Result<Vec<ByteRange>> {
        if from.vm() != to.vm() {
            return Err(Error::new(ErrorKind::Invalid, format!("points {from} and {to} are of different VMs"))
                .advise("Compare two points of one VM."));
        }
        let from = Reader::open(Arc::clone(&self.0), from).await?;
        let to = Reader::open(Arc::clone(&self.0), to).await?;
        diff::diff(&from, &to, disk).await
    }

    async fn verify(&self, point: &PointId, progress: Arc<dyn Progress>) -> Result<VerifyReport> {
        self.verifier(Depth::All).point(point, progress.as_ref()).await
    }

    async fn repair(&self, damaged: &[DamagedPoint], disks: VmDisks<'_>) -> Result<Vec<Mended>> {
        repair::repair(self, damaged, disks).await
    }
}
