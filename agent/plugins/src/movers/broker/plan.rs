//! From the request that a component planned to one that is sent.

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body as Sent, Method};
use url::Url;
use zeroize::Zeroizing;

use super::super::words::{self, Body, Class, MoverError, Receive, Request};
use super::exchange::Into;
use super::payload::{Payload, Pieces, Sink};
use super::secrets::Secrets;

/// Headers of a request, and their bytes, at most.
const HEADERS: usize = 64;
const HEADER_BYTES: usize = 32 << 10;

/// What a component may put into a request, and have in an answer, itself.
const INLINE_SENT: usize = 64 << 10;
const INLINE_RECEIVED: u32 = 1 << 20;

/// Those that are the host's, and those that speak to what lies between here and the server.
const FORBIDDEN: [&str; 10] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "http2-settings",
];

/// A request that can be sent, and what must not be seen in logs because of it.
pub(super) struct Planned {
    pub(super) request: (reqwest::Request, Into),
    pub(super) basics: Vec<String>,
}

fn invalid(why: impl std::fmt::Display) -> MoverError {
    MoverError::new(Class::Invalid, "broker-request", format!("a request of the mover makes no sense: {why}"))
}

pub(super) fn plan(
    url: Url,
    request: Request,
    secrets: &Secrets,
    data: &Payload,
    sink: &Sink,
) -> Result<Planned, MoverError> {
    let mut sent = reqwest::Request::new(method(&request.method)?, url);
    let mut basics = Vec::new();
    *sent.headers_mut() = headers(request.headers, secrets, &mut basics)?;
    *sent.body_mut() = match request.body {
        Body::None => None,
        Body::Inline(bytes) if bytes.len() > INLINE_SENT => return Err(invalid("it has more than 64 KiB in it")),
        Body::Inline(bytes) => Some(Sent::from(Bytes::from(bytes))),
        Body::Buffer { offset, len } => {
            let pieces = data.slice(offset, len).ok_or_else(|| invalid("the buffer has no such range"))?;
            Some(Sent::wrap(Pieces::new(pieces)))
        }
    };
    let receive = match request.receive {
        Receive::Discard => Into::Nothing,
        Receive::Inline(most) if most > INLINE_RECEIVED => {
            return Err(invalid("it wants more than 1 MiB in its answer"));
        }
        Receive::Inline(most) => Into::Answer(most as usize),
        Receive::Sink if sink.len() > 0 => return Err(invalid("its sink has bytes already")),
        Receive::Sink => Into::Sink(sink.clone()),
    };
    Ok(Planned { request: (sent, receive), basics })
}

fn method(text: &str) -> Result<Method, MoverError> {
    let plain = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_uppercase());
    if !plain || matches!(text, "CONNECT" | "TRACE") {
        return Err(invalid(format_args!("{text:?} is no method for it")));
    }
    Method::from_bytes(text.as_bytes()).map_err(invalid)
}

fn headers(
    given: Vec<(String, words::HeaderValue)>,
    secrets: &Secrets,
    basics: &mut Vec<String>,
) -> Result<HeaderMap, MoverError> {
    if given.len() > HEADERS {
        return Err(invalid(format_args!("it has more than {HEADERS} headers")));
    }
    let mut headers = HeaderMap::new();
    let mut bytes = 0;
    for (name, value) in given {
        let named = HeaderName::from_bytes(name.as_bytes()).ok().filter(|known| known.as_str() == name);
        let named = named.ok_or_else(|| invalid(format_args!("{name:?} is no header's name in lower case")))?;
        if FORBIDDEN.contains(&named.as_str()) || named.as_str().starts_with("proxy-") {
            return Err(invalid(format_args!("the header {named} is the host's")));
        }
        let value = header_value(value, secrets, basics)?;
        bytes += name.len() + value.len();
        if bytes > HEADER_BYTES {
            return Err(invalid("its headers have more than 32 KiB"));
        }
        headers.append(named, value);
    }
    Ok(headers)
}

fn header_value(
    value: words::HeaderValue,
    secrets: &Secrets,
    basics: &mut Vec<String>,
) -> Result<HeaderValue, MoverError> {
    let secret = |number| secrets.get(number).map_err(invalid);
    let (bytes, sensitive) = match value {
        words::HeaderValue::Text(text) => (Zeroizing::new(text.into_bytes()), false),
        words::HeaderValue::Secret(before, number) => {
            let mut bytes = Zeroizing::new(before.into_bytes());
            bytes.extend_from_slice(secret(number)?);
            (bytes, true)
        }
        words::HeaderValue::Basic(user, number) => {
            if user.contains(':') {
                return Err(invalid("a user's name with a colon in it"));
            }
            let mut pair = Zeroizing::new(format!("{user}:").into_bytes());
            pair.extend_from_slice(secret(number)?);
            let encoded = Base64::encode_string(&pair);
            let bytes = Zeroizing::new(format!("Basic {encoded}").into_bytes());
            basics.push(encoded);
            (bytes, true)
        }
    };
    if !bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err(invalid("a header's value is not visible ASCII"));
    }
    let mut value = HeaderValue::from_bytes(&bytes).map_err(invalid)?;
    value.set_sensitive(sensitive);
    Ok(value)
}
