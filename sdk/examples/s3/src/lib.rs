//! A mover for stores that speak S3.
//!
//! Settings: `endpoint` (`https://host:port`), `bucket`, `region` (`us-east-1` if not given), `accessKey`. The secret key is
//! the secret `secret-key`. Buckets are named in the path. Start reading at [`S3`]; `sign.rs` signs requests, `xml.rs` reads
//! answers.

mod sign;
mod xml;

use remora_sdk::objects::{
    Buffer, Capabilities, Class, Error, Mover, Object, Page, Pending, Request, Response, Sink, Stored, range, whole,
};
use remora_sdk::{Invalid, serde};

use sign::{Body, Call, Endpoint, Signer};

/// Requests under way when objects are deleted; the host allows 16 in a call.
const AT_ONCE: usize = 16;

/// A page of a listing has at most 1,000 keys of 1 KiB; keys of a vault are much shorter.
const LISTING: u32 = 1 << 20;

/// The smallest part of an upload, and how many there may be: S3's own limits.
const SMALLEST_PART: u64 = 5 << 20;
const MOST_PARTS: u32 = 10_000;

/// The largest object of one PUT.
const LARGEST_PUT: u64 = 5 << 30;

/// What is said of an endpoint that is none.
const ENDPOINT: &str = "write it as https://host:port";

/// With it S3 stores an object only where there is none of that key.
const IF_NONE: (&str, &str) = ("if-none-match", "*");

#[derive(serde::Deserialize)]
#[serde(crate = "serde", deny_unknown_fields, rename_all = "camelCase")]
struct Settings {
    endpoint: String,
    bucket: String,
    #[serde(default = "usual_region")]
    region: String,
    access_key: String,
}

fn usual_region() -> String {
    "us-east-1".into()
}

/// An open bucket.
struct S3 {
    endpoint: Endpoint,
    bucket: String,
    /// What keys begin with in the bucket.
    prefix: String,
    signer: Signer,
}

remora_sdk::objects!(S3);

impl Mover for S3 {
    type Settings = Settings;

    fn check(settings: &Settings) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        if Endpoint::parse(&settings.endpoint).is_none() {
            invalid.add("/endpoint", ENDPOINT);
        }
        let plain = settings.bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if settings.bucket.is_empty() || !plain {
            invalid.add("/bucket", "it is no bucket's name");
        }
        if settings.access_key.is_empty() {
            invalid.add("/accessKey", "it is empty");
        }
        invalid.or(())
    }

    fn open(settings: Settings, prefix: &str) -> Result<(Self, Capabilities), Error> {
        let endpoint = Endpoint::parse(&settings.endpoint);
        let endpoint = endpoint.ok_or_else(|| Error::new(Class::Invalid, "endpoint", ENDPOINT))?;
        let signer = Signer::new(settings.access_key, settings.region)?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let store = Self { endpoint, bucket: settings.bucket, prefix, signer };
        let can =
            Capabilities { max_put: LARGEST_PUT, multipart: true, min_part: SMALLEST_PART, max_parts: MOST_PARTS };
        Ok((store, can))
    }

    fn put_if_absent(&self, key: &str, data: &Buffer) -> Result<Stored, Error> {
        let call = Call { headers: &[IF_NONE], body: Body::Object(data), ..Call::new("PUT") };
        stored(key, &self.request(key, &call).send()?)
    }

    fn replace(&self, key: &str, data: &Buffer) -> Result<(), Error> {
        let call = Call { body: Body::Object(data), ..Call::new("PUT") };
        done("storing", key, &self.request(key, &call).send()?)
    }

    fn get(&self, key: &str, offset: u64, len: u64, into: &Sink) -> Result<(), Error> {
        let range = range(offset, len);
        let call = Call { headers: &[("range", range.as_str())], ..Call::new("GET") };
        done("reading", key, &self.request(key, &call).into_sink(into).send()?)?;
        whole(key, offset, len, into)
    }

    fn head(&self, key: &str) -> Result<Object, Error> {
        let answer = self.request(key, &Call::new("HEAD")).discard().send()?;
        done("looking at", key, &answer)?;
        answer.object(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, token: Option<&str>) -> Result<Page, Error> {
        let prefix = format!("{}{prefix}", self.prefix);
        let after = after.map(|after| format!("{}{after}", self.prefix));
        let mut query = vec![("list-type", "2"), ("max-keys", "1000"), ("prefix", &prefix)];
        query.extend(after.as_deref().map(|after| ("start-after", after)));
        query.extend(token.map(|token| ("continuation-token", token)));
        let call = Call { query: &query, ..Call::new("GET") };
        let answer = self.of_bucket(&call).receive(LISTING).send()?;
        done("listing", &prefix, &answer)?;
        xml::page(&answer.text(), &self.prefix)
    }

    fn delete(&self, keys: &[String]) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            let begun: Vec<Result<Pending, Error>> =
                some.iter().map(|key| self.request(key, &Call::new("DELETE")).submit()).collect();
            results.extend(begun.into_iter().zip(some).map(|(begun, key)| {
                match done("deleting", key, &begun?.wait()?) {
                    Err(error) if error.class == Class::NotFound => Ok(()),
                    other => other,
                }
            }));
        }
        results
    }

    fn begin(&self, key: &str) -> Result<String, Error> {
        let call = Call { query: &[("uploads", "")], ..Call::new("POST") };
        let answer = self.request(key, &call).send()?;
        done("beginning", key, &answer)?;
        xml::element(&answer.text(), "UploadId")
    }

    fn part(&self, key: &str, token: &str, number: u32, data: &Buffer) -> Result<(), Error> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", token)];
        let call = Call { query: &query, body: Body::Buffer(data), ..Call::new("PUT") };
        done("storing a part of", key, &self.request(key, &call).send()?)
    }

    fn complete(&self, key: &str, token: &str, parts: u32) -> Result<Stored, Error> {
        let parts = self.parts(key, token, parts)?;
        let list = xml::complete(&parts);
        let (query, body) = ([("uploadId", token)], Body::Inline(list.as_bytes()));
        let call = Call { query: &query, headers: &[IF_NONE], body, ..Call::new("POST") };
        let answer = self.request(key, &call).send()?;
        // S3 may say "200" and then that it failed.
        if answer.is_success() && answer.text().contains("<Error>") {
            return Err(refused("completing", key, &answer));
        }
        stored(key, &answer)
    }

    fn abort(&self, key: &str, token: &str) -> Result<(), Error> {
        let query = [("uploadId", token)];
        let call = Call { query: &query, ..Call::new("DELETE") };
        let answer = self.request(key, &call).send()?;
        done("giving up", key, &answer)
    }
}

impl S3 {
    /// A signed request about an object.
    fn request<'a>(&self, key: &str, call: &Call<'a>) -> Request<'a> {
        let path = format!("/{}/{}{key}", self.bucket, self.prefix);
        self.signer.sign(&self.endpoint, &path, call)
    }

    /// A signed request about the bucket.
    fn of_bucket<'a>(&self, call: &Call<'a>) -> Request<'a> {
        let path = format!("/{}/", self.bucket);
        self.signer.sign(&self.endpoint, &path, call)
    }

    /// The numbers and tags of an upload's parts, which must be 1 to `wanted`.
    fn parts(&self, key: &str, token: &str, wanted: u32) -> Result<Vec<(u32, String)>, Error> {
        let mut parts: Vec<(u32, String)> = Vec::new();
        while parts.len() < wanted as usize {
            let after = parts.last().map_or(0, |(number, _)| *number).to_string();
            let query = [("max-parts", "1000"), ("part-number-marker", after.as_str()), ("uploadId", token)];
            let call = Call { query: &query, ..Call::new("GET") };
            let answer = self.request(key, &call).receive(LISTING).send()?;
            done("listing the parts of", key, &answer)?;
            let more = xml::parts(&answer.text())?;
            if more.is_empty() {
                let message = format!("completing {key}: {wanted} parts were stored, {} are there", parts.len());
                return Err(Error::new(Class::Corrupt, "parts-missing", message));
            }
            parts.extend(more);
        }
        Ok(parts)
    }
}

fn stored(key: &str, answer: &Response) -> Result<Stored, Error> {
    match answer.status {
        412 => Ok(Stored::Exists),
        // Another one is storing it right now, and may fail.
        409 => Err(Error::new(Class::Retryable, "ConditionalRequestConflict", format!("another client stores {key}"))),
        _ => done("storing", key, answer).map(|()| Stored::Created),
    }
}

fn done(doing: &str, key: &str, answer: &Response) -> Result<(), Error> {
    if answer.is_success() { Ok(()) } else { Err(refused(doing, key, answer)) }
}

/// What S3 says of a request that it refuses.
fn refused(doing: &str, key: &str, answer: &Response) -> Error {
    let (code, message) = xml::error(&answer.text());
    let mut error =
        Error::of_status(answer, format!("{doing} {key}: the store answers {} {code} {message}", answer.status));
    error.class = match code.as_str() {
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" => Class::Auth,
        "SlowDown" | "ServiceUnavailable" | "TooManyRequests" => Class::Throttled,
        "InternalError" | "RequestTimeout" => Class::Retryable,
        "QuotaExceeded" => Class::Quota,
        // A whole bucket that is missing is no object that is.
        "NoSuchBucket" => Class::Invalid,
        _ => error.class,
    };
    if !code.is_empty() {
        error.code = code;
    }
    error
}
