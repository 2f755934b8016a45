//! One memory budget for every large buffer of a process.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that buffers may hold together. Cloning shares the budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    free: Arc<Semaphore>,
    total_kib: u32,
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub struct Reserved(#[allow(dead_code)] OwnedSemaphorePermit);

impl MemoryBudget {
    /// A budget of `bytes`, in whole KiB.
    pub fn new(bytes: u64) -> Self {
        let total_kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(total_kib as usize)), total_kib }
    }

    /// Waits until `bytes` are free and takes them. More than the whole budget takes all of it.
    pub async fn reserve(&self, bytes: u64) -> Reserved {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, self.total_kib);
        let permit = Arc::clone(&self.free).acquire_many_owned(kib).await;
        Reserved(permit.expect("the semaphore is never closed"))
    }

    /// What is free now, in bytes.
    pub fn available(&self) -> u64 {
        self.free.available_permits() as u64 * 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_comes_back_when_dropped() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let budget = MemoryBudget::new(10 * 1024);
            let share = budget.reserve(7 * 1024).await;
            assert_eq!(budget.available(), 3 * 1024);
            drop(share);
            let _all = budget.reserve(u64::MAX).await;
            assert_eq!(budget.available(), 0);
        });
    }
}
