//! The kit's own server: objects in memory, behind the plainest protocol that can be thought of. `docs/plugins.md` describes it, and
//! `sdk/examples/plain` speaks it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::injector::{Asked, Reply};

/// The name of the secret that the server wants to see, if the mover is given one.
pub(super) const TOKEN: &str = "token";

/// When everything was stored, in seconds: no clock is needed to look at that.
const STORED: i64 = 1_767_225_600;

/// The most that one listing has.
const PAGE: usize = 1_000;

/// The server.
pub(super) struct Plain {
    token: Option<Zeroizing<Vec<u8>>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    begun: u64,
}

impl Plain {
    pub(super) fn new(token: Option<Zeroizing<Vec<u8>>>) -> Self {
        Self { token, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knows(&self, asked: &Asked) -> bool {
        let Some(token) = &self.token else { return true };
        asked
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|given| given.as_bytes() == &***token)
    }

    pub(super) fn answer(&self, asked: &Asked) -> Reply {
        if !self.knows(asked) {
            return Reply::new(401, "who are you?");
        }
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut kept = self.kept();
        let parts = path.trim_start_matches('/').split_once('/');
        match (asked.method.as_str(), parts) {
            ("PUT", Some(("objects", key))) => {
                kept.put(key, asked.body.clone(), asked.header("if-none-match").is_some())
            }
            ("GET", Some(("objects", key))) => kept.get(key, asked.header("range")),
            ("HEAD", Some(("objects", key))) => kept.head(key),
            ("DELETE", Some(("objects", key))) => {
                Reply::new(if kept.objects.remove(key).is_some() { 204 } else { 404 }, Bytes::new())
            }
            ("GET", _) if path == "/objects" => kept.list(&query),
            ("POST", Some(("uploads", key))) => kept.upload(key, &query),
            ("PUT", Some(("uploads", key))) => kept.part(key, &query, asked.body.clone()),
            ("DELETE", Some(("uploads", key))) => {
                let known = kept.uploads.remove(&named(key, &query)).is_some();
                Reply::new(if known { 204 } else { 404 }, Bytes::new())
            }
            _ => Reply::new(400, "no such thing"),
        }
    }
}

/// An upload is known by its key and its number.
fn named(key: &str, query: &BTreeMap<String, String>) -> String {
    format!("{key}?{}", query.get("upload").map_or("", String::as_str))
}

impl Kept {
    fn put(&mut self, key: &str, body: Bytes, create: bool) -> Reply {
        if create && self.objects.contains_key(key) {
            return Reply::new(412, "it is there");
        }
        self.objects.insert(key.into(), body);
        Reply::new(201, Bytes::new())
    }

    fn get(&self, key: &str, range: Option<&str>) -> Reply {
        let Some(object) = self.objects.get(key) else { return Reply::new(404, "no such object") };
        let Some(range) = range else { return Reply::new(200, object.clone()) };
        let parsed = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let parsed = parsed.and_then(|(from, to)| Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?)));
        match parsed {
            Some((from, to)) if from <= to && from < object.len() => {
                Reply::new(206, object.slice(from..object.len().min(to + 1)))
            }
            _ => Reply::new(416, "no such range"),
        }
    }

    fn head(&self, key: &str) -> Reply {
        match self.objects.get(key) {
            Some(object) => {
                Reply::new(200, Bytes::new()).with("content-length", &object.len()).with("x-stored", &STORED)
            }
            None => Reply::new(404, Bytes::new()),
        }
    }

    /// A line for each object: its size, when it was stored, its key.
    fn list(&self, query: &BTreeMap<String, String>) -> Reply {
        let prefix = query.get("prefix").map_or("", String::as_str);
        let after = query.get("after").map_or("", String::as_str);
        let from = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        let found = self.objects.range::<str, _>((from, Bound::Unbounded));
        let mut lines = String::new();
        for (key, object) in found.take_while(|(key, _)| key.starts_with(prefix)).take(PAGE) {
            writeln!(lines, "{} {STORED} {key}", object.len()).expect("a string takes all");
        }
        Reply::new(200, lines)
    }

    /// Begins an upload, or makes an object of its parts.
    fn upload(&mut self, key: &str, query: &BTreeMap<String, String>) -> Reply {
        let Some(parts) = query.get("parts") else {
            self.begun += 1;
            let number = self.begun.to_string();
            self.uploads.insert(format!("{key}?{number}"), BTreeMap::new());
            return Reply::new(200, number);
        };
        let Some(stored) = self.uploads.get(&named(key, query)) else { return Reply::new(404, "no such upload") };
        let wanted: u32 = parts.parse().unwrap_or_default();
        let found: Option<Vec<&[u8]>> = (1..=wanted).map(|number| stored.get(&number).map(|part| &**part)).collect();
        let Some(found) = found else { return Reply::new(400, "a part is missing") };
        let whole = Bytes::from(found.concat());
        let reply = self.put(key, whole, true);
        if reply.status == 201 {
            self.uploads.remove(&named(key, query));
        }
        reply
    }

    fn part(&mut self, key: &str, query: &BTreeMap<String, String>, body: Bytes) -> Reply {
        let number = query.get("part").and_then(|number| number.parse().ok());
        match (self.uploads.get_mut(&named(key, query)), number) {
            (Some(upload), Some(number)) => {
                upload.insert(number, body);
                Reply::new(201, Bytes::new())
            }
            _ => Reply::new(404, "no such upload"),
        }
    }
}
