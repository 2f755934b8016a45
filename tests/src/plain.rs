//! The server that `sdk/examples/plain` is for and `docs/plugins.md` describes: objects in memory, which it may be told
//! to lie about. It takes no uploads in parts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::gate::Gate;
use crate::http::{self, Asked, Reply};

/// What it wants to see.
pub const TOKEN: &str = "plain-7d20b6";

/// The most that one listing has.
const PAGE: usize = 1_000;

/// In seconds: more than the 72 hours for which readers keep what was dropped.
const FOUR_DAYS: u64 = 96 * 60 * 60;

/// What it says and does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// What is stored is not kept.
    Forget,
    /// Of what is stored, the byte in the middle is changed.
    ChangeAByte,
    /// Of what is stored, every byte is changed.
    ChangeBytes,
    /// The same, and there was an object of that name before.
    ChangeBytesAndSayTaken,
    /// Listings leave it out.
    Hide,
}

struct Object {
    /// In seconds since 1970.
    stored: u64,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Object>,
    /// What it does to those objects whose names contain this.
    lie: Option<(Lie, &'static str)>,
}

/// The server. It listens until the process ends.
#[derive(Clone)]
pub struct PlainStore {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    reads: Arc<Gate>,
}

impl std::fmt::Debug for PlainStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainStore").field("address", &self.address).finish_non_exhaustive()
    }
}

impl PlainStore {
    /// One with nothing in it.
    pub fn start() -> Self {
        let (kept, reads) = (Arc::<Mutex<Kept>>::default(), Arc::<Gate>::default());
        let (answering, passing) = (Arc::clone(&kept), Arc::clone(&reads));
        let address = http::serve(move |asked| {
            if asked.method == "GET" {
                passing.pass();
            }
            answering.lock().unwrap_or_else(PoisonError::into_inner).answer(asked)
        });
        Self { address, kept, reads }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, what it lies about: objects whose names contain `about`.
    pub fn lie(&self, lie: Lie, about: &'static str) {
        self.kept().lie = Some((lie, about));
    }

    /// It lies no more.
    pub fn be_honest(&self) {
        self.kept().lie = None;
    }

    /// Lets all that it has be four days older.
    pub fn age(&self) {
        self.kept().objects.values_mut().for_each(|object| object.stored -= FOUR_DAYS);
    }

    /// The names of all that it has.
    pub fn names(&self) -> Vec<String> {
        self.kept().objects.keys().cloned().collect()
    }

    /// From now on, whoever reads or lists waits.
    pub fn hold_reads(&self) {
        self.reads.close();
    }

    /// All go on.
    pub fn release_reads(&self) {
        self.reads.open();
    }
}

fn status(status: u16) -> Reply {
    (status, Vec::new()).into()
}

impl Kept {
    fn answer(&mut self, asked: &Asked) -> Reply {
        if asked.header("authorization") != format!("Bearer {TOKEN}") {
            return status(401);
        }
        match (asked.method.as_str(), asked.path.strip_prefix("/objects/")) {
            ("PUT", Some(key)) => self.put(key, asked),
            ("GET" | "HEAD", Some(key)) => self.get(key, asked.header("range")),
            ("DELETE", Some(key)) => status(if self.objects.remove(key).is_some() { 204 } else { 404 }),
            ("GET", None) if asked.path == "/objects" => self.list(&asked.query),
            _ => status(400),
        }
    }

    fn lies_about(&self, key: &str) -> Option<Lie> {
        self.lie.filter(|(_, about)| key.contains(about)).map(|(lie, _)| lie)
    }

    fn put(&mut self, key: &str, asked: &Asked) -> Reply {
        if !asked.header("if-none-match").is_empty() && self.objects.contains_key(key) {
            return status(412);
        }
        let lie = self.lies_about(key);
        let mut bytes = asked.body.clone();
        let middle = bytes.len() / 2;
        match lie {
            Some(Lie::ChangeAByte) => bytes[middle..].iter_mut().take(1).for_each(|byte| *byte = !*byte),
            Some(Lie::ChangeBytes | Lie::ChangeBytesAndSayTaken) => bytes.iter_mut().for_each(|byte| *byte = !*byte),
            Some(Lie::Forget | Lie::Hide) | None => {}
        }
        if lie != Some(Lie::Forget) {
            let stored = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.objects.insert(key.to_owned(), Object { stored, bytes });
        }
        status(if lie == Some(Lie::ChangeBytesAndSayTaken) { 412 } else { 201 })
    }

    fn get(&self, key: &str, range: &str) -> Reply {
        let Some(Object { stored, bytes }) = self.objects.get(key) else { return status(404) };
        let headers = vec![("x-stored", stored.to_string())];
        if range.is_empty() {
            return Reply { status: 200, headers, body: bytes.clone() };
        }
        let ends = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let ends = ends.and_then(|(from, to)| Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?)));
        match ends {
            Some((from, to)) if from <= to && from < bytes.len() => {
                Reply { status: 206, headers, body: bytes[from..bytes.len().min(to + 1)].to_vec() }
            }
            _ => status(416),
        }
    }

    /// A line for each object: its size, when it was stored, its key.
    fn list(&self, query: &BTreeMap<String, String>) -> Reply {
        let text = |name: &str| query.get(name).map_or("", String::as_str);
        let (prefix, after) = (text("prefix"), text("after"));
        let from = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        let found = self.objects.range::<str, _>((from, Bound::Unbounded));
        let found = found.take_while(|(key, _)| key.starts_with(prefix));
        let mut lines = String::new();
        for (key, object) in found.filter(|(key, _)| self.lies_about(key) != Some(Lie::Hide)).take(PAGE) {
            writeln!(lines, "{} {} {key}", object.bytes.len(), object.stored).expect("a string takes all");
        }
        (200, lines.into_bytes()).into()
    }
}
