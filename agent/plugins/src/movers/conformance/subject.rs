//! The mover that is tried; and of one of objects its calls one by one, without the host's second tries: what is tried is the
//! mover, not its store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use remora_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::super::broker::{Broker, BrokerOptions, Payload, Rules, Sink};
use super::super::conversation::{Component, Failed, Luggage, State, places};
use super::super::wire::{Call, Done, World};
use super::super::words::{Class, MoverError, Object, Page, Stored};
use super::injector::Injector;
use super::{ENDPOINT, MoverTrial};
use crate::conformance::Findings;
use crate::host::wrong_setting;
use crate::network::{Grants, SystemNames};
use crate::program::plugin_host;

/// Keys that one call deletes.
const DELETED_AT_ONCE: usize = 1_000;

/// What a process with all its instances should have at most, in MiB: as much as the host lets one instance have
/// (`child/instance.rs`). A pod's movers share half of its memory.
const MEMORY: f64 = 256.0;

/// As often a process is waited for.
const PROCESSES: u32 = 5;

/// How it is tried, and the server behind it.
pub(super) struct Subject {
    pub(super) injector: Injector,
    pub(super) settings: String,
    pub(super) component: Vec<u8>,
    pub(super) world: World,
    pub(super) program: PathBuf,
    /// What the names of all that is stored begin with.
    pub(super) prefix: String,
    secrets: BTreeMap<String, Zeroizing<Vec<u8>>>,
    seed: u64,
    said: Arc<Mutex<Vec<String>>>,
    left: Arc<Left>,
}

/// What any process of a mover of objects was told to store: uploads that were begun, and keys.
#[derive(Default)]
struct Left {
    begun: Mutex<Vec<(String, String)>>,
    keys: Mutex<BTreeSet<String>>,
}

impl Subject {
    pub(super) fn new(component: Vec<u8>, world: World, trial: MoverTrial, injector: Injector) -> Result<Self> {
        let endpoint = format!("http://{}", injector.address());
        Ok(Self {
            settings: trial.settings.replace(ENDPOINT, &endpoint),
            component,
            world,
            program: trial.program.map_or_else(plugin_host, Ok)?,
            // Not from the seed: what an earlier run left must not be in the way.
            prefix: format!("remora-test-{:016x}", fastrand::u64(..)),
            secrets: trial.secrets,
            seed: trial.seed,
            said: Arc::default(),
            left: Arc::default(),
            injector,
        })
    }

    /// The component, its calls with so long each. It is started when it is first called.
    pub(super) fn component(&self, deadline: Duration) -> Result<Component> {
        let said = Arc::clone(&self.said);
        let ear = move |line: &str| said.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
        let server = self.injector.address().to_string();
        let broker = Broker::new(BrokerOptions {
            mover: "under trial".into(),
            rules: Rules::new([server.as_str()], true)?,
            grants: Grants::parse(["127.0.0.1"])?,
            certificates: None,
            secrets: self.secrets.clone(),
            names: Arc::new(SystemNames),
            ear: Some(Arc::new(ear)),
        })?;
        Ok(Component {
            program: self.program.clone(),
            bytes: self.component.clone(),
            compiled: None,
            world: self.world,
            settings: self.settings.clone(),
            prefix: self.prefix.clone(),
            deadline,
            broker,
            tell: Box::new(|wrong| {
                let each: Vec<_> = wrong.iter().map(|(path, message)| wrong_setting(path, message)).collect();
                Error::new(ErrorKind::Invalid, format!("it does not take its settings: {}", each.join("; ")))
            }),
            state: Mutex::new(State::default()),
            places: places(),
            faults: 0.into(),
            hashes: false.into(),
        })
    }

    /// Bytes that are the same for the same seed and name.
    pub(super) fn bytes(&self, name: &str, len: usize) -> Bytes {
        let named = name.bytes().fold(self.seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(named).fill(&mut bytes);
        bytes.into()
    }

    /// What the mover logged so far.
    pub(super) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The secrets, as they must be seen nowhere.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.values().filter_map(|secret| std::str::from_utf8(secret).ok())
    }
}

/// For the next trial: that it failed the ones before does not shut it out.
pub(super) fn ready(component: &Component) {
    component.faults.store(0, Ordering::Relaxed);
}

/// Notes the most memory that its process had so far.
pub(super) fn note_memory(findings: &mut Findings, component: &Component) {
    if let Some(peak) = peak(component) {
        findings.figure("memory of its process, at most", peak, "MiB", Some(MEMORY));
    }
}

/// In MiB.
fn peak(component: &Component) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", component.pid()?)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

pub(super) fn strange<T>(done: &Done) -> Result<T, Failed> {
    Err(Failed::Fault(format!("it answered another question: {done:?}")))
}

/// A process with a mover of objects.
pub(super) struct Mover(pub(super) Component, Arc<Left>);

impl Mover {
    /// Its calls have so long each.
    pub(super) fn start(subject: &Subject, deadline: Duration) -> Result<Self> {
        Ok(Self(subject.component(deadline)?, Arc::clone(&subject.left)))
    }

    async fn sending(&self, call: Call, data: &Bytes) -> Result<Done, Failed> {
        let luggage = Luggage { data: Payload::new(vec![data.clone()]), sink: Sink::new(0) };
        self.0.call(call, luggage).await
    }

    async fn asking(&self, call: Call) -> Result<Done, Failed> {
        self.0.call(call, Luggage::nothing()).await
    }

    pub(super) async fn put(&self, key: &str, data: &Bytes) -> Result<Stored, Failed> {
        self.stores(key);
        match self.sending(Call::Put { key: key.into(), len: data.len() as u64 }, data).await? {
            Done::Stored(stored) => Ok(stored),
            other => strange(&other),
        }
    }

    pub(super) async fn replace(&self, key: &str, data: &Bytes) -> Result<(), Failed> {
        self.stores(key);
        self.sending(Call::Replace { key: key.into(), len: data.len() as u64 }, data).await.map(drop)
    }

    pub(super) async fn get(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, Failed> {
        let luggage = Luggage { data: Payload::default(), sink: Sink::new(len) };
        self.0.call(Call::Get { key: key.into(), offset, len }, luggage.clone()).await?;
        Ok(luggage.sink.take())
    }

    pub(super) async fn head(&self, key: &str) -> Result<Object, Failed> {
        match self.asking(Call::Head { key: key.into() }).await? {
            Done::Object(object) => Ok(object),
            other => strange(&other),
        }
    }

    pub(super) async fn list(&self, prefix: &str, after: Option<&str>, token: Option<&str>) -> Result<Page, Failed> {
        let call = Call::List { prefix: prefix.into(), after: after.map(Into::into), token: token.map(Into::into) };
        match self.asking(call).await? {
            Done::Page(page) => Ok(page),
            other => strange(&other),
        }
    }

    pub(super) async fn delete(&self, keys: &[String]) -> Result<Vec<Result<(), MoverError>>, Failed> {
        match self.asking(Call::Delete { keys: keys.to_vec() }).await? {
            Done::Deleted(each) if each.len() == keys.len() => Ok(each),
            Done::Deleted(each) => {
                Err(Failed::Fault(format!("asked to delete {}, it answers for {}", keys.len(), each.len())))
            }
            other => strange(&other),
        }
    }

    pub(super) async fn begin(&self, key: &str) -> Result<String, Failed> {
        match self.asking(Call::Begin { key: key.into() }).await? {
            Done::Begun(token) => {
                self.begun().push((key.into(), token.clone()));
                Ok(token)
            }
            other => strange(&other),
        }
    }

    pub(super) async fn part(&self, key: &str, token: &str, number: u32, data: &Bytes) -> Result<(), Failed> {
        let call = Call::Part { key: key.into(), token: token.into(), number, len: data.len() as u64 };
        self.sending(call, data).await.map(drop)
    }

    pub(super) async fn complete(&self, key: &str, token: &str, parts: u32) -> Result<Stored, Failed> {
        self.stores(key);
        match self.asking(Call::Complete { key: key.into(), token: token.into(), parts }).await? {
            Done::Stored(stored) => Ok(stored),
            other => strange(&other),
        }
    }

    pub(super) async fn abort(&self, key: &str, token: &str) -> Result<(), Failed> {
        self.asking(Call::Abort { key: key.into(), token: token.into() }).await.map(drop)
    }

    /// Uploads that were begun, of which most are over.
    async fn give_up_uploads(&self) {
        let begun = std::mem::take(&mut *self.begun());
        for (key, token) in begun {
            self.abort(&key, &token).await.ok();
        }
    }

    fn stores(&self, key: &str) {
        self.keys().insert(key.to_owned());
    }

    fn keys(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.1.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.1.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ready(&self) -> &Self {
        ready(&self.0);
        self
    }

    /// Removes what the trials stored, as far as the mover can. Nothing else: what it lists may be somebody else's.
    pub(super) async fn clean_up(&self) {
        self.ready();
        self.give_up_uploads().await;
        let keys: Vec<_> = std::mem::take(&mut *self.keys()).into_iter().collect();
        for keys in keys.chunks(DELETED_AT_ONCE) {
            self.delete(keys).await.ok();
        }
    }

    /// Ends its process, and waits for another one: the calls that learn of the end are none of the mover's.
    pub(super) async fn kill(&self) {
        self.0.kill();
        for _ in 0..PROCESSES {
            if !matches!(self.ready().head("nothing").await, Err(Failed::Lost(_))) {
                return;
            }
        }
    }
}

/// Why a call gave nothing, for the report.
pub(super) fn told(failed: &Failed) -> String {
    match failed {
        Failed::Error(error) => format!("{:?} ({}): {}", error.class, error.code, error.message),
        Failed::Fault(why) | Failed::Lost(why) => why.clone(),
        Failed::Refused(error) => error.chain(),
    }
}

/// What the mover says of it, if it does.
pub(super) fn class(failed: &Failed) -> Option<Class> {
    match failed {
        Failed::Error(error) => Some(error.class),
        _ => None,
    }
}

/// In a report, what failed and why.
pub(super) trait Within<T> {
    fn within(self, doing: &str) -> Result<T, String>;
}

impl<T> Within<T> for Result<T, Failed> {
    fn within(self, doing: &str) -> Result<T, String> {
        self.map_err(|failed| format!("{doing}: {}", told(&failed)))
    }
}

impl<T> Within<T> for Result<T> {
    fn within(self, doing: &str) -> Result<T, String> {
        self.map_err(|error| format!("{doing}: {}", error.chain()))
    }
}

/// What must be so.
pub(super) fn ensure(holds: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}
