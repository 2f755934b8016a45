//! A least-recently-used cache bounded by bytes, whose values are each loaded once.

use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::OnceCell;

/// Values that know what they weigh.
pub(crate) trait Weight {
    /// Bytes of memory, about.
    fn weight(&self) -> u64;
}

/// The cache. Values are cheap to clone.
pub(crate) struct Cache<K, V> {
    state: Mutex<State<K, V>>,
    limit: u64,
}

struct State<K, V> {
    cells: LruCache<K, Arc<OnceCell<V>>>,
    weight: u64,
}

impl<K: Hash + Eq + Clone, V: Weight + Clone> Cache<K, V> {
    /// A cache of at most `limit` bytes (and one value more).
    pub(crate) fn new(limit: u64) -> Self {
        Self { state: Mutex::new(State { cells: LruCache::unbounded(), weight: 0 }), limit }
    }

    /// The value, loaded by `load` if it is not there. Callers that come at the same time share one load; an error is
    /// not kept.
    pub(crate) async fn get<E, F>(&self, key: K, load: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let cell = Arc::clone(self.lock().cells.get_or_insert(key.clone(), Arc::default));
        let mut loaded_here = false;
        let loading = cell.get_or_try_init(|| async {
            let value = load().await?;
            loaded_here = true;
            Ok(value)
        });
        let value = loading.await.cloned();
        match &value {
            Ok(value) if loaded_here => self.account(&key, value.weight()),
            Err(_) => self.forget_empty(&key),
            Ok(_) => {}
        }
        value
    }

    /// The value, if it is there.
    pub(crate) fn peek(&self, key: &K) -> Option<V> {
        self.lock().cells.get(key).and_then(|cell| cell.get().cloned())
    }

    /// Puts a value that was loaded otherwise.
    pub(crate) fn put(&self, key: &K, value: V) {
        if self.peek(key).is_some() {
            return;
        }
        let weight = value.weight();
        self.lock().cells.put(key.clone(), Arc::new(OnceCell::new_with(Some(value))));
        self.account(key, weight);
    }

    /// Forgets a value, so that it is loaded again.
    pub(crate) fn forget(&self, key: &K) {
        let mut state = self.lock();
        if let Some(cell) = state.cells.pop(key) {
            state.weight = state.weight.saturating_sub(cell.get().map_or(0, Weight::weight));
        }
    }

    /// Counts a value that was just loaded, and drops the oldest ones over the limit.
    fn account(&self, key: &K, weight: u64) {
        let mut state = self.lock();
        if !state.cells.contains(key) {
            return;
        }
        state.weight += weight;
        while state.weight > self.limit && state.cells.len() > 1 {
            let Some((_, cell)) = state.cells.pop_lru() else { break };
            state.weight -= cell.get().map_or(0, Weight::weight);
        }
    }

    fn forget_empty(&self, key: &K) {
        let mut state = self.lock();
        if state.cells.peek(key).is_some_and(|cell| !cell.initialized()) {
            state.cells.pop(key);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    impl Weight for u64 {
        fn weight(&self) -> u64 {
            *self
        }
    }

    #[test]
    fn it_loads_once_and_drops_the_oldest_over_the_limit() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let cache = Cache::new(100);
            for key in 0..4_u8 {
                assert_eq!(cache.get(key, || async { Ok::<_, Infallible>(40) }).await, Ok(40));
            }
            assert_eq!(cache.peek(&0), None);
            assert_eq!(cache.peek(&3), Some(40));
            assert_eq!(cache.get(3, || async { panic!("loaded twice") }).await, Ok::<_, Infallible>(40));
        });
    }

    #[test]
    fn an_error_is_not_kept() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let cache = Cache::new(100);
            assert_eq!(cache.get(1_u8, || async { Err::<u64, _>("no") }).await, Err("no"));
            assert_eq!(cache.get(1, || async { Ok::<_, &str>(5) }).await, Ok(5));
        });
    }
}
