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
            let body = body(answer, receive, &server).await?;
            Ok(Response { status, headers, body: log.without_secrets(body) })
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

async fn body(mut answer: reqwest::Response, receive: Into, server: &str) -> Result<Vec<u8>, MoverError> {
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
            while let Some(piece) = next().await? {
                // What is beyond is left out: it is an error's text.
                let room = TOLD - told.len();
                told.extend_from_slice(&piece[..piece.len().min(room)]);
                if told.len() == TOLD {
                    break;
                }
            }
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
    Ok(told)
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
