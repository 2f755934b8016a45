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
        Receive::Sink => {
            let another = "another request of this call fills its sink: it has to be answered or given up first";
            Into::Sink(sink.lend().ok_or_else(|| invalid(another))?)
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::{Broker, BrokerOptions, Rules};
    use super::*;
    use crate::network::{Grants, SystemNames};

    /// A mover's only secret, opened, and its number.
    fn secret(bytes: &[u8]) -> (Secrets, u32) {
        let options = BrokerOptions {
            mover: "mover".to_owned(),
            rules: Rules::default(),
            grants: Grants::default(),
            certificates: None,
            secrets: BTreeMap::from([("key".to_owned(), Zeroizing::new(bytes.to_vec()))]),
            names: Arc::new(SystemNames),
            ear: None,
        };
        let mut secrets = Secrets::default();
        let number = secrets.open(&Broker::new(options).unwrap(), "key").unwrap().unwrap();
        (secrets, number)
    }

    fn request() -> Request {
        Request {
            method: "PUT".to_owned(),
            url: String::new(),
            headers: Vec::new(),
            body: Body::None,
            receive: Receive::Discard,
            timeout_ms: 0,
        }
    }

    fn with(headers: Vec<(&str, words::HeaderValue)>) -> Request {
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Request { headers, ..request() }
    }

    /// The plan of a call that sends eight bytes, and has room for as many.
    fn planned(request: Request, secrets: &Secrets) -> Result<Planned, MoverError> {
        let data = Payload::new(vec![Bytes::from_static(b"0123"), Bytes::from_static(b"4567")]);
        plan("https://s3.example.com/b/k".parse().unwrap(), request, secrets, &data, &Sink::new(8))
    }

    #[track_caller]
    fn refused(request: Request, secrets: &Secrets) -> String {
        let shown = format!("{request:?}");
        let Err(error) = planned(request, secrets) else { panic!("it is sent: {shown}") };
        assert_eq!((error.class, error.code.as_str()), (Class::Invalid, "broker-request"), "{shown}");
        error.message
    }

    #[test]
    fn what_is_the_hosts_or_would_be_read_as_more_than_it_is_goes_into_no_request() {
        let (none, text) = (Secrets::default(), |text: &str| words::HeaderValue::Text(text.to_owned()));
        for (name, value) in [
            ("host", "evil.example.com"),
            ("content-length", "0"),
            ("transfer-encoding", "chunked"),
            ("connection", "upgrade"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("proxy-authorization", "Basic x"),
            ("Host", "evil.example.com"),
            ("x y", "1"),
            ("", "1"),
            ("x", "1\r\nhost: evil.example.com"),
            ("x", "1\nhost: evil.example.com"),
            ("x", "\0"),
            ("x", "\u{e4}"),
        ] {
            refused(with(vec![(name, text(value))]), &none);
        }
        for method in ["", "CONNECT", "TRACE", "get", "GET /other", "GET\r\n", "ABCDEFGHIJKLMNOPQRSTU"] {
            refused(Request { method: method.to_owned(), ..request() }, &none);
        }
        planned(with(vec![("x", text("1")), ("x-amz-date", text("20260101T000000Z"))]), &none).map(drop).unwrap();
    }

    #[test]
    fn a_request_is_bounded_in_all_that_it_has_and_wants() {
        let (none, long) = (Secrets::default(), |bytes| words::HeaderValue::Text("x".repeat(bytes)));
        planned(with(vec![("x", long(1)); HEADERS]), &none).map(drop).unwrap();
        refused(with(vec![("x", long(1)); HEADERS + 1]), &none);
        planned(with(vec![("x", long(HEADER_BYTES - 1))]), &none).map(drop).unwrap();
        refused(with(vec![("x", long(HEADER_BYTES))]), &none);
        for (number, (body, fits)) in [
            (Body::Inline(vec![0; INLINE_SENT]), true),
            (Body::Inline(vec![0; INLINE_SENT + 1]), false),
            (Body::Buffer { offset: 2, len: 6 }, true),
            (Body::Buffer { offset: 8, len: 0 }, true),
            (Body::Buffer { offset: 2, len: 7 }, false),
            (Body::Buffer { offset: u64::MAX, len: 2 }, false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(planned(Request { body, ..request() }, &none).is_ok(), fits, "body {number}");
        }
        let inline = |most| Request { receive: Receive::Inline(most), ..request() };
        planned(inline(INLINE_RECEIVED), &none).map(drop).unwrap();
        refused(inline(INLINE_RECEIVED + 1), &none);
    }

    /// Two would mix their bytes.
    #[test]
    fn a_sink_is_filled_by_one_request_at_a_time() {
        let (sink, none) = (Sink::new(8), Secrets::default());
        let planned = || {
            let wanted = Request { receive: Receive::Sink, ..request() };
            plan("https://s3.example.com/b/k".parse().unwrap(), wanted, &none, &Payload::default(), &sink)
        };
        let first = planned().unwrap();
        let Err(error) = planned() else { panic!("two requests fill one sink") };
        assert_eq!((error.class, error.code.as_str()), (Class::Invalid, "broker-request"));
        assert!(error.message.contains("another request of this call fills its sink"), "{}", error.message);
        drop(first);
        let next = planned().unwrap();
        let Into::Sink(lent) = next.request.1 else { panic!("it goes elsewhere") };
        assert!(lent.write(b"0123"));
        drop(lent);
        assert!(planned().is_err(), "it has bytes already");
    }

    #[test]
    fn a_secret_is_sent_in_its_header_and_told_nowhere_else() {
        let (secrets, number) = secret(b"canary");
        let bearer = |number| words::HeaderValue::Secret("Bearer ".to_owned(), number);
        let basic = |user: &str| words::HeaderValue::Basic(user.to_owned(), number);
        let both = with(vec![("authorization", bearer(number)), ("x-other", basic("user"))]);
        let Planned { request: (sent, _), basics } = planned(both, &secrets).unwrap();
        let encoded = Base64::encode_string(b"user:canary");
        assert_eq!(sent.headers()["authorization"], "Bearer canary");
        assert_eq!(sent.headers()["x-other"], format!("Basic {encoded}"));
        assert_eq!(basics, [encoded.as_str()], "it is blotted out too");
        let shown = format!("{sent:?}");
        assert!(!shown.contains("canary") && !shown.contains(&encoded), "{shown}");

        refused(with(vec![("authorization", bearer(number + 1))]), &secrets);
        refused(with(vec![("authorization", basic("user:other"))]), &secrets);
        // Whoever wrote the file meant no header of its own.
        let (secrets, number) = secret(b"canary\r\nhost: evil.example.com");
        let said = refused(with(vec![("authorization", bearer(number))]), &secrets);
        assert!(!said.contains("canary"), "{said}");
    }
}
