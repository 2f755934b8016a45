//! The child as the host sees it: started, spoken to, and ended for certain.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use remora_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::compiled::Compiled;
use super::memory::Share;
use super::wire::{self, Ask, Done, Down, Fault, LONGEST_DOWN, LONGEST_STARTED, LONGEST_UP, Unfit, Up, World};

/// How long a child may take to give up its rights and compile the component.
const STARTING: Duration = Duration::from_mins(5);

/// How long the kernel may take to tell how a child ended, once its socket did.
const ENDING: Duration = Duration::from_secs(20);

/// What an instance says.
#[derive(Debug)]
pub(super) enum Said {
    Ask(Ask),
    Done(Result<Done, Fault>),
}

/// An instance says one thing and waits; one that does not wait is no child of ours.
const UNHEARD: usize = 2;

/// A running child, killed when this is dropped.
pub(super) struct Child {
    says: mpsc::UnboundedSender<Vec<u8>>,
    routes: Arc<Routes>,
    next: AtomicU32,
    running: KilledAfter,
    ended: watch::Receiver<Option<String>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// Which instance gets what is said.
#[derive(Default)]
struct Routes(Mutex<HashMap<u32, mpsc::Sender<Said>>>);

impl Routes {
    fn open(&self) -> MutexGuard<'_, HashMap<u32, mpsc::Sender<Said>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Child {
    /// Starts `program` and has it run `component`, which it compiles unless that is kept, with a share of the memory.
    pub(super) async fn start(
        program: &Path,
        component: &[u8],
        compiled: Option<&Compiled>,
        world: World,
        memory: Share,
    ) -> Result<Arc<Self>> {
        let failed = |e| Error::io("making a socket for a mover", e);
        let (ours, theirs) = StdStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let (from, to) = UnixStream::from_std(ours).map_err(failed)?.into_split();
        let mut from = BufReader::new(from);
        let (running, exit) = Running::spawn(program, theirs.into(), memory).await?;
        let (says, outgoing) = mpsc::unbounded_channel();
        let writer = AbortOnDropHandle::new(tokio::spawn(write(to, outgoing)));
        says.send(beginning(component, compiled.and_then(Compiled::get), world)?).ok();
        let killed = KilledAfter(Arc::clone(&running));
        match timeout(STARTING, read(&mut from, LONGEST_STARTED)).await {
            Ok(Ok(Some(Up::Started(Ok(made))))) => {
                if let (Some(compiled), Some(made)) = (compiled, made) {
                    compiled.put(&made);
                }
            }
            Ok(Ok(Some(Up::Started(Err(unfit))))) => return Err(refused(unfit)),
            Ok(Ok(None) | Err(_)) => return Err(gone(how(exit).await)),
            Ok(Ok(Some(_))) => return Err(gone("it said something else than that it has started".into())),
            Err(_) => return Err(gone(format!("it was not ready within {} s", STARTING.as_secs()))),
        }
        let routes = Arc::new(Routes::default());
        let (end, ended) = watch::channel(None);
        let (heard, process) = (Arc::clone(&routes), running);
        let reader = AbortOnDropHandle::new(tokio::spawn(async move {
            let broken = hear(&mut from, &heard).await;
            process.kill();
            let how = how(exit).await;
            end.send_replace(Some(broken.unwrap_or(how)));
            // Whoever waits for an answer learns it now.
            heard.open().clear();
        }));
        Ok(Arc::new(Self { says, routes, next: AtomicU32::new(0), running: killed, ended, _tasks: [writer, reader] }))
    }

    /// A number for an instance, and what it will say.
    pub(super) fn instance(&self) -> (u32, mpsc::Receiver<Said>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (say, hear) = mpsc::channel(UNHEARD);
        let mut routes = self.routes.open();
        if self.ended.borrow().is_none() {
            routes.insert(number, say);
        }
        (number, hear)
    }

    /// Says something. What a dead child does not hear is no matter: whoever waits for its answer is told.
    pub(super) fn say(&self, down: &Down) -> Result<()> {
        self.says.send(wire::frame(down, LONGEST_DOWN).ok_or_else(too_large)?).ok();
        Ok(())
    }

    /// An instance is not needed any more.
    pub(super) fn end(&self, instance: u32) {
        self.routes.open().remove(&instance);
        if let Some(frame) = wire::frame(&Down::End { instance }, LONGEST_DOWN) {
            self.says.send(frame).ok();
        }
    }

    /// Kills it: it did not do what even a hostile component cannot keep it from doing.
    pub(super) fn kill(&self) {
        self.running.0.kill();
    }

    /// How it ended, if it did.
    pub(super) fn end_of(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Its process.
    pub(super) fn pid(&self) -> Option<i32> {
        self.running.0.pid().map(Pid::as_raw)
    }
}

/// A process that ends when this is dropped, whatever it is doing.
struct KilledAfter(Arc<Running>);

impl Drop for KilledAfter {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// The first frame: with what is kept, if there is room for both.
fn beginning(component: &[u8], compiled: Option<Vec<u8>>, world: World) -> Result<Vec<u8>> {
    let frame = |compiled| {
        let start = Down::Start { component: component.to_vec(), compiled, world };
        wire::frame(&start, LONGEST_DOWN)
    };
    compiled.and_then(|code| frame(Some(code))).or_else(|| frame(None)).ok_or_else(too_large)
}

fn too_large() -> Error {
    Error::new(ErrorKind::Invalid, format!("what a mover is to be told is larger than {} MiB", LONGEST_DOWN >> 20))
}

fn refused(unfit: Unfit) -> Error {
    let kind = if unfit.component { ErrorKind::Invalid } else { ErrorKind::Failed };
    let error = Error::new(kind, "its component cannot be run").because(unfit.why);
    match unfit.advice {
        Some(advice) => error.advise(advice),
        None => error,
    }
}

fn gone(how: String) -> Error {
    Error::new(ErrorKind::Unavailable, "the process that runs the mover did not start").because(how)
}

async fn how(exit: oneshot::Receiver<ExitStatus>) -> String {
    match timeout(ENDING, exit).await {
        Ok(Ok(status)) => match status.signal() {
            Some(signal) => format!("its process was ended by signal {signal}"),
            None => format!("its process ended with code {}", status.code().unwrap_or_default()),
        },
        _ => "its process closed its socket".into(),
    }
}

/// Hands on what the child says, until it says nothing more or nonsense; then, what was wrong.
async fn hear(from: &mut BufReader<OwnedReadHalf>, routes: &Routes) -> Option<String> {
    loop {
        let (instance, said) = match read(from, LONGEST_UP).await {
            Ok(Some(Up::Ask { instance, ask })) => (instance, Said::Ask(ask)),
            Ok(Some(Up::Done { instance, outcome })) => (instance, Said::Done(outcome)),
            Ok(Some(Up::Started(_))) => return Some("its process said twice that it has started".into()),
            Ok(None) => return None,
            // What was under way to it when it was killed was never read.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => return Some(format!("its process spoke nonsense: {error}")),
        };
        let mut routes = routes.open();
        // One that was ended may still have said something.
        if let Some(route) = routes.get(&instance)
            && let Err(mpsc::error::TrySendError::Full(_)) = route.try_send(said)
        {
            routes.remove(&instance);
            return Some("its process did not wait for answers".into());
        }
    }
}

async fn read(from: &mut BufReader<OwnedReadHalf>, longest: u32) -> std::io::Result<Option<Up>> {
    let mut head = [0; 4];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let mut bytes = vec![0; wire::length(head, longest)?];
    from.read_exact(&mut bytes).await?;
    wire::message(&bytes).map(Some)
}

async fn write(mut to: OwnedWriteHalf, mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = outgoing.recv().await {
        if to.write_all(&frame).await.is_err() {
            // The reader learns of it, and tells how it ended.
            return;
        }
    }
}

/// The process, for whoever kills it. Its number is kept only while it is its own.
struct Running(Mutex<Option<Pid>>);

impl Running {
    /// Starts the program, its standard input the socket. The thread that starts it waits for its end: the kernel kills the
    /// child when that thread ends, and those of a pool come and go.
    async fn spawn(
        program: &Path,
        socket: OwnedFd,
        memory: Share,
    ) -> Result<(Arc<Self>, oneshot::Receiver<ExitStatus>)> {
        let mut command = Command::new(program);
        command.arg(memory.bytes().to_string());
        command.env_clear().current_dir("/").stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::null());
        let (started, starts) = oneshot::channel();
        let (ended, ends) = oneshot::channel();
        let run = move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(started.send(Err(error))),
            };
            // It holds the host's copy of the child's end of the socket, and would keep it open.
            drop(command);
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id fits into pid_t"));
            let running = Arc::new(Self(Mutex::new(Some(pid))));
            started.send(Ok(Arc::clone(&running))).ok();
            // Until it is waited for, its number is its own.
            while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            {
            }
            *running.open() = None;
            let status = child.wait();
            // Only now is its memory free.
            drop(memory);
            if let Ok(status) = status {
                ended.send(status).ok();
            }
        };
        let cannot = |e| {
            Error::io(format!("starting {}, which runs movers", program.display()), e)
                .advise("It lies beside the other programs of remora: install all of them.")
        };
        std::thread::Builder::new().name("mover".into()).spawn(run).map_err(cannot)?;
        let running = starts.await.unwrap_or_else(|_| Err(std::io::Error::other("its thread died"))).map_err(cannot)?;
        Ok((running, ends))
    }

    fn open(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pid(&self) -> Option<Pid> {
        *self.open()
    }

    fn kill(&self) {
        if let Some(pid) = *self.open() {
            kill(pid, Signal::SIGKILL).ok();
        }
    }
}
