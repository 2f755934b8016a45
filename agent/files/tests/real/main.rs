//! Real FUSE mounts, and real appliances over real filesystems. Needs root, `/dev/fuse`, libguestfs and e2fsprogs.

#![allow(clippy::unwrap_used)]

mod appliance;
mod copying;
mod disks;
mod guest;
mod reader;

use std::time::{Duration, Instant};

/// Calls that wait for the filesystem must not sit on the runtime that serves it.
pub(crate) fn outside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = T> + Send {
    let started = tokio::task::spawn_blocking(work);
    async { started.await.unwrap() }
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(5);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
