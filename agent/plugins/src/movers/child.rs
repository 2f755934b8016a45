//! The child: a process that gives up every right, then runs one component for the host that started it, or only compiles one
//! (`compile.rs`).
//!
//! A thread reads what the host says; each instance has a thread of its own, which waits for the host whenever its component
//! calls an import. So imports are plain synchronous calls here, and what an instance waits for holds up no other. When the
//! socket ends, so does the process.

mod bindings;
mod compile;
mod compiled;
mod imports;
mod instance;
mod link;
mod lockdown;
mod objects;
mod runtime;
mod syscalls;
mod volumes;

use std::collections::HashMap;
use std::io::BufReader;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use super::wire::{self, Down, Unfit, Up};
use crate::host::COMPILE;
use instance::Handle;
use link::Link;
use runtime::Runtime;

/// The program `remora-plugin-host`. Its standard input is the socket, its first argument the bytes of memory that it may take. If
/// the second is `compile`, the third has the seconds of processor time.
pub fn main() -> ExitCode {
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    if socket.peer_addr().is_err() {
        eprintln!("remora-plugin-host is started by remora itself, and does nothing else");
        return ExitCode::from(2);
    }
    let mut args = std::env::args().skip(1);
    let memory = args.next().and_then(|bytes| bytes.parse().ok());
    let served = match args.next().as_deref() {
        Some(COMPILE) => compile::serve(socket, memory, args.next().and_then(|seconds| seconds.parse().ok())),
        _ => serve(socket, memory),
    };
    // A host that went away says nothing more, and there is nobody to tell.
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn untold() -> std::io::Error {
    std::io::Error::other("it was not told what it may take")
}

fn serve(socket: UnixStream, memory: Option<u64>) -> std::io::Result<()> {
    let locked = memory.ok_or_else(untold).and_then(|memory| lockdown::lock_down(&socket, memory));
    let mut from = BufReader::new(socket.try_clone()?);
    let link = Arc::new(Link::new(socket));
    let Some(Down::Start { component, compiled, world }) = wire::read(&mut from, wire::LONGEST_DOWN)? else {
        return Ok(());
    };
    let runtime = locked
        .map_err(|error| Unfit { component: false, why: format!("it kept rights: {error}"), advice: None })
        .and_then(|()| Runtime::new(&component, compiled.as_deref(), world));
    drop((component, compiled));
    let (runtime, compiled) = match runtime {
        Ok((runtime, compiled)) => (Arc::new(runtime), compiled),
        Err(unfit) => return link.say(&Up::Started(Err(unfit))),
    };
    // Before any of the component runs: see `compiled.rs` of the host.
    link.started(compiled)?;
    let mut instances: HashMap<u32, Handle> = HashMap::new();
    while let Some(said) = wire::read(&mut from, wire::LONGEST_DOWN)? {
        match said {
            Down::Start { .. } => return Err(std::io::ErrorKind::InvalidData.into()),
            Down::Call { instance, deadline_ms, sha256, call } => {
                let handle = instances.entry(instance).or_insert_with(|| Handle::spawn(instance, &runtime, &link));
                handle.call(call, sha256, deadline_ms);
            }
            Down::Told { instance, answer } => {
                if let Some(handle) = instances.get(&instance) {
                    handle.tell(answer);
                }
            }
            // Its thread ends by itself.
            Down::End { instance } => drop(instances.remove(&instance)),
        }
    }
    Ok(())
}
