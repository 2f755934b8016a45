//! AWS Signature Version 4, <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.
//!
//! The secret key and what is derived from it stay with the host; here are handles of them.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

use remora_sdk::objects::{Buffer, Error, Request, Secret, escaped, task};
use sha2::{Digest, Sha256};

/// What a request sends, for its digest.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    Nothing,
    Inline(&'a [u8]),
    /// The host has its digest at hand.
    Buffer(&'a Buffer),
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
    #[expect(clippy::too_many_arguments, reason = "they are what is signed")]
    pub(crate) fn sign<'a>(
        &self,
        endpoint: &str,
        host: &str,
        method: &'a str,
        path: &str,
        query: &[(&str, &str)],
        body: Body<'_>,
        headers: &[(&str, &str)],
    ) -> Request<'a> {
        let time = time();
        let day = &time[..8];
        let digest = match body {
            Body::Nothing => hex(&Sha256::digest([])),
            Body::Inline(bytes) => hex(&Sha256::digest(bytes)),
            Body::Buffer(buffer) => hex(&buffer.sha256()),
        };
        let mut signed = vec![("host", host), ("x-amz-content-sha256", &digest), ("x-amz-date", &time)];
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
        let url = if query.is_empty() { format!("{endpoint}{path}") } else { format!("{endpoint}{path}?{query}") };
        let mut request = Request::new(method, url).header("authorization", authorization);
        for (name, value) in signed.into_iter().filter(|(name, _)| *name != "host") {
            request = request.header(name, value);
        }
        request
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
