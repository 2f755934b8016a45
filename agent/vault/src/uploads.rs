//! Storing segments in the background, a few at once.

use std::sync::{Arc, Mutex, PoisonError};

use remora_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use crate::manifest::SegmentEntry;
use crate::names::{self, Folder};
use crate::segment::build::Built;
use crate::store::{Created, Store};

/// Segments that are being sent at the same time: one more hides the time of a sync.
const AT_ONCE: usize = 2;

/// The same behind a mover: one more hides the time of the calls to its process.
const AT_ONCE_BY_A_MOVER: usize = AT_ONCE + 1;

/// Segments that a mover's store looks at once they are sent: one hides the time of that.
const LOOKED_AT: usize = 1;

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
    /// How many of the segments are stored.
    stored: usize,
}

impl State {
    /// Notes what became of one.
    fn note(&mut self, done: Result<Result<()>, JoinError>) -> Result<()> {
        done.map_err(|e| Error::new(ErrorKind::Failed, "storing a segment").because(e))??;
        self.stored += 1;
        Ok(())
    }
}

impl Uploads {
    pub(crate) fn new(store: Store, tenant: Folder, vm: Folder) -> Self {
        let (sent, looked_at) = if store.is_behind_a_mover() { (AT_ONCE_BY_A_MOVER, LOOKED_AT) } else { (AT_ONCE, 0) };
        let [places, under_way] = [sent, sent + looked_at].map(|most| Arc::new(Semaphore::new(most)));
        Self { store, tenant, vm, places, under_way, state: Mutex::default() }
    }

    /// Starts to store a segment, once there is a place. Reports what failed before. If it is dropped before, the segment is given
    /// up.
    pub(crate) async fn push(&self, built: Built) -> Result<()> {
        self.lock().segments.push(SegmentEntry { id: built.id.0, holds: built.holds.into(), len: built.len });
        let under_way = Arc::clone(&self.under_way).acquire_owned().await.expect("the semaphore is never closed");
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        let (store, name) = (self.store.clone(), names::segment(self.tenant, self.vm, built.id, 0));
        let mut state = self.lock();
        while let Some(done) = state.tasks.try_join_next() {
            state.note(done)?;
        }
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
            self.lock().note(done)?;
        }
        Ok(())
    }

    /// Waits until all are stored. Fails if one was given up before, or has failed: no point may name it.
    pub(crate) async fn finish(self) -> Result<Vec<SegmentEntry>> {
        self.settle().await?;
        let State { segments, stored, .. } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if stored != segments.len() {
            let what = format!("only {stored} of the point's {} segments are stored", segments.len());
            return Err(Error::new(ErrorKind::Failed, what));
        }
        Ok(segments)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use object_store::PutPayload;
    use object_store::memory::InMemory;

    use super::*;
    use crate::names::SegmentId;
    use crate::segment::footer::Holds;

    const FOLDER: Folder = Folder([7; 8]);

    fn segment(n: u8) -> Built {
        Built { id: SegmentId([n; 16]), holds: Holds::Chunks, payload: PutPayload::from(vec![n; 100]), len: 100 }
    }

    #[tokio::test]
    async fn a_segment_that_is_not_stored_is_in_no_point_whatever_is_asked_afterwards() {
        let store = Store::over(Arc::new(InMemory::new()));
        let uploads = || Uploads::new(store.clone(), FOLDER, FOLDER);
        let good = uploads();
        good.push(segment(1)).await.unwrap();
        good.settle().await.unwrap();
        assert_eq!(good.finish().await.unwrap().len(), 1);

        let taken = names::segment(FOLDER, FOLDER, SegmentId([2; 16]), 0);
        assert_eq!(store.create(&taken, PutPayload::from(vec![0; 3])).await.unwrap(), Created::Yes);
        let failed = uploads();
        failed.push(segment(2)).await.unwrap();
        assert_eq!(failed.settle().await.unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(failed.finish().await.unwrap_err().kind(), ErrorKind::Failed);

        let given_up = uploads();
        given_up.push(segment(3)).await.unwrap();
        assert!(given_up.settle().now_or_never().is_none(), "its task has not run yet");
        assert_eq!(given_up.finish().await.unwrap_err().kind(), ErrorKind::Failed);

        let full = uploads();
        full.push(segment(4)).await.unwrap();
        full.push(segment(5)).await.unwrap();
        assert!(full.push(segment(6)).now_or_never().is_none(), "there is no place for it yet");
        assert_eq!(full.finish().await.unwrap_err().kind(), ErrorKind::Failed);
    }
}
