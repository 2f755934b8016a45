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

/// An argument of the process that is to remove checkpoints. To the test harness it looks like the name of another test.
const RETIRER: &str = "as-retirer";

/// An argument of the process that is to listen on its standard input.
const LISTENER: &str = "as-listener";

fn is_told(what: &str) -> bool {
    std::env::args().any(|argument| argument == what)
}

/// This test binary, run as what removes checkpoints of another test's VM.
#[test]
fn retirer_process() {
    if is_told(RETIRER) {
        std::process::exit(remora_source::kubevirt::retire_main().into());
    }
}

/// The command for that, which any user can run as the product's.
fn retirer() -> Vec<std::ffi::OsString> {
    let command = ["/proc/self/exe", "--exact", "retirer_process", RETIRER, "--nocapture", "--quiet"];
    command.map(std::ffi::OsString::from).into()
}

/// This test binary, run as a user whose socket another test's VM is to have.
#[test]
fn listener_process() {
    if is_told(LISTENER) {
        nix::sys::socket::listen(&std::io::stdin(), nix::sys::socket::Backlog::MAXCONN).unwrap();
    }
}
