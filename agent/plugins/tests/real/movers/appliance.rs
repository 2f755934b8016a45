//! The appliance that `sdk/examples/appliance` is for: points with disks in memory, which it may be told to lie about.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio_util::task::AbortOnDropHandle;

/// What it wants to see.
pub(super) const TOKEN: &str = "appliance-31c8e0";

/// Points of a page: few, so that there are pages.
const PAGE: usize = 2;

/// What it says and does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
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

pub(super) struct Appliance {
    address: std::net::SocketAddr,
    kept: Arc<Mutex<Kept>>,
    _serving: AbortOnDropHandle<()>,
}

impl Appliance {
    pub(super) async fn start() -> Self {
        let kept = Kept { points: BTreeMap::new(), lie: Lie::None, seen: BTreeMap::new() };
        let kept = Arc::new(Mutex::new(kept));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().fallback(serve).with_state(Arc::clone(&kept));
        let serving = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
        Self { address, kept, _serving: serving }
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    pub(super) fn lie(&self, lie: Lie) {
        self.kept().lie = lie;
    }

    pub(super) fn seen(&self, what: &str) -> usize {
        self.kept().seen.get(what).copied().unwrap_or_default()
    }

    /// The ids of all that it has, committed or not.
    pub(super) fn points(&self) -> Vec<String> {
        self.kept().points.keys().cloned().collect()
    }

    /// Changes a byte of a disk, when nobody looks.
    pub(super) fn rot(&self, point: &str, disk: usize, at: usize) {
        self.kept().points.get_mut(point).unwrap().disks[disk].1[at] ^= 1;
    }

    pub(super) fn remove(&self, point: &str) {
        self.kept().points.remove(point).unwrap();
    }
}

async fn serve(State(kept): State<Arc<Mutex<Kept>>>, request: Request) -> Response {
    let authorized =
        request.headers().get("authorization").is_some_and(|value| value == format!("Bearer {TOKEN}").as_str());
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    if !authorized {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let path: Vec<_> =
        parts.uri.path().trim_start_matches("/points").split('/').filter(|part| !part.is_empty()).collect();
    kept.lock().unwrap().answer(parts.method.as_str(), &path, &query, &body)
}

type Query = BTreeMap<String, String>;

fn number(query: &Query, name: &str) -> usize {
    query[name].parse().unwrap()
}

impl Kept {
    fn answer(&mut self, method: &str, path: &[&str], query: &Query, body: &[u8]) -> Response {
        if let ("GET", []) = (method, path) {
            return self.list(query);
        }
        let id = path[0];
        if let ("POST", [_]) = (method, path) {
            self.points.insert(id.into(), begin(query));
            return StatusCode::CREATED.into_response();
        }
        if let ("DELETE", [_]) = (method, path) {
            let known = self.points.remove(id).is_some();
            return if known { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }.into_response();
        }
        if !self.points.contains_key(id) {
            return StatusCode::NOT_FOUND.into_response();
        }
        let lie = self.lie;
        match (method, &path[1..]) {
            ("POST", ["commit"]) => {
                self.point(id).committed = true;
                StatusCode::OK.into_response()
            }
            ("PUT", ["description"]) => {
                self.point(id).description.extend_from_slice(body);
                StatusCode::OK.into_response()
            }
            ("GET", ["description"]) => {
                let mut description = self.point(id).description.clone();
                if lie == Lie::ChangeDescriptions && !description.is_empty() {
                    description.pop();
                }
                Body::from(description).into_response()
            }
            ("PUT", ["disks", n]) => self.write(id, n.parse().unwrap(), number(query, "at"), body),
            ("POST", ["disks", n]) => self.note(id, n.parse().unwrap(), query),
            ("GET", ["disks", n]) => {
                let (at, len) = (number(query, "at"), number(query, "len"));
                let disk = &self.point(id).disks[n.parse::<usize>().unwrap()].1;
                Body::from(disk[at..at + len].to_vec()).into_response()
            }
            ("GET", ["disks", n, "extents"]) => self.extents(id, n.parse().unwrap(), query),
            _ => StatusCode::BAD_REQUEST.into_response(),
        }
    }

    fn point(&mut self, id: &str) -> &mut Point {
        self.points.get_mut(id).unwrap()
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn write(&mut self, id: &str, disk: usize, at: usize, body: &[u8]) -> Response {
        self.count("write");
        let mut bytes = body.to_vec();
        let size = self.point(id).disks[disk].1.len();
        match self.lie {
            Lie::ForgetWrites => bytes.fill(0),
            Lie::ChangeAByte => bytes[0] ^= 1,
            Lie::ChangeTheEnd if at + bytes.len() == size => *bytes.last_mut().unwrap() ^= 1,
            _ => {}
        }
        self.point(id).disks[disk].1[at..at + bytes.len()].copy_from_slice(&bytes);
        StatusCode::OK.into_response()
    }

    fn note(&mut self, id: &str, disk: usize, query: &Query) -> Response {
        let len = number(query, "len");
        if query.contains_key("zero") {
            self.count("zero");
            let at = number(query, "zero");
            let filling = if self.lie == Lie::ForgetZeros { 7 } else { 0 };
            self.point(id).disks[disk].1[at..at + len].fill(filling);
            return StatusCode::OK.into_response();
        }
        self.count("unchanged");
        let at = number(query, "unchanged");
        if self.lie != Lie::ForgetParents {
            let (parent, name) = (self.point(id).parent.clone(), self.point(id).disks[disk].0.clone());
            let parent = &self.points[&parent];
            let bytes = parent.disks.iter().find(|(known, _)| *known == name).unwrap().1[at..at + len].to_vec();
            self.point(id).disks[disk].1[at..at + len].copy_from_slice(&bytes);
        }
        StatusCode::OK.into_response()
    }

    /// Of 4 KiB each, as arrays have them.
    fn extents(&mut self, id: &str, disk: usize, query: &Query) -> Response {
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
            text.push_str(&format!("{from} {len} {}\n", if zero { "zero" } else { "data" }));
            from += len;
        }
        text.into_response()
    }

    fn list(&self, query: &Query) -> Response {
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
            text.push_str(&format!(
                "{id} {} {} {} [{}]{}\n",
                point.time,
                dash(&point.parent),
                dash(&disks.join(",")),
                point.namespace,
                point.vm
            ));
        }
        text.into_response()
    }
}

fn begin(query: &Query) -> Point {
    let disk = |text: &str| {
        let (name, size) = text.split_once(':').unwrap();
        (name.to_owned(), vec![0; size.parse().unwrap()])
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
