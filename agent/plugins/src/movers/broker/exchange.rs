//! One request and its answer, bounded.

use std::error::Error as StdError;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::super::words::{Class, MoverError, Response};
use super::log::Log;
use super::payload::Lent;
use crate::network::Forbidden;

/// The headers of an answer, at most.
const HEADER_BYTES: usize = 64 << 10;

/// The body of an answer that is told rather than wanted.
const TOLD: usize = 64 << 10;

/// A body that nobody wants is read to its end, so that the connection stays; beyond this it is cut off.
const DISCARDED: usize = 1 << 20;

/// Where the body of an answer goes.
pub(super) enum Into {
    Nothing,
    Answer(usize),
    /// If the status is 2xx; else the answer.
    Sink(Lent),
}

pub(super) struct Exchange {
    pub(super) client: reqwest::Client,
    pub(super) request: reqwest::Request,
    pub(super) receive: Into,
    pub(super) deadline: Instant,
    /// What knows the secrets that no answer brings to the component.
    pub(super) log: Arc<Log>,
}

impl Exchange {
    pub(super) async fn run(self) -> Result<Response, MoverError> {
        let Self { client, request, receive, deadline, log } = self;
        let server = request.url().host_str().unwrap_or_default().to_owned();
        let exchange = async {
            let answer = client.execute(request).await.map_err(|e| failure(&server, &e))?;
            let status = answer.status().as_u16();
            let headers = received(answer.headers(), &log)?;
            let body = body(answer, receive, &server, &log).await?;
            Ok(Response { status, headers, body })
        };
        timeout_at(deadline, exchange).await.unwrap_or_else(|_| {
            let why = format!("{server} did not answer in time");
            Err(MoverError::new(Class::Retryable, "broker-timeout", why))
        })
    }
}

fn received(headers: &HeaderMap, log: &Log) -> Result<Vec<(String, String)>, MoverError> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > HEADER_BYTES {
        return Err(too_much("the headers of an answer have more than 64 KiB"));
    }
    let header = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
        let value = log.without_secrets(value.as_bytes().to_vec());
        (name.as_str().to_owned(), String::from_utf8_lossy(&value).into_owned())
    };
    Ok(headers.iter().map(header).collect())
}

fn too_much(why: &str) -> MoverError {
    MoverError::new(Class::Permanent, "broker-too-large", why)
}

/// What is told of a body, without secrets.
async fn body(mut answer: reqwest::Response, receive: Into, server: &str, log: &Log) -> Result<Vec<u8>, MoverError> {
    let successful = answer.status().is_success();
    let mut next =
        async || -> Result<Option<Bytes>, MoverError> { answer.chunk().await.map_err(|e| failure(server, &e)) };
    let mut told = Vec::new();
    match receive {
        Into::Sink(sink) if successful => {
            while let Some(piece) = next().await? {
                if !sink.write(&piece) {
                    return Err(too_much(&format!("the body of an answer has more than {} bytes", sink.capacity())));
                }
            }
        }
        Into::Sink(_) => {
            // What is beyond is left out: it is an error's text. A secret across its end is read whole.
            let most = TOLD + log.longest();
            while told.len() < most
                && let Some(piece) = next().await?
            {
                let room = most - told.len();
                told.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            return Ok(beginning(told, most, log));
        }
        Into::Answer(most) => {
            while let Some(piece) = next().await? {
                if told.len() + piece.len() > most {
                    return Err(too_much(&format!("the body of an answer has more than {most} bytes")));
                }
                told.extend_from_slice(&piece);
            }
        }
        Into::Nothing => {
            let mut read = 0;
            while let Some(piece) = next().await? {
                read += piece.len();
                if read > DISCARDED {
                    break;
                }
            }
        }
    }
    Ok(log.without_secrets(told))
}

/// The beginning of an error's text of which at most so many bytes were read: without secrets, and without what may be the part
/// of one that was not read to its end.
fn beginning(text: Vec<u8>, most: usize, log: &Log) -> Vec<u8> {
    let part = if text.len() == most { log.longest() } else { 0 };
    let mut text = log.without_secrets(text);
    text.truncate(text.len().saturating_sub(part).min(TOLD));
    text
}

/// Why there is no answer. Never with the URL, of which a query may be secret.
fn failure(server: &str, error: &reqwest::Error) -> MoverError {
    let mut causes = Vec::new();
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(forbidden) = cause.downcast_ref::<Forbidden>() {
            return MoverError::new(Class::Permission, "broker-address", format!("{forbidden} (network.addresses)"));
        }
        causes.push(cause.to_string());
        next = cause.source();
    }
    let why = if causes.is_empty() { error.to_string() } else { causes.join(": ") };
    let told = |class, code, what: &str| MoverError::new(class, code, format!("{what} {server}: {why}"));
    if why.contains("invalid peer certificate") || why.contains("UnknownIssuer") {
        return told(Class::Permanent, "broker-certificate", "the certificate is not trusted of");
    }
    if error.is_timeout() {
        told(Class::Retryable, "broker-timeout", "there is no answer in time from")
    } else if error.is_connect() {
        told(Class::Retryable, "broker-connect", "there is no connection to")
    } else {
        told(Class::Retryable, "broker-broken", "the connection broke to")
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    const SECRET: &[u8] = b"canary-7f3a9c-canary";

    /// What is told of an error's text of which no more is read than may be.
    fn told(sent: &[u8]) -> Vec<u8> {
        let log = Log::new("acme".to_owned(), &[Zeroizing::new(SECRET.to_vec())], None);
        let most = TOLD + log.longest();
        beginning(sent[..sent.len().min(most)].to_vec(), most, &log)
    }

    fn has(text: &[u8], part: &[u8]) -> bool {
        text.windows(part.len()).any(|here| here == part)
    }

    #[test]
    fn no_part_of_a_secret_is_left_where_the_text_of_an_error_is_cut() {
        // Others before it make the text shorter, so that its end comes from further behind.
        for before in [0, 50] {
            for at in TOLD - 30..TOLD + 50 {
                let mut sent = SECRET.repeat(before);
                sent.resize(at, b'.');
                sent.extend_from_slice(SECRET);
                sent.resize(2 * TOLD, b'.');
                let told = told(&sent);
                assert!(told.len() <= TOLD && told.len() > TOLD - 1_000, "{before}, {at}: {}", told.len());
                assert!(!has(&told, &SECRET[..4]), "{before}, {at}");
            }
        }
    }

    #[test]
    fn a_short_text_of_an_error_is_told_whole() {
        assert_eq!(told(b""), b"");
        assert_eq!(told(b"denied"), b"denied");
        let mut sent = vec![b'.'; TOLD];
        assert_eq!(told(&sent), sent);
        sent.truncate(TOLD - 4);
        sent.extend_from_slice(SECRET);
        assert!(told(&sent).ends_with(b"..[sec"), "it is blotted out before it is cut");
    }
}
