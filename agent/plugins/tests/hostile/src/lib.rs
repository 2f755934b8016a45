//! A mover that misbehaves as its settings say. Else it keeps small objects in its memory or, if they name a server, there, as that
//! of `sdk/examples/plain` does.

mod misbehave;
#[path = "../../../../../sdk/examples/plain/src/plain.rs"]
mod plain;

use std::cell::RefCell;
use std::collections::BTreeMap;

use misbehave::misbehave;
use plain::Plain;
use remora_sdk::objects::{
    Buffer, Capabilities, Class, Error, Mover, Object, Page, Pending, Request, Secret, Sink, Stored, log,
};
use remora_sdk::{Invalid, serde};

#[derive(serde::Deserialize)]
#[serde(crate = "serde", deny_unknown_fields)]
struct Settings {
    /// What it does, where, such as `loop in get`.
    #[serde(default)]
    misbehave: String,
    /// What `head` fetches, if it is given.
    #[serde(default)]
    url: String,
    /// The server that keeps the objects, if one does.
    #[serde(default)]
    endpoint: Option<String>,
}

struct Hostile {
    misbehave: String,
    url: String,
    plain: Option<Plain>,
    objects: RefCell<BTreeMap<String, Vec<u8>>>,
}

remora_sdk::objects!(Hostile);

fn object(key: &str, size: u64) -> Object {
    Object { key: key.into(), size, modified: 1_700_000_000, etag: None }
}

fn none(key: &str) -> Error {
    Error::new(Class::NotFound, "none", format!("there is no {key}"))
}

impl Hostile {
    fn is(&self, what: &str) -> bool {
        self.misbehave == what
    }

    /// Misbehaves, if that is asked for in this function; gives the mover that goes on, if there is a server.
    fn after(&self, function: &str) -> Option<&Plain> {
        misbehave(&self.misbehave, function);
        self.plain.as_ref()
    }

    fn fetch(&self) -> Error {
        let fetched = (|| {
            let canary = Secret::get("canary")?;
            let request = Request::new("GET", &self.url).secret("authorization", "Bearer ", &canary);
            let answer = if self.is("pending") {
                let mut pending: Vec<Pending> = Vec::new();
                loop {
                    pending.push(Request::new("GET", &self.url).submit()?);
                }
            } else {
                request.send()?
            };
            let elsewhere = answer.header("location").filter(|_| self.is("follow")).map(str::to_owned);
            let answer = match elsewhere {
                Some(url) => Request::new("GET", url).send()?,
                None => answer,
            };
            if self.is("steal") {
                // Backwards, so that nobody knows a secret in it.
                let had = format!("{} {}", answer.header("x-echo").unwrap_or_default(), answer.text());
                return Ok(had.chars().rev().collect::<String>());
            }
            log::write(log::Level::Warn, &format!("it said {}", answer.text()));
            Ok(format!("status {}: {}", answer.status, answer.text()))
        })();
        fetched.map_or_else(|error: Error| error, |said| Error::new(Class::Permanent, "fetched", said))
    }
}

impl Mover for Hostile {
    type Settings = Settings;

    fn check(settings: &Settings) -> Result<(), Invalid> {
        misbehave(&settings.misbehave, "validate");
        if settings.misbehave == "nonsense" { Err(Invalid::field("/misbehave", "it is nonsense")) } else { Ok(()) }
    }

    fn open(settings: Settings, prefix: &str) -> Result<(Self, Capabilities), Error> {
        misbehave(&settings.misbehave, "open");
        let (plain, can) = match settings.endpoint {
            Some(endpoint) => {
                let (plain, can) = Plain::open(plain::Settings { endpoint }, prefix)?;
                // Its own uploads in parts go nowhere.
                (Some(plain), Capabilities { multipart: false, ..can })
            }
            None => (None, Capabilities { max_put: 1 << 30, multipart: true, min_part: 0, max_parts: 3 }),
        };
        Ok((Self { misbehave: settings.misbehave, url: settings.url, plain, objects: RefCell::default() }, can))
    }

    fn put_if_absent(&self, key: &str, data: &Buffer) -> Result<Stored, Error> {
        // A vault names segments so, and stores the first one when a backup is well under way.
        if key.contains("/s/") {
            misbehave(&self.misbehave, "put of a segment");
        }
        if let Some(plain) = self.after("put") {
            return plain.put_if_absent(key, data);
        }
        if self.is("read beyond the buffer") {
            data.read(data.len(), 1);
        }
        if self.is("say created and store nothing") {
            return Ok(Stored::Created);
        }
        let mut bytes = whole(data);
        if self.is("store half") {
            bytes.truncate(bytes.len() / 2);
        }
        self.objects.borrow_mut().insert(key.into(), bytes);
        Ok(Stored::Created)
    }

    fn replace(&self, key: &str, data: &Buffer) -> Result<(), Error> {
        if let Some(plain) = self.after("replace") {
            return plain.replace(key, data);
        }
        self.put_if_absent(key, data).map(drop)
    }

    fn get(&self, key: &str, offset: u64, len: u64, into: &Sink) -> Result<(), Error> {
        if let Some(plain) = self.after("get") {
            return plain.get(key, offset, len, into);
        }
        let objects = self.objects.borrow();
        let object = objects.get(key).ok_or_else(|| none(key))?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut bytes = object.get(offset..offset + len).map_or_else(|| vec![0; len], <[u8]>::to_vec);
        match self.misbehave.as_str() {
            "give other bytes" => bytes.reverse(),
            "give nothing" => bytes.clear(),
            "give too much" => bytes.push(0),
            _ => {}
        }
        into.write(&bytes)
    }

    fn head(&self, key: &str) -> Result<Object, Error> {
        if let Some(plain) = self.after("head") {
            return plain.head(key);
        }
        if !self.url.is_empty() {
            return Err(self.fetch());
        }
        let objects = self.objects.borrow();
        let size = objects.get(key).ok_or_else(|| none(key))?.len() as u64;
        Ok(match self.misbehave.as_str() {
            "tell another size" => object(key, size + 1),
            "tell of another object" => object("other", size),
            _ => object(key, size),
        })
    }

    fn list(&self, prefix: &str, after: Option<&str>, token: Option<&str>) -> Result<Page, Error> {
        if let Some(plain) = self.after("list") {
            return plain.list(prefix, after, token);
        }
        let objects = self.objects.borrow();
        let objects = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let mut objects: Vec<_> = objects.map(|(key, bytes)| object(key, bytes.len() as u64)).collect();
        let mut next = None;
        match self.misbehave.as_str() {
            "list what is elsewhere" => objects.push(object("~/elsewhere", 1)),
            "list in disorder" => objects.extend([object("t/z", 1), object("t/b", 1)]),
            "list too much" => objects.extend((0..2_000).map(|n| object(&format!("t/z{n:04}"), 1))),
            "list for ever" => {
                objects.clear();
                next = Some(format!("{}x", token.unwrap_or_default()));
            }
            "list new keys for ever" => {
                let first = token.map_or(0, |token| token.parse::<u32>().unwrap_or_default());
                let long = "x".repeat(3_000);
                objects = (first..first + 1_000).map(|n| object(&format!("t/{n:09}{long}"), 1)).collect();
                next = Some((first + 1_000).to_string());
            }
            "list strange names" => objects.push(object("t/../etc/passwd", 1)),
            "leave out" => objects.clear(),
            "list what is longer" => objects.iter_mut().for_each(|object| object.size += 1),
            "list gigantically" => {
                let gigantic = "x".repeat(100 << 20);
                objects.push(object(&gigantic, 1));
            }
            _ => {}
        }
        Ok(Page { objects, next })
    }

    fn delete(&self, keys: &[String]) -> Vec<Result<(), Error>> {
        if let Some(plain) = self.after("delete") {
            return plain.delete(keys);
        }
        if self.is("forget what to delete") {
            return Vec::new();
        }
        for key in keys {
            self.objects.borrow_mut().remove(key);
        }
        keys.iter().map(|_| Ok(())).collect()
    }

    fn begin(&self, _: &str) -> Result<String, Error> {
        misbehave(&self.misbehave, "multipart");
        Ok("token".into())
    }

    fn part(&self, _: &str, _: &str, _: u32, _: &Buffer) -> Result<(), Error> {
        misbehave(&self.misbehave, "part");
        Ok(())
    }

    fn complete(&self, _: &str, _: &str, _: u32) -> Result<Stored, Error> {
        misbehave(&self.misbehave, "complete");
        Ok(Stored::Created)
    }

    fn abort(&self, _: &str, _: &str) -> Result<(), Error> {
        misbehave(&self.misbehave, "abort");
        Ok(())
    }
}

/// All of a buffer, in the pieces that the host gives.
fn whole(data: &Buffer) -> Vec<u8> {
    const PIECE: u32 = 64 << 10;
    let mut bytes = Vec::new();
    loop {
        let at = bytes.len() as u64;
        let piece = u32::try_from(data.len() - at).unwrap_or(PIECE).min(PIECE);
        if piece == 0 {
            return bytes;
        }
        bytes.extend(data.read(at, piece));
    }
}
