//! A mover for servers of WebDAV (RFC 4918), such as Apache's `mod_dav` and `rclone serve webdav`.
//!
//! Settings: `url` (`https://host:port/folder`, a collection that is there) and `user`. The password is the secret `password`.
//!
//! WebDAV has less than a vault wants, and this mover makes up for it:
//!
//! * *Create if absent.* `If-None-Match: *` is no help: rclone's server ignores it, and Apache looks at it before the upload
//!   and not after. So an object is uploaded under a name of its own and then moved to where it belongs with `Overwrite: F`,
//!   which fails with 412 if something is there. Nothing half uploaded is ever seen, either.
//! * *Replace.* A `MOVE` with `Overwrite: T` removes what is there first (section 9.9.3), and for a moment there is nothing. So
//!   there are two of an object that was ever replaced: the spare beside it is replaced first, and whoever does not find the
//!   object finds that: see [`Dav::either`]. Each is moved from a name that nobody else moves, because rclone's server removes
//!   what is there even if what should come in its place is gone. A server that was killed in that moment leaves the spare alone:
//!   then it is the object, and stays until there is one again.
//! * *Listings* come whole, a collection at a time, and a component has 1 MiB of an answer: so objects lie in small collections,
//!   see `places.rs`; `tree.rs` walks them.
//! * *Parts* cannot be joined on the server, so there are no uploads in parts.
//!
//! Start reading at [`Dav`]; `multistatus.rs` reads answers.

mod multistatus;
mod places;
mod tree;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Write;

use remora_sdk::objects::{
    Buffer, Capabilities, Class, Error, Mover, Object, Page, Pending, Request, Response, Secret, Sink, Stored, done,
    escaped, range, task, whole,
};
use remora_sdk::{Invalid, serde};
use sha2::{Digest, Sha256};

use multistatus::Member;
use places::Places;

/// Objects that are deleted at once: one request of each is under way, and the host allows 16 in a call.
const AT_ONCE: usize = 16;

/// How often the spare of an object that is not there is looked for, and then the object again.
const LOOKS: usize = 3;

/// The largest object. WebDAV has no limit of its own, and Apache's is 1 GiB.
const LARGEST: u64 = 1 << 30;

/// What a collection's listing may have.
const LISTING: u32 = 1 << 20;

/// How often a collection is made that somebody else is making.
const TRIES: u32 = 50;

/// What a listing has to tell of each member.
const WANTED: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/>\
                      <getcontentlength/><getlastmodified/><getetag/></prop></propfind>";

#[derive(serde::Deserialize)]
#[serde(crate = "serde", deny_unknown_fields)]
struct Settings {
    url: String,
    user: String,
}

/// An open collection.
struct Dav {
    /// The URL of the settings, without a slash at its end.
    url: String,
    places: Places,
    user: String,
    password: Secret,
    /// Collections that were there when this instance made them.
    made: RefCell<HashSet<String>>,
}

remora_sdk::objects!(Dav);

impl Mover for Dav {
    type Settings = Settings;

    fn check(settings: &Settings) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        let known = ["http://", "https://"].iter().any(|scheme| settings.url.starts_with(scheme));
        if !known || settings.url.contains(['?', '#', '@', ' ']) {
            invalid.add("/url", "write it as https://host:port/folder, percent-encoded");
        }
        if settings.user.is_empty() || settings.user.contains(':') {
            invalid.add("/user", "it is no user's name");
        }
        invalid.or(())
    }

    fn open(settings: Settings, prefix: &str) -> Result<(Self, Capabilities), Error> {
        let store = Self {
            url: settings.url.trim_end_matches('/').to_owned(),
            places: Places::new(prefix),
            user: settings.user,
            password: Secret::get("password")?,
            made: RefCell::default(),
        };
        Ok((store, Capabilities { max_put: LARGEST, multipart: false, min_part: 0, max_parts: 0 }))
    }

    fn put_if_absent(&self, key: &str, data: &Buffer) -> Result<Stored, Error> {
        if self.is_there(key, &self.places.spare(key))? {
            return Ok(Stored::Exists);
        }
        self.put(key, data, &self.places.object(key), "F")
    }

    fn replace(&self, key: &str, data: &Buffer) -> Result<(), Error> {
        let (object, spare) = (self.places.object(key), self.places.spare(key));
        // Where there is no object, its spare may be all that there is: it is not touched.
        if !self.is_there(key, &object)? && matches!(self.put(key, data, &object, "F")?, Stored::Created) {
            return Ok(());
        }
        for to in [&spare, &object] {
            self.put(key, data, to, "T")?;
        }
        Ok(())
    }

    fn get(&self, key: &str, offset: u64, len: u64, into: &Sink) -> Result<(), Error> {
        let range = range(offset, len);
        let get = |path: &str| self.request("GET", path).header("range", range.as_str()).into_sink(into).send();
        done("reading", key, &self.either(key, get)?)?;
        whole(key, offset, len, into)
    }

    fn head(&self, key: &str) -> Result<Object, Error> {
        let answer = self.either(key, |path| self.request("HEAD", path).discard().send())?;
        done("looking at", key, &answer)?;
        answer.object(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, token: Option<&str>) -> Result<Page, Error> {
        // What follows a page is what comes after its last key.
        tree::page(self, prefix, token.or(after).unwrap_or_default())
    }

    fn delete(&self, keys: &[String]) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            // A spare that is left alone would be taken for the object.
            let spares: Vec<_> = some.iter().map(|key| self.removal(&self.places.spare(key))).collect();
            let objects: Vec<_> = spares
                .into_iter()
                .zip(some)
                .map(|(spare, key)| removed(key, spare).and_then(|()| self.removal(&self.places.object(key))))
                .collect();
            results.extend(objects.into_iter().zip(some).map(|(object, key)| removed(key, object)));
        }
        results
    }
}

impl Dav {
    fn request<'a>(&'a self, method: &'a str, path: &str) -> Request<'a> {
        Request::new(method, self.url_of(path)).basic(&self.user, &self.password)
    }

    fn url_of(&self, path: &str) -> String {
        format!("{}/{}", self.url, escaped(path, "/"))
    }

    /// Asks about an object where it lies; and while it is replaced, where its spare lies. Of several that replace it one may have
    /// removed the object when another has removed the spare, each for a moment: so they are looked for a few times.
    fn either(&self, key: &str, ask: impl Fn(&str) -> Result<Response, Error>) -> Result<Response, Error> {
        let (object, spare) = (self.places.object(key), self.places.spare(key));
        let mut answer = ask(&object)?;
        for path in [&spare, &object].into_iter().cycle().take(2 * LOOKS) {
            if answer.status != 404 {
                break;
            }
            answer = ask(path)?;
        }
        Ok(answer)
    }

    /// Whether something lies there.
    fn is_there(&self, key: &str, path: &str) -> Result<bool, Error> {
        let answer = self.request("HEAD", path).discard().send()?;
        if answer.status == 404 { Ok(false) } else { done("looking at", key, &answer).map(|()| true) }
    }

    /// Uploads what is to lie at `to`, and moves it there. With `overwrite` F it stays as it is if there is something.
    fn put(&self, key: &str, data: &Buffer, to: &str, overwrite: &str) -> Result<Stored, Error> {
        let from = self.upload(key, data, to)?;
        let stored = self.rename(&from, to, overwrite).and_then(|answer| match answer.status {
            412 if overwrite == "F" => Ok(Stored::Exists),
            _ => done("storing", key, &answer).map(|()| Stored::Created),
        });
        if !matches!(stored, Ok(Stored::Created)) {
            self.discard(&from);
        }
        stored
    }

    /// Uploads what is to become an object at `to`; where it lies. The collections of both are there then.
    fn upload(&self, key: &str, data: &Buffer, to: &str) -> Result<String, Error> {
        self.make(places::above(to))?;
        let folder = self.places.uploads();
        self.make(&folder)?;
        // No two uploads have a name in common, but for the same bytes for the same place in the same millisecond.
        let unique = format!("{to} {} {}", task::now(), task::monotonic_ms());
        let digest = Sha256::new().chain_update(data.sha256()).chain_update(unique).finalize();
        let mut path = format!("{folder}/");
        digest.iter().for_each(|byte| write!(path, "{byte:02x}").expect("a string takes all"));
        let uploaded = self.request("PUT", &path).buffer(data).send().and_then(|answer| {
            if matches!(answer.status, 404 | 409) {
                // Somebody removed collections; the next call makes them again.
                self.made.borrow_mut().clear();
            }
            done("storing", key, &answer)
        });
        if uploaded.is_err() {
            self.discard(&path);
        }
        uploaded.map(|()| path)
    }

    /// Begins to remove what lies there.
    fn removal(&self, path: &str) -> Result<Pending, Error> {
        self.request("DELETE", path).submit()
    }

    fn rename(&self, from: &str, to: &str, overwrite: &str) -> Result<Response, Error> {
        self.request("MOVE", from).header("destination", self.url_of(to)).header("overwrite", overwrite).send()
    }

    /// Removes an upload that came to nothing. If that fails it stays, and is seen by nobody.
    fn discard(&self, path: &str) {
        self.request("DELETE", path).discard().send().ok();
    }

    /// Makes a collection and those above it, unless they are there.
    fn make(&self, folder: &str) -> Result<(), Error> {
        if folder.is_empty() || self.made.borrow().contains(folder) {
            return Ok(());
        }
        let mut answer = self.mkcol(folder)?;
        if answer.status == 409 {
            // The one above is missing (section 9.3.1).
            self.make(places::above(folder))?;
            answer = self.mkcol(folder)?;
        }
        // It is there; rclone says 201 then too.
        if answer.status != 405 {
            done("making the collection", folder, &answer)?;
        }
        self.made.borrow_mut().insert(folder.to_owned());
        Ok(())
    }

    fn mkcol(&self, folder: &str) -> Result<Response, Error> {
        let mut tries = 1;
        loop {
            let answer = self.request("MKCOL", folder).send()?;
            // Whoever has it locked makes the same collection, and is done in a moment.
            if answer.status != 423 || tries == TRIES {
                return Ok(answer);
            }
            tries += 1;
        }
    }

    /// The members of a collection; none if it is not there.
    fn members(&self, folder: &str) -> Result<Option<Vec<Member>>, Error> {
        let request = self.request("PROPFIND", folder).header("depth", "1").header("content-type", "application/xml");
        let answer = request.inline(WANTED).receive(LISTING).send()?;
        if answer.status == 404 {
            return Ok(None);
        }
        done("listing", folder, &answer)?;
        multistatus::members(&answer.text(), &self.url_of(folder)).map(Some)
    }

    /// Whether the collection of the settings is there, without which nothing else can be.
    fn must_be_there(&self) -> Result<(), Error> {
        let answer = self.request("PROPFIND", "").header("depth", "0").discard().send()?;
        if answer.status == 404 {
            let message = "the collection of the settings (url) is not there: make it";
            return Err(Error::new(Class::Invalid, "http-404", message));
        }
        done("looking at", "the collection of the settings", &answer)
    }
}

/// Whether what was to be removed is gone.
fn removed(key: &str, removal: Result<Pending, Error>) -> Result<(), Error> {
    let answer = removal?.wait()?;
    if answer.status == 404 { Ok(()) } else { done("deleting", key, &answer) }
}
