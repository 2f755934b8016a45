//! The KubeVirt source with the whole engine and a vault on top, against a cluster that is a fake and a libvirt and QEMU
//! that are real: the fake starts the jobs that KubeVirt's launcher would, in a folder like a launcher pod's.

#![allow(clippy::unwrap_used, reason = "these are tests throughout")]

mod bench;
mod cluster;
mod ends;
mod hostile;
mod launcher;
mod liar;
mod runs;
mod starts;

/// Runs a test's future. Threads, for libvirt and the lab block.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}
