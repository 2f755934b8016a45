//! The mover: which requests it makes, and what their answers mean.

use remora_sdk::objects::{
    Buffer, Capabilities, Class, Error, Mover, Object, Page, Request, Response, Secret, Sink, Stored, done, escaped,
    range, whole,
};
use remora_sdk::{Invalid, serde};

/// The largest object, and part of one.
const LARGEST: u64 = 64 << 20;

/// A page of the listing has so many lines; one that has fewer is the last.
const PAGE: usize = 1_000;

#[derive(serde::Deserialize)]
#[serde(crate = "serde", deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) endpoint: String,
}

pub(crate) struct Plain {
    endpoint: String,
    /// What keys begin with on the server.
    prefix: String,
    token: Secret,
}

impl Mover for Plain {
    type Settings = Settings;

    fn check(settings: &Settings) -> Result<(), Invalid> {
        let known = ["http://", "https://"].iter().any(|scheme| settings.endpoint.starts_with(scheme));
        if known { Ok(()) } else { Err(Invalid::field("/endpoint", "write it as https://host:port")) }
    }

    fn open(settings: Settings, prefix: &str) -> Result<(Self, Capabilities), Error> {
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let can = Capabilities { max_put: LARGEST, multipart: true, min_part: 0, max_parts: 10_000 };
        Ok((Self { endpoint, prefix, token: Secret::get("token")? }, can))
    }

    fn put_if_absent(&self, key: &str, data: &Buffer) -> Result<Stored, Error> {
        let request = self.request("PUT", &self.object(key)).header("if-none-match", "*");
        stored(key, &request.buffer(data).send()?)
    }

    fn replace(&self, key: &str, data: &Buffer) -> Result<(), Error> {
        let request = self.request("PUT", &self.object(key));
        done("storing", key, &request.buffer(data).send()?)
    }

    fn get(&self, key: &str, offset: u64, len: u64, into: &Sink) -> Result<(), Error> {
        let request = self.request("GET", &self.object(key)).header("range", range(offset, len));
        done("reading", key, &request.into_sink(into).send()?)?;
        whole(key, offset, len, into)
    }

    fn head(&self, key: &str) -> Result<Object, Error> {
        let answer = self.request("HEAD", &self.object(key)).discard().send()?;
        done("looking at", key, &answer)?;
        let number = |name: &str| {
            let value = answer.header(name).and_then(|value| value.parse::<i64>().ok());
            value.ok_or_else(|| {
                Error::new(Class::Retryable, "no-header", format!("the answer about {key} has no {name}"))
            })
        };
        let (size, modified) = (number("content-length")?, number("x-stored")?);
        Ok(Object { key: key.into(), size: size.unsigned_abs(), modified, etag: None })
    }

    fn list(&self, prefix: &str, after: Option<&str>, token: Option<&str>) -> Result<Page, Error> {
        // What follows a page is what comes after its last key.
        let after = token.or(after).map(|after| format!("{}{after}", self.prefix)).unwrap_or_default();
        let prefix = format!("{}{prefix}", self.prefix);
        let path = format!("/objects?prefix={}&after={}", escaped(&prefix, "/"), escaped(&after, "/"));
        let answer = self.request("GET", &path).receive(1 << 20).send()?;
        done("listing", &prefix, &answer)?;
        let text = answer.text();
        let objects = text.lines().map(|line| self.line(line)).collect::<Result<Vec<_>, _>>()?;
        let next = (objects.len() == PAGE).then(|| objects[PAGE - 1].key.clone());
        Ok(Page { objects, next })
    }

    fn delete(&self, keys: &[String]) -> Vec<Result<(), Error>> {
        let delete = |key: &String| {
            let answer = self.request("DELETE", &self.object(key)).send()?;
            if answer.status == 404 { Ok(()) } else { done("removing", key, &answer) }
        };
        keys.iter().map(delete).collect()
    }

    fn begin(&self, key: &str) -> Result<String, Error> {
        let answer = self.request("POST", &self.upload(key, "")).send()?;
        done("beginning", key, &answer)?;
        Ok(answer.text())
    }

    fn part(&self, key: &str, token: &str, number: u32, data: &Buffer) -> Result<(), Error> {
        let request = self.request("PUT", &self.upload(key, &format!("?upload={token}&part={number}")));
        done("storing a part of", key, &request.buffer(data).send()?)
    }

    fn complete(&self, key: &str, token: &str, parts: u32) -> Result<Stored, Error> {
        stored(key, &self.request("POST", &self.upload(key, &format!("?upload={token}&parts={parts}"))).send()?)
    }

    fn abort(&self, key: &str, token: &str) -> Result<(), Error> {
        done("giving up", key, &self.request("DELETE", &self.upload(key, &format!("?upload={token}"))).send()?)
    }
}

impl Plain {
    fn request<'a>(&'a self, method: &'a str, path: &str) -> Request<'a> {
        Request::new(method, format!("{}{path}", self.endpoint)).secret("authorization", "Bearer ", &self.token)
    }

    fn object(&self, key: &str) -> String {
        format!("/objects/{}{key}", self.prefix)
    }

    fn upload(&self, key: &str, query: &str) -> String {
        format!("/uploads/{}{key}{query}", self.prefix)
    }

    /// A line of a listing: size, when it was stored, key.
    fn line(&self, line: &str) -> Result<Object, Error> {
        let read = || {
            let mut words = line.splitn(3, ' ');
            let (size, modified) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let key = words.next()?.strip_prefix(&self.prefix)?.to_owned();
            Some(Object { key, size, modified, etag: None })
        };
        read().ok_or_else(|| Error::new(Class::Retryable, "unreadable", "a line of the listing cannot be read"))
    }
}

fn stored(key: &str, answer: &Response) -> Result<Stored, Error> {
    if answer.status == 412 { Ok(Stored::Exists) } else { done("storing", key, answer).map(|()| Stored::Created) }
}
