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
    cells: LruCache<K, Entry<V>>,
    /// Of all that was counted.
    weight: u64,
}

struct Entry<V> {
    cell: Arc<OnceCell<V>>,
    /// What was counted for it: nothing until whoever loads it has.
    counted: u64,
}

impl<V> Entry<V> {
    fn of(cell: OnceCell<V>) -> Self {
        Self { cell: Arc::new(cell), counted: 0 }
    }
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
        let cell = Arc::clone(&self.lock().cells.get_or_insert(key.clone(), || Entry::of(OnceCell::new())).cell);
        let mut loaded_here = false;
        let loading = cell.get_or_try_init(|| async {
            let value = load().await?;
            loaded_here = true;
            Ok(value)
        });
        let value = loading.await.cloned();
        match &value {
            Ok(value) if loaded_here => self.account(&key, &cell, value.weight()),
            Err(_) => self.forget_empty(&key),
            Ok(_) => {}
        }
        value
    }

    /// The value, if it is there.
    pub(crate) fn peek(&self, key: &K) -> Option<V> {
        self.lock().cells.get(key).and_then(|entry| entry.cell.get().cloned())
    }

    /// Puts a value that was loaded otherwise.
    pub(crate) fn put(&self, key: &K, value: V) {
        if self.peek(key).is_some() {
            return;
        }
        let (weight, entry) = (value.weight(), Entry::of(OnceCell::new_with(Some(value))));
        let cell = Arc::clone(&entry.cell);
        let mut state = self.lock();
        // Somebody may be loading it, or have put it meanwhile.
        let before = state.cells.put(key.clone(), entry);
        state.weight -= before.map_or(0, |entry| entry.counted);
        drop(state);
        self.account(key, &cell, weight);
    }

    /// Forgets a value, so that it is loaded again.
    pub(crate) fn forget(&self, key: &K) {
        let mut state = self.lock();
        if let Some(entry) = state.cells.pop(key) {
            state.weight -= entry.counted;
        }
    }

    /// Counts a value that was just loaded, and drops the oldest ones over the limit. Meanwhile it may have been dropped itself,
    /// and be loaded by somebody else, who counts it.
    fn account(&self, key: &K, cell: &Arc<OnceCell<V>>, weight: u64) {
        let mut state = self.lock();
        let Some(entry) = state.cells.peek_mut(key).filter(|entry| Arc::ptr_eq(&entry.cell, cell)) else { return };
        entry.counted = weight;
        state.weight += weight;
        while state.weight > self.limit && state.cells.len() > 1 {
            let Some((_, entry)) = state.cells.pop_lru() else { break };
            state.weight -= entry.counted;
        }
    }

    fn forget_empty(&self, key: &K) {
        let mut state = self.lock();
        if state.cells.peek(key).is_some_and(|entry| !entry.cell.initialized()) {
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

    /// Those who load a value that was dropped meanwhile, and loaded by others, count it for nobody.
    #[tokio::test]
    async fn a_value_that_goes_while_it_is_loaded_is_counted_once_or_not_at_all() {
        let cache = Cache::new(100);
        let load = async |cache: &Cache<u8, u64>, key, weight| {
            cache.get(key, || async move { Ok::<_, Infallible>(weight) }).await
        };
        let loaded = cache.get(0, || async {
            cache.forget(&0);
            load(&cache, 0, 40).await?;
            Ok::<_, Infallible>(40)
        });
        assert_eq!(loaded.await, Ok(40));
        let put = cache.get(1, || async {
            cache.put(&1, 30);
            Ok::<_, Infallible>(30)
        });
        assert_eq!(put.await, Ok(30));
        assert_eq!(cache.lock().weight, 40 + 30);
        // Over the limit, all but the last one go.
        load(&cache, 2, 101).await.unwrap();
        assert_eq!(cache.lock().weight, 101);
        assert_eq!(cache.lock().cells.len(), 1);
        cache.forget(&2);
        assert_eq!(cache.lock().weight, 0);
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
