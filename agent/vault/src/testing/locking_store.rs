//! The locks of the store in memory: what is kept, by its clock, with the same faults.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;
use object_store::{Error, ObjectStore, PutMode, PutOptions, PutPayload, Result};

use super::FaultyStore;
use crate::Vault;
use crate::store::{Locks, Store, Version, What, rounded};

/// The locks of a store. It keeps one version of each object.
#[derive(Clone, Debug)]
pub(crate) struct LockingStore {
    pub(crate) objects: FaultyStore,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    kept: HashMap<Path, Timestamp>,
    /// The locked objects that somebody tried to remove.
    tried: Vec<Path>,
}

impl LockingStore {
    pub(crate) fn new() -> Self {
        Self { objects: FaultyStore::new(), state: Arc::default() }
    }

    /// A copy with the same objects, locks and clock, in which nothing went wrong.
    pub(crate) fn fork(&self) -> Self {
        Self { objects: self.objects.fork(), state: Arc::new(Mutex::new(self.lock().clone())) }
    }

    pub(crate) fn store(&self) -> Store {
        Store::locking_over(Arc::new(self.objects.clone()), Some(Arc::new(self.clone())))
    }

    /// The same repository in this store, with nothing cached.
    pub(crate) fn over(&self, vault: &Vault) -> Vault {
        let store = self.store();
        store.keep_new_for(vault.0.settings.immutable.map(crate::settings::Immutable::time));
        super::over_store(vault, store)
    }

    /// Until when an object is kept.
    pub(crate) fn kept(&self, name: &Path) -> Option<Timestamp> {
        self.lock().kept.get(name).copied()
    }

    /// That nothing that is locked was removed, and nobody tried.
    pub(crate) async fn assert_locks_held(&self, context: &str) {
        let (there, now) = (self.objects.objects().await, self.objects.now());
        let State { kept, tried } = self.lock().clone();
        // Trials are tried.
        let trial = |name: &Path| name.as_ref().starts_with(crate::names::TRIALS);
        assert!(tried.iter().all(trial), "{context}: {tried:?}");
        for (name, until) in kept.into_iter().filter(|(name, _)| !trial(name)) {
            assert!(until <= now || there.contains_key(name.as_ref()), "{context}: {name} is kept until {until}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(why: &'static str) -> Error {
    Error::Generic { store: "test", source: why.into() }
}

#[async_trait]
impl Locks for LockingStore {
    async fn put_new(&self, name: &Path, payload: PutPayload, keep_for: SignedDuration) -> Result<()> {
        let work = async {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.objects.put_unharmed(name, payload, options).await?;
            self.lock().kept.insert(name.clone(), rounded(self.objects.now(), keep_for));
            Ok(())
        };
        self.objects.take(work).await
    }

    async fn kept_until(&self, name: &Path, _: Option<&str>) -> Result<Option<Timestamp>> {
        self.objects.take(async { Ok(self.kept(name)) }).await
    }

    async fn keep_until(&self, name: &Path, _: &str, until: Timestamp) -> Result<()> {
        let work = async {
            let mut state = self.lock();
            match state.kept.get(name) {
                Some(there) if *there > until => Err(refused("the object is locked for longer")),
                _ => {
                    state.kept.insert(name.clone(), until);
                    Ok(())
                }
            }
        };
        self.objects.take(work).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<Version>> {
        let all: Vec<_> = self.objects.list(None).try_collect().await?;
        let found = all.into_iter().filter(|object| object.location.as_ref().starts_with(prefix));
        let version = |object: object_store::ObjectMeta| Version {
            stored: Timestamp::from_microsecond(object.last_modified.timestamp_micros()).expect("it is of our days"),
            what: What::Data(object.size),
            name: object.location,
            id: "only".into(),
            latest: true,
        };
        Ok(found.map(version).collect())
    }

    async fn remove_version(&self, name: &Path, _: &str) -> Result<()> {
        if self.kept(name).is_some_and(|until| until > self.objects.now()) {
            self.lock().tried.push(name.clone());
            return Err(refused("the object is locked"));
        }
        let one = futures::stream::iter([Ok(name.clone())]);
        self.objects.delete_stream(Box::pin(one)).try_collect::<Vec<_>>().await.map(drop)
    }
}
