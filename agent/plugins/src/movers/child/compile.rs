//! Compiles the component of a policy, and ends. The other side is `host/compile.rs`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::resource::{Resource, setrlimit};
use wasmtime::{Config, Engine};

use super::{lockdown, untold};
use crate::host::{COMPILED, FAILED, INVALID, sandbox};

/// How much longer it has than until it is told, by a signal, that its time is over: it never hears that.
const GRACE: u64 = 5;

/// Reads a component until its end, and says what comes of it, with what that is behind it.
pub(super) fn serve(mut socket: UnixStream, memory: Option<u64>, seconds: Option<u64>) -> io::Result<()> {
    let (mut said, what) = match lock_down(&socket, memory, seconds).and_then(|()| engine()) {
        Ok(engine) => {
            let mut component = Vec::new();
            socket.read_to_end(&mut component)?;
            match engine.precompile_component(&component) {
                Ok(code) => (code, COMPILED),
                Err(error) => (format!("{error:#}").into_bytes(), INVALID),
            }
        }
        Err(error) => {
            // Who is still being told something does not listen.
            io::copy(&mut socket, &mut io::sink())?;
            (error.to_string().into_bytes(), FAILED)
        }
    };
    said.push(what);
    socket.write_all(&said)
}

fn lock_down(socket: &UnixStream, memory: Option<u64>, seconds: Option<u64>) -> io::Result<()> {
    let (memory, seconds) = (memory.ok_or_else(untold)?, seconds.ok_or_else(untold)?);
    setrlimit(Resource::RLIMIT_CPU, seconds, seconds + GRACE)?;
    lockdown::lock_down(socket, memory)
}

/// As the host's, for what is made here runs there: how instances get their memory makes no difference to code.
fn engine() -> io::Result<Engine> {
    let mut config = Config::new();
    sandbox(&mut config);
    Engine::new(&config).map_err(|error| io::Error::other(format!("{error:#}")))
}
