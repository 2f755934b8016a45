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

/// Set for the process that is to remove checkpoints.
const RETIRER: &str = "REMORA_TEST_IS_RETIRER";

/// This test binary, run as what removes checkpoints of another test's VM.
#[test]
fn retirer_process() {
    if std::env::var_os(RETIRER).is_some() {
        std::process::exit(remora_source::kubevirt::retire_main().into());
    }
}

/// The command for that. What is added to it looks to the test harness like the name of another test.
fn retirer() -> Vec<std::ffi::OsString> {
    let own = std::env::current_exe().unwrap();
    let mut command = vec!["env".into(), format!("{RETIRER}=1").into(), own.into()];
    command.extend(["--exact", "retirer_process", "--nocapture", "--quiet"].map(Into::into));
    command
}
