//! Components are compiled in a process of their own, which has no rights, and whose time and memory end: a compiler reads what it is
//! given, and takes as much of both as that makes it take. Its other side is `movers/child/compile.rs`.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::libc;
use remora_core::{Error, ErrorKind, Result};

use super::module::{Digest, FETCH_AGAIN, ModuleBytes};
use crate::program::plugin_host;

/// The argument by which `remora-plugin-host` knows that it is to compile.
pub(crate) const COMPILE: &str = "compile";

/// An answer that ends with this is compiled code.
pub(crate) const COMPILED: u8 = 1;
/// One that ends with this says what is wrong with the component.
pub(crate) const INVALID: u8 = 2;
/// One that ends with this says what is wrong with the machine.
pub(crate) const FAILED: u8 = 3;

/// A process that does not end is given up after so long, however little it was given to do: its time is measured in what
/// it used of a processor.
const GIVEN_UP: Duration = Duration::from_mins(5);

/// One that was given up is left alone for so long: everything else in the folder waits meanwhile.
const REST: Duration = Duration::from_hours(1);

/// So a program of Rust's ends that panicked.
const PANICKED: i32 = 101;

/// What is compiled of a component may be at most so large: an interpreter with a program in it has some 50 MiB.
const LARGEST_CODE: usize = 128 << 20;

/// What a component may take of a processor while other policies wait for it: one of Rust takes 0.1 s.
const SECONDS_AT_ONCE: u64 = 1;

/// What compiling one component may take.
#[derive(Clone, Copy, Debug)]
pub struct CompileLimits {
    /// Seconds of processor time.
    pub seconds: u64,
    /// Bytes of memory.
    pub memory: u64,
}

impl Default for CompileLimits {
    /// An interpreter with a program in it takes 12 s and 330 MiB.
    fn default() -> Self {
        Self { seconds: 60, memory: 512 << 20 }
    }
}

/// What starts those processes.
pub(super) struct Compiler {
    program: Option<PathBuf>,
    limits: CompileLimits,
    /// Why components are not compiled again that took too much: whoever follows a folder would, at each change of anything in it.
    /// Some may be once that instant is past.
    too_much: Mutex<HashMap<Digest, (String, Option<Instant>)>>,
}

impl Compiler {
    pub(super) fn new(program: Option<PathBuf>, limits: CompileLimits) -> Self {
        Self { program, limits, too_much: Mutex::default() }
    }

    /// Native code of a component. Waits for it.
    pub(super) fn compile(&self, component: &ModuleBytes<'_>) -> Result<Vec<u8>> {
        match self.attempt(component, self.limits)? {
            Attempt::Done(code) => Ok(code),
            Attempt::TooMuch(why) => {
                self.remember(component.digest, &why, None);
                Err(took_too_much(why))
            }
        }
    }

    /// Likewise; none if it takes more than a second of a processor.
    pub(super) fn compile_at_once(&self, component: &ModuleBytes<'_>) -> Result<Option<Vec<u8>>> {
        let limits = CompileLimits { seconds: self.limits.seconds.min(SECONDS_AT_ONCE), ..self.limits };
        Ok(match self.attempt(component, limits)? {
            Attempt::Done(code) => Some(code),
            Attempt::TooMuch(_) => None,
        })
    }

    fn attempt(&self, component: &ModuleBytes<'_>, limits: CompileLimits) -> Result<Attempt> {
        let known = self.too_much.lock().unwrap_or_else(PoisonError::into_inner).get(&component.digest).cloned();
        match known {
            Some((why, None)) => return Err(took_too_much(why)),
            Some((why, Some(until))) if Instant::now() < until => return Err(failed(why)),
            Some(_) | None => {}
        }
        let program = self.program.clone().map_or_else(plugin_host, Ok)?;
        let (status, answer) = run(&program, limits, &component.bytes)?;
        if let Some(why) = exceeded(status, &answer, limits) {
            return Ok(Attempt::TooMuch(why));
        }
        let mut answer = answer.map_err(|error| {
            let why = format!("{error} ({status})");
            if error.kind() == io::ErrorKind::TimedOut {
                self.remember(component.digest, &why, Some(Instant::now() + REST));
            }
            failed(why)
        })?;
        match (answer.pop(), status.success()) {
            (Some(COMPILED), true) => Ok(Attempt::Done(answer)),
            (Some(INVALID), true) => Err(Error::new(ErrorKind::Invalid, "it is no valid component")
                .because(String::from_utf8_lossy(&answer).into_owned())
                .advise(FETCH_AGAIN)),
            (Some(FAILED), true) => Err(failed(String::from_utf8_lossy(&answer).into_owned())),
            _ => Err(failed(format!("its process ended without an answer ({status})"))),
        }
    }

    fn remember(&self, component: Digest, why: &str, until: Option<Instant>) {
        self.too_much.lock().unwrap_or_else(PoisonError::into_inner).insert(component, (why.to_owned(), until));
    }
}

/// It lies at the machine: another time it may go well.
fn failed(why: String) -> Error {
    Error::new(ErrorKind::Unavailable, "compiling the component").because(why)
}

/// What came of a component within limits.
enum Attempt {
    Done(Vec<u8>),
    /// Which of them it met.
    TooMuch(String),
}

fn took_too_much(why: String) -> Error {
    Error::new(ErrorKind::Invalid, "compiling the component takes too much")
        .because(why)
        .advise("Ask who made it for a smaller one. This one is not compiled again before remora is restarted.")
}

/// Which limit was met, if one was; or that the compiler itself broke, which it would do again.
fn exceeded(status: ExitStatus, answer: &io::Result<Vec<u8>>, limits: CompileLimits) -> Option<String> {
    if answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::FileTooLarge) {
        return Some(format!("what is made of it is larger than {} MiB", LARGEST_CODE >> 20));
    }
    if status.code() == Some(PANICKED) {
        return Some("the compiler broke on it".into());
    }
    match status.signal()? {
        libc::SIGBUS | libc::SIGILL | libc::SIGFPE => Some("the compiler broke on it".into()),
        libc::SIGXCPU => Some(format!("it took more than {} s of processor time", limits.seconds)),
        // So ends a program of Rust's that is given no memory, or whose stack cannot grow.
        libc::SIGABRT | libc::SIGSEGV => {
            Some(format!("it took more than {} MiB of memory, or nests too deep", limits.memory >> 20))
        }
        _ => None,
    }
}

/// Starts the program, hands it a component, and waits for its end. How it ended, and what it said.
fn run(program: &Path, limits: CompileLimits, component: &[u8]) -> Result<(ExitStatus, io::Result<Vec<u8>>)> {
    let cannot = |e| {
        Error::io(format!("starting {}, which compiles components", program.display()), e)
            .advise("It lies beside the other programs of remora: install all of them.")
    };
    let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
    let mut command = Command::new(program);
    command.args([limits.memory.to_string(), COMPILE.to_owned(), limits.seconds.to_string()]);
    command.env_clear().current_dir("/").stdin(Stdio::from(OwnedFd::from(theirs)));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(cannot)?;
    // It holds a copy of the child's end of the socket, and would keep it open.
    drop(command);
    let answer = converse(&ours, component);
    // Of one that has closed its socket nothing more is wanted; how one ended that has ended stays.
    child.kill().ok();
    let status = child.wait().map_err(|e| Error::io("waiting for the process that compiles", e))?;
    Ok((status, answer))
}

/// Says what is to be compiled, and hears what came of it.
fn converse(mut socket: &UnixStream, component: &[u8]) -> io::Result<Vec<u8>> {
    let until = Instant::now() + GIVEN_UP;
    socket.set_write_timeout(Some(GIVEN_UP))?;
    socket.write_all(component)?;
    socket.shutdown(Shutdown::Write)?;
    let (mut answer, mut piece) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it was not done within five minutes"));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if answer.len() > LARGEST_CODE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}
