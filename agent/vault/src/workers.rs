//! A bounded pool for CPU work, off the async threads.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Runs at most as many pieces of CPU work at once as there are cores. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Workers(Arc<Semaphore>);

impl Workers {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self(Arc::new(Semaphore::new(cores)))
    }

    /// Runs `work` once a core is free. A panic in it is passed on.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        #[cfg(test)]
        if crate::simulation::is_running() {
            return work();
        }
        let permit = Arc::clone(&self.0).acquire_owned().await.expect("the semaphore is never closed");
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        match task.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Blocking tasks are cancelled only while the runtime shuts down, when nobody waits any more.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
