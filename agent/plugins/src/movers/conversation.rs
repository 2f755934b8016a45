//! Calls of a component: instances that are kept for the next one, what they ask during a call, and what a fault costs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use remora_core::{Error, ErrorKind, Result};
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::broker::{Broker, Payload, Secrets, Sink};
use super::compiled::Compiled;
use super::memory::Ledger;
use super::process::{Child, Said};
use super::wire::{Answer, Ask, Call, DigestKind, Done, Down, Fault, VolumeCapabilities, VolumeDone, World};
use super::words::{Capabilities, Class, MoverError, Response, WrongField};

/// An instance is used so often, then a new one takes its place: what leaks or creeps in goes with it.
const CALLS_OF_AN_INSTANCE: u32 = 1_000;

/// Requests under way in one call.
const PENDING: usize = 16;

/// What a call may take beyond its deadline: the child ends it by then, once it gets a processor. A child that does not is hung.
const GRACE: Duration = Duration::from_secs(20);

/// After so many faults in a row the mover is shut out.
const FAULTS: u32 = 10;

/// Bytes that a mover looks at itself in one go.
const LOOKED_AT: u32 = 64 << 10;

/// What a call gets and gives beside its arguments.
#[derive(Clone)]
pub(super) struct Luggage {
    pub(super) data: Payload,
    pub(super) sink: Sink,
}

impl Luggage {
    pub(super) fn nothing() -> Self {
        Self { data: Payload::default(), sink: Sink::new(0) }
    }
}

/// Why a call gave nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// The mover says so, or the broker.
    Error(MoverError),
    /// The instance died, or broke a rule. It may go well the next time.
    Fault(String),
    /// The child died meanwhile, perhaps because of another call.
    Lost(String),
    /// It will not go well: the component cannot be run, its settings are wrong, or it was shut out.
    Refused(Error),
}

/// Makes an error of the settings that a mover finds wrong.
pub(super) type Tell = Box<dyn Fn(&[WrongField]) -> Error + Send + Sync>;

/// A component with its settings, in a child that is started when it is needed and started again when it died.
pub(super) struct Component {
    pub(super) program: PathBuf,
    pub(super) bytes: Vec<u8>,
    /// Where what is compiled of it is kept, if it is.
    pub(super) compiled: Option<Compiled>,
    pub(super) world: World,
    pub(super) settings: String,
    pub(super) prefix: String,
    pub(super) deadline: Duration,
    pub(super) broker: Broker,
    /// How wrong settings are told: with the lines where they stand.
    pub(super) tell: Tell,
    pub(super) state: Mutex<State>,
    pub(super) places: Semaphore,
    pub(super) faults: AtomicU32,
    /// Whether it asked for the SHA-256 of what it stores: then it is told that before it asks.
    pub(super) hashes: AtomicBool,
}

/// The child, and its instances that wait.
#[derive(Default)]
pub(super) struct State {
    child: Arc<OnceCell<Arc<Child>>>,
    idle: Vec<Instance>,
    /// Where a document names the component, if one does: what is wrong with it is told there.
    place: Option<String>,
}

impl State {
    /// Of a component that is named at a place of a document.
    pub(super) fn named_at(place: String) -> Self {
        Self { place: Some(place), ..Self::default() }
    }
}

/// What of a call's time is not for requests, but for what the component makes of their answers: a tenth, and five seconds where
/// that leaves half, for a busy machine.
fn spare(deadline: Duration) -> Duration {
    (deadline / 10).max(Duration::from_secs(5).min(deadline / 2))
}

/// So many calls are made at once.
pub(super) fn places() -> Semaphore {
    Semaphore::new(Ledger::of_this_process().instances())
}

/// An instance with an open session. Dropped, it is ended.
struct Instance {
    number: u32,
    child: Arc<Child>,
    hears: mpsc::Receiver<Said>,
    secrets: Secrets,
    can: Option<Can>,
    calls: u32,
}

/// What an open store can do.
#[derive(Clone, Copy)]
enum Can {
    Objects(Capabilities),
    Volumes(VolumeCapabilities),
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.child.end(self.number);
    }
}

impl Component {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls it once.
    pub(super) async fn call(&self, call: Call, luggage: Luggage) -> Result<Done, Failed> {
        self.with_instance(async |component, instance| component.converse(instance, call, &luggage).await).await
    }

    /// What the store can do.
    pub(super) async fn capabilities(&self) -> Result<Capabilities, Failed> {
        match self.can().await? {
            Can::Objects(can) => Ok(can),
            Can::Volumes(_) => Err(Failed::Fault("it stores no objects".into())),
        }
    }

    /// What a store of points can do.
    pub(super) async fn volume_capabilities(&self) -> Result<VolumeCapabilities, Failed> {
        match self.can().await? {
            Can::Volumes(can) => Ok(can),
            Can::Objects(_) => Err(Failed::Fault("it stores no points".into())),
        }
    }

    async fn can(&self) -> Result<Can, Failed> {
        self.with_instance(async |_, instance| instance.can.ok_or_else(|| Failed::Fault("it was never opened".into())))
            .await
    }

    /// Asks what is wrong with settings, which are not those that it was opened with.
    pub(super) async fn validate(&self, settings: &str) -> Result<Vec<WrongField>, Failed> {
        let mut instance = self.new_instance().await?;
        let validate = Call::Validate { settings: settings.into() };
        match self.converse(&mut instance, validate, &Luggage::nothing()).await? {
            Done::Validated(wrong) => Ok(wrong),
            other => Err(unexpected(&other)),
        }
    }

    /// The child's process, to be looked at.
    pub(super) fn pid(&self) -> Option<i32> {
        self.state().child.get()?.pid()
    }

    /// Kills the child, if there is one.
    pub(super) fn kill(&self) {
        if let Some(child) = self.state().child.get() {
            child.kill();
        }
    }

    async fn with_instance<T>(
        &self,
        work: impl AsyncFnOnce(&Self, &mut Instance) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        if self.faults.load(Ordering::Relaxed) >= FAULTS {
            let what = format!("the mover is shut out: it failed {FAULTS} times in a row");
            let error = Error::new(ErrorKind::Failed, what);
            return Err(Failed::Refused(error.advise("See the log for why, and ask who made it.")));
        }
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        let done = async {
            let mut instance = self.instance().await?;
            let done = work(self, &mut instance).await;
            let whole = !matches!(done, Err(Failed::Fault(_) | Failed::Lost(_)));
            if whole && instance.calls < CALLS_OF_AN_INSTANCE && instance.child.end_of().is_none() {
                self.state().idle.push(instance);
            }
            done
        };
        let done = done.await;
        match &done {
            Err(Failed::Fault(why)) => {
                self.faults.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("a mover failed: {why}");
            }
            // A child's death is counted once, by whoever replaces it.
            Err(Failed::Refused(_) | Failed::Lost(_)) => {}
            Ok(_) | Err(Failed::Error(_)) => self.faults.store(0, Ordering::Relaxed),
        }
        done
    }

    /// One that waits, or a new one.
    async fn instance(&self) -> Result<Instance, Failed> {
        {
            let mut state = self.state();
            while let Some(instance) = state.idle.pop() {
                if instance.child.end_of().is_none() {
                    return Ok(instance);
                }
            }
        }
        let mut instance = self.new_instance().await?;
        let nothing = Luggage::nothing();
        let validate = Call::Validate { settings: self.settings.clone() };
        match self.converse(&mut instance, validate, &nothing).await? {
            Done::Validated(wrong) if wrong.is_empty() => {}
            Done::Validated(wrong) => return Err(Failed::Refused((self.tell)(&wrong))),
            other => return Err(unexpected(&other)),
        }
        let open = Call::Open { settings: self.settings.clone(), prefix: self.prefix.clone() };
        match self.converse(&mut instance, open, &nothing).await? {
            Done::Opened(can) => instance.can = Some(Can::Objects(can)),
            Done::Volume(VolumeDone::Opened(can)) => instance.can = Some(Can::Volumes(can)),
            other => return Err(unexpected(&other)),
        }
        Ok(instance)
    }

    /// One that was asked nothing yet.
    async fn new_instance(&self) -> Result<Instance, Failed> {
        let child = self.child().await.map_err(|error| match error.kind() {
            ErrorKind::Unavailable => Failed::Fault(error.chain()),
            ErrorKind::Invalid => Failed::Refused(match &self.state().place {
                Some(place) => error.within(place),
                None => error,
            }),
            _ => Failed::Refused(error),
        })?;
        let (number, hears) = child.instance();
        Ok(Instance { number, child, hears, secrets: Secrets::default(), can: None, calls: 0 })
    }

    /// The child; one that died is replaced.
    async fn child(&self) -> Result<Arc<Child>> {
        let cell = {
            let mut state = self.state();
            if state.child.get().is_some_and(|child| child.end_of().is_some()) {
                self.faults.fetch_add(1, Ordering::Relaxed);
                state.child = Arc::default();
                state.idle.clear();
            }
            Arc::clone(&state.child)
        };
        let start = async || {
            let memory = Ledger::of_this_process().take()?;
            Child::start(&self.program, &self.bytes, self.compiled.as_ref(), self.world, memory).await
        };
        cell.get_or_try_init(start).await.cloned()
    }

    /// A call, and all that is asked during it. Bounded: by the deadline here, whatever the child does.
    async fn converse(&self, instance: &mut Instance, call: Call, luggage: &Luggage) -> Result<Done, Failed> {
        instance.calls += 1;
        let sha256 = self.digest_for(luggage).await?;
        // All of its time is the component's, as the child counts it: hashing is not its work.
        let deadline = Instant::now() + self.deadline;
        let deadline_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        instance.say(&Down::Call { instance: instance.number, deadline_ms, sha256, call })?;
        let mut requests = Requests::default();
        loop {
            let ask = match timeout_at(deadline + GRACE, instance.hears.recv()).await {
                Ok(Some(Said::Done(Ok(done)))) => return Ok(self.shown_of_each(done)),
                Ok(Some(Said::Done(Err(Fault::Error(error))))) => return Err(Failed::Error(self.shown(&error))),
                Ok(Some(Said::Done(Err(Fault::Died(why))))) => return Err(Failed::Fault(self.broker.plain(&why))),
                Ok(Some(Said::Ask(ask))) => ask,
                Ok(None) => return Err(Failed::Lost(instance.end_of())),
                Err(_) => {
                    instance.child.kill();
                    return Err(Failed::Lost("its process was hung, and was killed".into()));
                }
            };
            let answer = self.answer(ask, &mut instance.secrets, &mut requests, luggage, deadline).await;
            let answer = answer.unwrap_or_else(Answer::Trap);
            instance.say(&Down::Told { instance: instance.number, answer })?;
        }
    }

    /// What it will ask for, if it is given something to store.
    async fn digest_for(&self, luggage: &Luggage) -> Result<Option<Vec<u8>>, Failed> {
        if luggage.data.len() == 0 || !self.hashes.load(Ordering::Relaxed) {
            return Ok(None);
        }
        digest(DigestKind::Sha256, luggage.data.clone()).await.map(Some).map_err(Failed::Fault)
    }

    /// An error of the mover's, with nothing in it that must not be shown.
    fn shown(&self, error: &MoverError) -> MoverError {
        MoverError {
            code: self.broker.plain(&error.code),
            message: self.broker.plain(&error.message),
            details: Vec::new(),
            ..error.clone()
        }
    }

    /// The same of a deletion, which has an outcome for each key.
    fn shown_of_each(&self, done: Done) -> Done {
        let shown = |one: Result<(), MoverError>| one.map_err(|error| self.shown(&error));
        match done {
            Done::Deleted(each) => Done::Deleted(each.into_iter().map(shown).collect()),
            other => other,
        }
    }

    /// What an instance asked; or the rule that it broke.
    async fn answer(
        &self,
        ask: Ask,
        secrets: &mut Secrets,
        requests: &mut Requests,
        luggage: &Luggage,
        deadline: Instant,
    ) -> Result<Answer, String> {
        Ok(match ask {
            Ask::Digest(kind) => {
                if kind == DigestKind::Sha256 {
                    self.hashes.store(true, Ordering::Relaxed);
                }
                Answer::Bytes(digest(kind, luggage.data.clone()).await?)
            }
            Ask::Read { offset, len } => Answer::Bytes(looked_at(&luggage.data, offset, len)?),
            Ask::SinkLen => Answer::Number(luggage.sink.len()),
            Ask::SinkWrite(bytes) if luggage.sink.write(&bytes) => Answer::Nothing,
            Ask::SinkWrite(_) => {
                Answer::Error(MoverError::new(Class::Invalid, "broker-sink", "the sink takes no more"))
            }
            Ask::Secret(name) => secrets.open(&self.broker, &name)?.map_or_else(Answer::Error, Answer::Handle),
            Ask::Hmac { secret, data } => Answer::Bytes(secrets.hmac(secret, &data)?),
            Ask::Derive { secret, data } => Answer::Handle(secrets.derive(secret, &data)?),
            Ask::Prefixed { secret, prefix } => Answer::Handle(secrets.prefixed(secret, &prefix)?),
            Ask::ForgetSecret(secret) => {
                secrets.forget(secret);
                Answer::Nothing
            }
            Ask::Submit(request) => {
                if requests.pending.len() >= PENDING {
                    return Err(format!("it has {PENDING} requests under way and wants more"));
                }
                // The component is to hear that there is no answer, rather than be ended while it waits.
                let until = deadline - spare(self.deadline);
                let started = self.broker.submit(request, secrets, &luggage.data, &luggage.sink, until);
                started.map_or_else(Answer::Error, |exchange| Answer::Handle(requests.start(exchange)))
            }
            Ask::Wait(number) => requests.answered(number, &luggage.sink).await?,
            Ask::GiveUp(number) => {
                requests.give_up(number).await;
                Answer::Nothing
            }
            Ask::Log(level, line) => {
                self.broker.log(level, &line);
                Answer::Nothing
            }
        })
    }
}

fn unexpected(done: &Done) -> Failed {
    Failed::Fault(format!("its process answered another question: {done:?}"))
}

/// Of what is to be stored, a part that the component looks at itself.
fn looked_at(data: &Payload, offset: u64, len: u32) -> Result<Vec<u8>, String> {
    let pieces = Some(len).filter(|len| *len <= LOOKED_AT).and_then(|len| data.slice(offset, len.into()));
    Ok(pieces.ok_or("it reads beyond the buffer, or more than 64 KiB at once")?.concat())
}

/// Off the threads that wait for others: 64 MiB take a while.
async fn digest(kind: DigestKind, data: Payload) -> Result<Vec<u8>, String> {
    let hash = move || match kind {
        DigestKind::Sha256 => data.sha256(),
        DigestKind::Md5 => data.md5(),
    };
    tokio::task::spawn_blocking(hash).await.map_err(|died| format!("hashing died: {died}"))
}

impl Instance {
    fn say(&self, down: &Down) -> Result<(), Failed> {
        self.child.say(down).map_err(Failed::Refused)
    }

    fn end_of(&self) -> String {
        self.child.end_of().unwrap_or_else(|| "its process is gone".into())
    }
}

/// The requests of a call. They end with it.
#[derive(Default)]
struct Requests {
    pending: HashMap<u32, AbortOnDropHandle<Result<Response, MoverError>>>,
    next: u32,
}

impl Requests {
    fn start(&mut self, exchange: impl Future<Output = Result<Response, MoverError>> + Send + 'static) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.pending.insert(self.next, AbortOnDropHandle::new(tokio::spawn(exchange)));
        self.next
    }

    /// Ends a request. Once this returns it fills no sink.
    async fn give_up(&mut self, number: u32) {
        if let Some(pending) = self.pending.remove(&number) {
            pending.abort();
            // It was aborted, or was over before.
            drop(pending.await);
        }
    }

    /// What came of a request, once it is over.
    async fn answered(&mut self, number: u32, sink: &Sink) -> Result<Answer, String> {
        let pending = self.pending.remove(&number).ok_or("it waits for a request that it does not have")?;
        match pending.await {
            Ok(Ok(response)) => {
                let filled = self.pending.is_empty().then(|| sink.len());
                Ok(Answer::Response { response, filled })
            }
            Ok(Err(error)) => Ok(Answer::Error(error)),
            Err(died) => Err(format!("a request died: {died}")),
        }
    }
}
