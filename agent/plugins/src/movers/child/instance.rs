//! An instance of the component, on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use wasmtime::{Store, StoreLimits, UpdateDeadline};

use super::super::wire::{Answer, Ask, Call, Done, Fault, VolumeCall};
use super::link::Link;
use super::objects::Objects;
use super::runtime::{Linked, Runtime};
use super::volumes::Volumes;
use super::{bindings, imports};
use crate::host::{HANDED_OVER, failed_call, limits};

/// What a mover's linear memory may grow to.
const MEMORY: usize = 256 << 20;

/// Handles of resources that it may have at once: twice what a policy has, for the host gives it as many secrets as that.
const HANDLES: usize = 2_000;

/// What its thread's stack may take: that of WebAssembly is within it.
const STACK: usize = 2 << 20;

/// What the host says to an instance.
enum Said {
    Call {
        call: Call,
        /// Of its buffer, if it is known.
        sha256: Option<Vec<u8>>,
        limit: Duration,
    },
    Told(Answer),
}

/// The reader's end of an instance.
pub(super) struct Handle {
    said: Sender<Said>,
    given_up: Arc<AtomicBool>,
}

impl Handle {
    pub(super) fn spawn(number: u32, runtime: &Arc<Runtime>, link: &Arc<Link>) -> Self {
        let (said, hears) = channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let (runtime, link, flag) = (Arc::clone(runtime), Arc::clone(link), Arc::clone(&given_up));
        let refused = Arc::clone(&link);
        let spawned =
            std::thread::Builder::new().name(format!("instance {number}")).stack_size(STACK).spawn(move || {
                let told = Arc::clone(&link);
                let work = AssertUnwindSafe(|| run(number, &runtime, link, hears, flag));
                // A bug of ours or of wasmtime's: the host need not wait to learn of it.
                if catch_unwind(work).is_err() {
                    told.done(number, Err(Fault::Died("its process has a bug, and panicked".into()))).ok();
                }
            });
        if let Err(error) = spawned {
            refused.done(number, Err(Fault::Died(format!("no thread for it: {error}")))).ok();
        }
        Self { said, given_up }
    }

    pub(super) fn call(&self, call: Call, sha256: Option<Vec<u8>>, deadline_ms: u64) {
        self.said.send(Said::Call { call, sha256, limit: Duration::from_millis(deadline_ms) }).ok();
    }

    pub(super) fn tell(&self, answer: Answer) {
        self.said.send(Said::Told(answer)).ok();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

/// What the host functions of an instance work with.
pub(super) struct Guest {
    number: u32,
    limits: StoreLimits,
    link: Arc<Link>,
    hears: Receiver<Said>,
    given_up: Arc<AtomicBool>,
    /// When the running call has to be over.
    deadline: Instant,
    /// The bytes of the call's buffer and sink.
    pub(super) buffer: u64,
    pub(super) sink: u64,
    /// Of its buffer, if the host told it beforehand.
    pub(super) sha256: Option<Vec<u8>>,
    /// The bytes that its sink has by now, while that is known.
    pub(super) filled: Option<u64>,
    /// The request of the call whose answer came last: of that there is nothing to give up.
    pub(super) answered: Option<u32>,
    pub(super) started: Instant,
}

impl Guest {
    fn new(number: u32, link: Arc<Link>, hears: Receiver<Said>, given_up: Arc<AtomicBool>) -> Self {
        let now = Instant::now();
        Self {
            number,
            limits: limits(MEMORY),
            link,
            hears,
            given_up,
            deadline: now,
            buffer: 0,
            sink: 0,
            sha256: None,
            filled: None,
            answered: None,
            started: now,
        }
    }

    /// Asks the host, and waits for what it says. Not for ever: the host answers, or ends the instance.
    pub(super) fn ask(&mut self, ask: Ask) -> wasmtime::Result<Answer> {
        self.link.ask(self.number, ask).map_err(|error| match error.kind() {
            std::io::ErrorKind::FileTooLarge => wasmtime::format_err!("it hands over more than makes sense"),
            _ => wasmtime::format_err!("the host is gone"),
        })?;
        match self.hears.recv() {
            Ok(Said::Told(Answer::Trap(why))) => Err(wasmtime::format_err!("{why}")),
            Ok(Said::Told(answer)) => Ok(answer),
            Ok(Said::Call { .. }) | Err(mpsc::RecvError) => Err(wasmtime::format_err!("the host gave the call up")),
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// A started component.
struct Running {
    store: Store<Guest>,
    world: World,
}

enum World {
    Objects(Objects),
    Volumes(Volumes),
}

/// The thread: one call after another, until the host ends the instance or a call kills it.
fn run(number: u32, runtime: &Runtime, link: Arc<Link>, hears: Receiver<Said>, given_up: Arc<AtomicBool>) {
    let said = Arc::clone(&link);
    let mut fresh = Some(bounded(runtime, Guest::new(number, link, hears, given_up)));
    let mut running: Option<Running> = None;
    loop {
        let received = match (&running, &fresh) {
            (Some(running), _) => running.store.data().hears.recv(),
            (None, Some(store)) => store.data().hears.recv(),
            (None, None) => return,
        };
        let Ok(Said::Call { call, sha256, limit }) = received else { return };
        let outcome = (|| {
            if let Some(store) = fresh.take() {
                running = Some(Running::start(runtime, store, limit)?);
            }
            let running = running.as_mut().ok_or_else(|| Fault::Died("it is gone".into()))?;
            running.call(call, sha256, limit)
        })();
        let ended = matches!(outcome, Err(Fault::Died(_)));
        if said.done(number, outcome).is_err() || ended {
            return;
        }
    }
}

/// What an instance lives in, with a bound for all that it may take.
fn bounded(runtime: &Runtime, guest: Guest) -> Store<Guest> {
    let mut store = Store::new(&runtime.engine, guest);
    store.limiter(|guest| &mut guest.limits);
    store.set_hostcall_fuel(HANDED_OVER);
    store.set_max_component_handles(HANDLES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|context| {
        let guest = context.data();
        let over = guest.is_cancelled() || Instant::now() >= guest.deadline;
        Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
    });
    store
}

fn died(error: &wasmtime::Error, doing: &str, limit: Duration) -> Fault {
    Fault::Died(failed_call(error, doing, limit).chain())
}

impl Running {
    /// Starts the component, for which it has as long as for a call.
    fn start(runtime: &Runtime, mut store: Store<Guest>, limit: Duration) -> Result<Self, Fault> {
        store.data_mut().deadline = Instant::now() + limit;
        let world = match &runtime.component {
            Linked::Objects(pre) => pre.instantiate(&mut store).map(|world| World::Objects(Objects::new(world))),
            Linked::Volumes(pre) => pre.instantiate(&mut store).map(|world| World::Volumes(Volumes::new(world))),
        };
        let world = world.map_err(|e| died(&e, "starting it", limit))?;
        Ok(Self { store, world })
    }

    fn call(&mut self, call: Call, sha256: Option<Vec<u8>>, limit: Duration) -> Result<Done, Fault> {
        let doing = name(&call);
        (self.store.data_mut().deadline, self.store.data_mut().sha256) = (Instant::now() + limit, sha256);
        (self.store.data_mut().buffer, self.store.data_mut().sink) = sizes(&call);
        // Each call numbers its requests anew, and has a sink of its own.
        (self.store.data_mut().answered, self.store.data_mut().filled) = (None, None);
        let Self { store, world } = self;
        let open = match world {
            World::Objects(objects) => objects.is_open(),
            World::Volumes(volumes) => volumes.is_open(),
        };
        let outcome = match (world, call, open) {
            (World::Objects(objects), Call::Validate { settings }, _) => objects.validate(store, &settings),
            (World::Volumes(volumes), Call::Validate { settings }, _) => volumes.validate(store, &settings),
            (_, Call::Open { .. }, true) => return Err(Fault::Died("it is open already".into())),
            (World::Objects(objects), Call::Open { settings, prefix }, false) => {
                objects.open(store, &settings, &prefix)
            }
            (World::Volumes(volumes), Call::Open { settings, .. }, false) => volumes.open(store, &settings),
            (_, _, false) => return Err(Fault::Died("it was not opened".into())),
            (World::Objects(objects), call, true) => objects.call(store, call),
            (World::Volumes(volumes), Call::Volume(call), true) => volumes.call(store, call),
            (World::Volumes(_), _, true) => return Err(Fault::Died("it stores no objects".into())),
        };
        match outcome {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Fault::Error(imports::error_of(error))),
            Err(error) => Err(died(&error, doing, limit)),
        }
    }
}

/// What a component says of a failure.
pub(super) type Wrong = bindings::objects::remora::mover::errors::Error;

/// A call that went through: what the component answered. Else it trapped.
pub(super) type Called = wasmtime::Result<Result<Done, Wrong>>;

/// How many bytes the call's buffer has, and how many its sink takes.
fn sizes(call: &Call) -> (u64, u64) {
    match call {
        Call::Put { len, .. }
        | Call::Replace { len, .. }
        | Call::Part { len, .. }
        | Call::Volume(VolumeCall::Write { len, .. }) => (*len, 0),
        Call::Get { len, .. } | Call::Volume(VolumeCall::Read { len, .. }) => (0, *len),
        _ => (0, 0),
    }
}

/// The function, as `wit/` names it.
fn name(call: &Call) -> &'static str {
    match call {
        Call::Validate { .. } => "`validate`",
        Call::Open { .. } => "`open`",
        Call::Put { .. } => "`put-if-absent`",
        Call::Replace { .. } => "`replace`",
        Call::Get { .. } => "`get`",
        Call::Head { .. } => "`head`",
        Call::List { .. } => "`list`",
        Call::Delete { .. } => "`delete`",
        Call::Begin { .. } => "`multipart`",
        Call::Part { .. } => "`part`",
        Call::Complete { .. } => "`complete`",
        Call::Abort { .. } => "`abort`",
        Call::Volume(call) => match call {
            VolumeCall::Begin(_) => "`begin`",
            VolumeCall::Write { .. } => "`write`",
            VolumeCall::Zero { .. } => "`zero`",
            VolumeCall::Unchanged { .. } => "`unchanged`",
            VolumeCall::Commit { .. } => "`commit`",
            VolumeCall::Abort { .. } => "`abort`",
            VolumeCall::List { .. } => "`list`",
            VolumeCall::Extents { .. } => "`extents`",
            VolumeCall::Read { .. } => "`read`",
            VolumeCall::Delete { .. } => "`delete`",
        },
    }
}
