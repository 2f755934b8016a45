//! The broker: makes the requests that components plan, and nothing that the administrator did not allow.
//!
//! A request passes, in this order: its URL must be of a host and port on the list (`rules.rs`); an address in it, and every
//! address that its host's name resolves to, must be permitted (`network/`), and the connection goes to exactly
//! the addresses that were looked at; headers are checked and secrets put into them (`plan.rs`, `secrets.rs`); what comes back is
//! bounded, and without the secrets that were sent (`exchange.rs`). No redirect is followed, for nobody checked where it leads, and
//! no proxy of the environment is asked, which would connect in our stead. Each mover has a broker of its own, with its own
//! connections.

mod exchange;
mod log;
mod payload;
mod plan;
mod rules;
mod secrets;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use remora_core::{Error, ErrorKind, Result};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::words::{Class, Level, MoverError, Request, Response};
use crate::network::{CheckedNames, Grants, Names, authorities, checked_client};
use exchange::Exchange;
use log::Log;
use plan::Planned;

pub(super) use log::BLOTTED;
pub(super) use payload::{Payload, Sink};
pub(super) use rules::Rules;
pub(super) use secrets::Secrets;

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(10);

/// The longest that a request may take as a whole.
const LONGEST: Duration = Duration::from_mins(2);

/// Connections that wait for the next request to the same server.
const IDLE_CONNECTIONS: usize = 64;

/// Headers of an answer; with more it is none.
const ANSWER_HEADERS: usize = 100;

/// What a broker allows and knows.
pub(super) struct BrokerOptions {
    /// The mover's name, for logs.
    pub(super) mover: String,
    pub(super) rules: Rules,
    /// Addresses beside those of the internet.
    pub(super) grants: Grants,
    /// PEM certificates of authorities that are trusted beside the system's.
    pub(super) certificates: Option<Vec<u8>>,
    /// The secrets of the mover, by name.
    pub(super) secrets: BTreeMap<String, Zeroizing<Vec<u8>>>,
    pub(super) names: Arc<dyn Names>,
    /// Who hears the mover's lines beside the log.
    pub(super) ear: Option<Ear>,
}

/// Hears lines, as they are logged.
pub(super) type Ear = Arc<dyn Fn(&str) + Send + Sync>;

pub(super) struct Broker {
    client: reqwest::Client,
    rules: Rules,
    grants: Arc<Grants>,
    secrets: BTreeMap<String, Zeroizing<Vec<u8>>>,
    log: Arc<Log>,
}

impl Broker {
    pub(super) fn new(options: BrokerOptions) -> Result<Self> {
        let grants = Arc::new(options.grants);
        let certificates = options
            .certificates
            .as_deref()
            .map(|pem| authorities(pem, "network.caFile"))
            .transpose()?
            .unwrap_or_default();
        let names = CheckedNames { names: options.names, grants: Arc::clone(&grants) };
        let client = checked_client(certificates, names)
            .connect_timeout(CONNECT)
            .http1_max_headers(ANSWER_HEADERS)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .https_only(!options.rules.plain_http)
            .build()
            .map_err(|e| Error::new(ErrorKind::Failed, "making the client of a mover").because(e))?;
        let log = Arc::new(Log::new(options.mover, options.secrets.values(), options.ear));
        Ok(Self { client, rules: options.rules, grants, secrets: options.secrets, log })
    }

    /// The secret of a name, as it was given.
    fn secret(&self, name: &str) -> Option<&Zeroizing<Vec<u8>>> {
        self.secrets.get(name)
    }

    /// Checks a request and starts it; what it gives is the future of its answer, which is over by `deadline`.
    pub(super) fn submit(
        &self,
        request: Request,
        secrets: &Secrets,
        data: &Payload,
        sink: &Sink,
        deadline: Instant,
    ) -> Result<impl Future<Output = Result<Response, MoverError>> + Send + 'static, MoverError> {
        let url = self.rules.check(&request.url, &self.grants)?;
        let limit = match request.timeout_ms {
            0 => LONGEST,
            asked => LONGEST.min(Duration::from_millis(asked)),
        };
        let deadline = deadline.min(Instant::now() + limit);
        let Planned { request, basics } = plan::plan(url, request, secrets, data, sink)?;
        if !basics.iter().all(|basic| self.log.also_blot(basic)) {
            let why = "the mover has sent its secrets with more names of users than any needs";
            return Err(MoverError::new(Class::Invalid, "broker-request", why));
        }
        let (request, receive) = request;
        let log = Arc::clone(&self.log);
        Ok(Exchange { client: self.client.clone(), request, receive, deadline, log }.run())
    }

    /// A line of the mover's.
    pub(super) fn log(&self, level: Level, line: &str) {
        self.log.write(level, line);
    }

    /// Text of the mover's without secrets and control characters, for errors.
    pub(super) fn plain(&self, text: &str) -> String {
        self.log.plain(text)
    }
}
