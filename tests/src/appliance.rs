//! The appliance that `sdk/examples/appliance` is for: points with disks in memory, which it may be told to lie about.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::gate::Gate;
use crate::http::{self, Asked};

/// What it wants to see.
pub const TOKEN: &str = "appliance-31c8e0";

/// A status and a body.
type Reply = (u16, Vec<u8>);

/// Points of a page: few, so that there are pages.
const PAGE: usize = 2;

/// What it says and does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    None,
    /// Writes are taken, and nothing is kept.
    ForgetWrites,
    /// Of every write, a byte is changed.
    ChangeAByte,
    /// Only what is written far behind is changed.
    ChangeTheEnd,
    /// What is committed is not listed.
    HidePoints,
    /// Everything is said to be zero.
    CallItZero,
    /// Zeros are taken, and what was there before stays: noise.
    ForgetZeros,
    /// What is as in the parent is left out.
    ForgetParents,
    /// Notes are taken, and come back changed.
    ChangeDescriptions,
}

#[derive(Clone, Default)]
struct Point {
    vm: String,
    namespace: String,
    time: String,
    parent: String,
    disks: Vec<(String, Vec<u8>)>,
    description: Vec<u8>,
    committed: bool,
}

struct Kept {
    points: BTreeMap<String, Point>,
    lie: Lie,
    /// Requests of each kind, such as `unchanged`.
    seen: BTreeMap<&'static str, usize>,
}

/// The appliance. It listens until the process ends.
#[derive(Clone)]
pub struct Appliance {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    writes: Arc<Gate>,
}

impl std::fmt::Debug for Appliance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appliance").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Appliance {
    /// One with nothing in it.
    pub fn start() -> Self {
        let kept = Kept { points: BTreeMap::new(), lie: Lie::None, seen: BTreeMap::new() };
        let kept = Arc::new(Mutex::new(kept));
        let writes = Arc::new(Gate::default());
        let (answering, passing) = (Arc::clone(&kept), Arc::clone(&writes));
        let address = http::serve(move |asked| {
            if asked.method == "PUT" && asked.path.contains("/disks/") {
                passing.pass();
            }
            let mut kept = answering.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.header("authorization") == format!("Bearer {TOKEN}") {
                kept.answer(asked)
            } else {
                (401, Vec::new())
            }
        });
        Self { address, kept, writes }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, what it lies about.
    pub fn lie(&self, lie: Lie) {
        self.kept().lie = lie;
    }

    /// From now on, whoever writes to a disk waits.
    pub fn hold_writes(&self) {
        self.writes.close();
    }

    /// All go on.
    pub fn release_writes(&self) {
        self.writes.open();
    }

    /// How many writes wait.
    pub fn held_writes(&self) -> usize {
        self.writes.waiting()
    }

    /// How many requests of a kind came: `write`, `zero`, `unchanged`, or `listing`, whose first page counts.
    pub fn seen(&self, what: &str) -> usize {
        self.kept().seen.get(what).copied().unwrap_or_default()
    }

    /// The ids of all that it has, committed or not.
    pub fn points(&self) -> Vec<String> {
        self.kept().points.keys().cloned().collect()
    }

    /// What it calls the disks of a point of remora's: remora adds something of the run's own.
    pub fn disks_of(&self, point: &str) -> String {
        let kept = self.kept();
        let ours = |(name, kept): &(&String, &Point)| name.starts_with(&format!("{point}-")) && !kept.disks.is_empty();
        let found = kept.points.iter().find(ours).map(|(name, _)| name.clone());
        found.unwrap_or_else(|| panic!("it has no disks of point {point}"))
    }

    /// Changes a byte of a disk, when nobody looks.
    pub fn rot(&self, point: &str, disk: usize, at: usize) {
        self.kept().point(point).disks[disk].1[at] ^= 1;
    }

    /// Has a point without disks, as somebody stored it; without a description it was begun and never committed.
    pub fn keep(&self, point: &str, vm: &str, description: Option<&[u8]>) {
        let (description, committed) = (description.unwrap_or_default().to_vec(), description.is_some());
        let kept = Point { vm: vm.into(), time: "0".into(), description, committed, ..Point::default() };
        self.kept().points.insert(point.into(), kept);
    }

    /// Forgets a point.
    pub fn remove(&self, point: &str) {
        assert!(self.kept().points.remove(point).is_some(), "it has no point {point}");
    }
}

type Query = BTreeMap<String, String>;

fn number(query: &Query, name: &str) -> usize {
    query[name].parse().unwrap_or_else(|_| panic!("{name} is no number: {query:?}"))
}

fn place(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no disk's number"))
}

const DONE: u16 = 200;
const MISSING: u16 = 404;

impl Kept {
    fn answer(&mut self, asked: &Asked) -> Reply {
        let path: Vec<_> =
            asked.path.trim_start_matches("/points").split('/').filter(|part| !part.is_empty()).collect();
        let (method, query) = (asked.method.as_str(), &asked.query);
        let Some((id, rest)) = path.split_first() else { return self.list(query) };
        match (method, rest) {
            ("POST", []) => {
                self.points.insert((*id).into(), begin(query));
                return (DONE, Vec::new());
            }
            ("DELETE", []) => return (self.points.remove(*id).map_or(MISSING, |_| 204), Vec::new()),
            _ if !self.points.contains_key(*id) => return (MISSING, Vec::new()),
            _ => {}
        }
        let lie = self.lie;
        match (method, rest) {
            ("POST", ["commit"]) => self.point(id).committed = true,
            ("PUT", ["description"]) => self.point(id).description.extend_from_slice(&asked.body),
            ("GET", ["description"]) => {
                let mut description = self.point(id).description.clone();
                if lie == Lie::ChangeDescriptions {
                    description.pop();
                }
                return (DONE, description);
            }
            ("PUT", ["disks", n]) => self.write(id, place(n), number(query, "at"), &asked.body),
            ("POST", ["disks", n]) => self.note(id, place(n), query),
            ("GET", ["disks", n]) => {
                let (at, len) = (number(query, "at"), number(query, "len"));
                return (DONE, self.point(id).disks[place(n)].1[at..at + len].to_vec());
            }
            ("GET", ["disks", n, "extents"]) => return (DONE, self.extents(id, place(n), query).into()),
            _ => return (400, Vec::new()),
        }
        (DONE, Vec::new())
    }

    fn point(&mut self, id: &str) -> &mut Point {
        self.points.get_mut(id).unwrap_or_else(|| panic!("it has no point {id}"))
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn write(&mut self, id: &str, disk: usize, at: usize, body: &[u8]) {
        self.count("write");
        let mut bytes = body.to_vec();
        let size = self.point(id).disks[disk].1.len();
        match self.lie {
            Lie::ForgetWrites => bytes.fill(0),
            Lie::ChangeAByte => bytes[0] ^= 1,
            Lie::ChangeTheEnd if at + bytes.len() == size => *bytes.last_mut().unwrap_or(&mut 0) ^= 1,
            _ => {}
        }
        self.point(id).disks[disk].1[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    fn note(&mut self, id: &str, disk: usize, query: &Query) {
        let len = number(query, "len");
        if query.contains_key("zero") {
            self.count("zero");
            let at = number(query, "zero");
            let filling = if self.lie == Lie::ForgetZeros { 7 } else { 0 };
            self.point(id).disks[disk].1[at..at + len].fill(filling);
            return;
        }
        self.count("unchanged");
        let at = number(query, "unchanged");
        if self.lie != Lie::ForgetParents {
            let (parent, name) = (self.point(id).parent.clone(), self.point(id).disks[disk].0.clone());
            let parent = &self.points[&parent];
            let bytes = parent
                .disks
                .iter()
                .find(|(known, _)| *known == name)
                .map_or_else(Vec::new, |disk| disk.1[at..at + len].to_vec());
            self.point(id).disks[disk].1[at..at + len].copy_from_slice(&bytes);
        }
    }

    /// Of 4 KiB each, as arrays have them.
    fn extents(&mut self, id: &str, disk: usize, query: &Query) -> String {
        let (at, len, lie) = (number(query, "at"), number(query, "len"), self.lie);
        let bytes = &self.point(id).disks[disk].1[at..at + len];
        let mut runs: Vec<(usize, bool)> = Vec::new();
        for piece in bytes.chunks(4096) {
            let zero = lie == Lie::CallItZero || piece.iter().all(|byte| *byte == 0);
            match runs.last_mut() {
                Some((run, same)) if *same == zero => *run += piece.len(),
                _ => runs.push((piece.len(), zero)),
            }
        }
        let (mut text, mut from) = (String::new(), at);
        for (len, zero) in runs {
            writeln!(text, "{from} {len} {}", if zero { "zero" } else { "data" }).expect("a string takes all");
            from += len;
        }
        text
    }

    fn list(&mut self, query: &Query) -> Reply {
        if query["after"].is_empty() {
            self.count("listing");
        }
        let wanted = |(id, point): &(&String, &Point)| {
            point.committed
                && self.lie != Lie::HidePoints
                && query.get("vm").is_none_or(|vm| *vm == point.vm)
                && **id > query["after"]
        };
        let mut found: Vec<_> = self.points.iter().filter(wanted).take(PAGE + 1).collect();
        let more = found.len() > PAGE;
        found.truncate(PAGE);
        let next = found.last().filter(|_| more).map_or("", |(id, _)| id.as_str());
        let mut text = format!("{next}\n");
        for (id, point) in found {
            let disks: Vec<_> = point.disks.iter().map(|(name, bytes)| format!("{name}:{}", bytes.len())).collect();
            let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            let line = format!(
                "{id} {} {} {} [{}]{}\n",
                point.time,
                dash(&point.parent),
                dash(&disks.join(",")),
                point.namespace,
                point.vm
            );
            text.push_str(&line);
        }
        (DONE, text.into())
    }
}

fn begin(query: &Query) -> Point {
    let disk = |text: &str| {
        let (name, size) = text.split_once(':').unwrap_or((text, "0"));
        (name.to_owned(), vec![0; place(size)])
    };
    Point {
        vm: query["vm"].clone(),
        namespace: query["namespace"].clone(),
        time: query["time"].clone(),
        parent: query["parent"].clone(),
        disks: query["disks"].split(',').filter(|text| !text.is_empty()).map(disk).collect(),
        ..Point::default()
    }
}
