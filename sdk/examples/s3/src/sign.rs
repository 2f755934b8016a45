//! AWS Signature Version 4, <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.
//!
//! The secret key and what is derived from it stay with the host; here are handles of them.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

use remora_sdk::objects::{Buffer, Error, Request, Secret, escaped, task};
use sha2::{Digest, Sha256};

/// Where a store answers.
pub(crate) struct Endpoint {
    /// Without a slash at its end.
    url: String,
    /// `host:port`, as the `host` header has it.
    host: String,
}

impl Endpoint {
    /// None if it is not written as `https://host:port`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let url = text.strip_suffix('/').unwrap_or(text);
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
        let plain = !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
        plain.then(|| Self { url: url.to_owned(), host: host.to_owned() })
    }
}

/// What is asked of a path.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) query: &'a [(&'a str, &'a str)],
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: Body<'a>,
}

impl<'a> Call<'a> {
    /// With nothing but the method.
    pub(crate) fn new(method: &'a str) -> Self {
        Self { method, query: &[], headers: &[], body: Body::Nothing }
    }
}

/// What a request sends.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    Nothing,
    Inline(&'a [u8]),
    /// The host has its digest at hand.
    Buffer(&'a Buffer),
    /// All of an object. Its digest is sent as its checksum, which is signed, in the place of the body's: without one the store would
    /// compute another of its own beside, and with both the same one twice.
    Object(&'a Buffer),
}

/// Who signs, and for where.
pub(crate) struct Signer {
    access_key: String,
    region: String,
    secret: Secret,
    /// The key of a day, which takes four derivations.
    of_day: RefCell<Option<(String, Rc<Secret>)>>,
}

impl Signer {
    pub(crate) fn new(access_key: String, region: String) -> Result<Self, Error> {
        let secret = Secret::get("secret-key")?.prefixed("AWS4");
        Ok(Self { access_key, region, secret, of_day: RefCell::default() })
    }

    /// A request with all that S3 wants to see of it.
    pub(crate) fn sign<'a>(&self, endpoint: &Endpoint, path: &str, call: &Call<'a>) -> Request<'a> {
        let Endpoint { url, host } = endpoint;
        let Call { method, query, headers, body } = *call;
        let time = time();
        let day = &time[..8];
        let digest = match body {
            Body::Nothing => hex(&Sha256::digest([])),
            Body::Inline(bytes) => hex(&Sha256::digest(bytes)),
            Body::Buffer(buffer) => hex(&buffer.sha256()),
            Body::Object(_) => "UNSIGNED-PAYLOAD".to_owned(),
        };
        let checksum = match body {
            Body::Object(buffer) => Some(base64(&buffer.sha256())),
            _ => None,
        };
        let mut signed = vec![("host", host.as_str()), ("x-amz-content-sha256", &digest), ("x-amz-date", &time)];
        signed.extend(checksum.as_deref().map(|checksum| ("x-amz-checksum-sha256", checksum)));
        signed.extend_from_slice(headers);
        signed.sort_unstable();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let query = canonical_query(query);
        let path = escaped(path, "/");
        let mut canonical = format!("{method}\n{path}\n{query}\n");
        for (name, value) in &signed {
            writeln!(canonical, "{name}:{value}").expect("a string takes all");
        }
        write!(canonical, "\n{names}\n{digest}").expect("a string takes all");
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let signature = hex(&self.key(day).hmac_sha256(to_sign.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
            self.access_key
        );
        let url = if query.is_empty() { format!("{url}{path}") } else { format!("{url}{path}?{query}") };
        let mut request = Request::new(method, url).header("authorization", authorization);
        for (name, value) in signed.into_iter().filter(|(name, _)| *name != "host") {
            request = request.header(name, value);
        }
        match body {
            Body::Nothing => request,
            Body::Inline(bytes) => request.inline(bytes),
            Body::Buffer(buffer) | Body::Object(buffer) => request.buffer(buffer),
        }
    }

    fn key(&self, day: &str) -> Rc<Secret> {
        let mut of_day = self.of_day.borrow_mut();
        if let Some((known, key)) = &*of_day
            && known == day
        {
            return Rc::clone(key);
        }
        let key = self.secret.derive_hmac_sha256(day.as_bytes());
        let key = key.derive_hmac_sha256(self.region.as_bytes());
        let key = Rc::new(key.derive_hmac_sha256(b"s3").derive_hmac_sha256(b"aws4_request"));
        *of_day = Some((day.to_owned(), Rc::clone(&key)));
        key
    }
}

/// Now, such as `20260102T030405Z`.
fn time() -> String {
    let now = jiff::Timestamp::from_second(task::now()).unwrap_or_default();
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn canonical_query(query: &[(&str, &str)]) -> String {
    let mut pairs: Vec<_> =
        query.iter().map(|(name, value)| format!("{}={}", escaped(name, ""), escaped(value, ""))).collect();
    pairs.sort_unstable();
    pairs.join("&")
}

fn hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(hex, "{byte:02x}").expect("a string takes all");
    }
    hex
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |n: usize| u32::from(three.get(n).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for n in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * n) & 63) as usize];
            text.push(if n > three.len() { '=' } else { char::from(letter) });
        }
    }
    text
}
