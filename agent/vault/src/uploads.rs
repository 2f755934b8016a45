//! Storing segments in the background, a few at once.

use std::sync::{Arc, Mutex, PoisonError};

use remora_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::manifest::SegmentEntry;
use crate::names::{self, Folder};
use crate::segment::build::Built;
use crate::store::{Created, Store};

/// Segments that are being sent at the same time: one more hides the time of a sync.
const AT_ONCE: usize = 2;

/// The same, and those that a mover's store looks at once they are sent: one more hides the time of that.
const UNDER_WAY: usize = AT_ONCE + 1;

/// The segments of one run on their way into the store.
pub(crate) struct Uploads {
    store: Store,
    tenant: Folder,
    vm: Folder,
    places: Arc<Semaphore>,
    under_way: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tasks: JoinSet<Result<()>>,
    segments: Vec<SegmentEntry>,
}

impl Uploads {
    pub(crate) fn new(store: Store, tenant: Folder, vm: Folder) -> Self {
        let [places, under_way] = [AT_ONCE, UNDER_WAY].map(|most| Arc::new(Semaphore::new(most)));
        Self { store, tenant, vm, places, under_way, state: Mutex::default() }
    }

    /// Starts to store a segment, once there is a place. Reports what failed before.
    pub(crate) async fn push(&self, built: Built) -> Result<()> {
        let under_way = Arc::clone(&self.under_way).acquire_owned().await.expect("the semaphore is never closed");
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        let (store, name) = (self.store.clone(), names::segment(self.tenant, self.vm, built.id, 0));
        let entry = SegmentEntry { id: built.id.0, holds: built.holds.into(), len: built.len };
        let mut state = self.lock();
        while let Some(done) = state.tasks.try_join_next() {
            joined(done)?;
        }
        state.segments.push(entry);
        state.tasks.spawn(async move {
            let _under_way = under_way;
            // Our own PUT, repeated by the store's client after a lost reply, has our bytes: 128 random bits do not meet.
            match store.create_from(place, &name, built.payload).await? {
                Created::Yes => Ok(()),
                #[cfg(test)]
                Created::NameTaken if crate::simulation::has(crate::simulation::Bug::SkipIfExists) => Ok(()),
                Created::NameTaken => {
                    Err(store.damaged(&name, "it is there already, with other bytes than are stored"))
                }
            }
        });
        Ok(())
    }

    /// Waits until those that were pushed are stored. If it is dropped before, they are given up.
    pub(crate) async fn settle(&self) -> Result<()> {
        let mut tasks = std::mem::take(&mut self.lock().tasks);
        while let Some(done) = tasks.join_next().await {
            joined(done)?;
        }
        Ok(())
    }

    /// Waits until all are stored.
    pub(crate) async fn finish(self) -> Result<Vec<SegmentEntry>> {
        self.settle().await?;
        Ok(self.state.into_inner().unwrap_or_else(PoisonError::into_inner).segments)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn joined(done: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    done.map_err(|e| Error::new(ErrorKind::Failed, "storing a segment").because(e))?
}
