//! Object Lock of S3, by requests of our own: the client has no call for them. They are signed and sent as its own are.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use http::{Method, Request, StatusCode};
use jiff::{SignedDuration, Timestamp};
use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{Error, ObjectStore, PutMode, PutOptions, PutPayload, Result};

use super::{Locks, Version, rounded, xml};
use crate::store::limits::Paces;
use crate::store::open::Patience;
use crate::store::outage::jittered;

/// Makes a client of which each PUT stores an object that is kept until then.
pub(in crate::store) type KeepingClient = dyn Fn(Timestamp) -> remora_core::Result<Arc<dyn ObjectStore>> + Send + Sync;

/// How long a signature that only spells a URL would be good for.
const SPELLED: Duration = Duration::from_secs(1);

/// The first pause before a request is repeated.
const PAUSE: Duration = Duration::from_millis(100);

/// The locks of a bucket.
pub(in crate::store) struct S3Locks {
    /// For credentials and URLs.
    pub(in crate::store) s3: AmazonS3,
    pub(in crate::store) http: HttpClient,
    pub(in crate::store) region: String,
    /// The repository's folder in the bucket.
    pub(in crate::store) prefix: Path,
    pub(in crate::store) patience: Patience,
    pub(in crate::store) paces: Option<Arc<Paces>>,
    pub(in crate::store) keeping: Box<KeepingClient>,
    /// The client of the newest time.
    pub(in crate::store) newest: Mutex<Option<(Timestamp, Arc<dyn ObjectStore>)>>,
}

impl fmt::Debug for S3Locks {
    // Not the clients, which know credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Locks").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A request.
struct Ask<'a> {
    method: Method,
    /// The object; none for the bucket.
    name: Option<&'a Path>,
    query: Vec<(&'a str, &'a str)>,
    body: String,
}

/// An answer that is no success.
#[derive(Debug, thiserror::Error)]
#[error("status code: {status}: {body}")]
struct Refusal {
    status: StatusCode,
    body: String,
}

fn failed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "S3", source: why.into() }
}

impl S3Locks {
    fn client(&self, until: Timestamp) -> Result<Arc<dyn ObjectStore>> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*newest {
            Some((time, client)) if *time == until => Ok(Arc::clone(client)),
            _ => {
                let client = (self.keeping)(until).map_err(failed)?;
                *newest = Some((until, Arc::clone(&client)));
                Ok(client)
            }
        }
    }

    /// Asks until there is an answer that another try would not change. All that is asked may be asked twice.
    async fn ask(&self, ask: Ask<'_>) -> Result<String> {
        let mut pause = PAUSE;
        let mut tries = self.patience.retries;
        let give_up = tokio::time::Instant::now() + self.patience.give_up;
        loop {
            if let Some(paces) = &self.paces {
                paces.request().await;
            }
            let answer = self.ask_once(&ask).await;
            let again = match &answer {
                Ok((status, _)) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
                Err(_) => true,
            };
            if !again || tries == 0 || tokio::time::Instant::now() > give_up {
                let (status, body) = answer?;
                return if status.is_success() { Ok(body) } else { Err(refused(ask.name, status, body)) };
            }
            tokio::time::sleep(jittered(pause)).await;
            (tries, pause) = (tries - 1, (pause * 2).min(Duration::from_secs(10)));
        }
    }

    async fn ask_once(&self, ask: &Ask<'_>) -> Result<(StatusCode, String)> {
        let path = match ask.name {
            Some(name) => self.prefix.parts().chain(name.parts()).collect(),
            None => Path::default(),
        };
        // The URL as the client itself would spell it.
        let mut url = self.s3.signed_url(Method::GET, &path, SPELLED).await?;
        url.set_query(None);
        url.query_pairs_mut().extend_pairs(&ask.query);
        // A form has a plus for a space, a signature has not.
        let query = url.query().map(|query| query.replace('+', "%20"));
        url.set_query(query.as_deref());
        let mut request = Request::builder().method(ask.method.clone()).uri(url.as_str());
        if !ask.body.is_empty() {
            let digest = ring::digest::digest(&ring::digest::SHA256, ask.body.as_bytes());
            request = request.header("x-amz-checksum-sha256", Base64::encode_string(digest.as_ref()));
        }
        let mut request = request.body(HttpRequestBody::from(ask.body.clone())).map_err(failed)?;
        let credential = self.s3.credentials().get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None)?;
        let answer = self.http.execute(request).await.map_err(failed)?;
        let status = answer.status();
        let body = answer.into_body().bytes().await.map_err(failed)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

fn refused(name: Option<&Path>, status: StatusCode, body: String) -> Error {
    let missing = status == StatusCode::NOT_FOUND && (body.contains("NoSuchKey") || body.contains("NoSuchVersion"));
    let source = Box::new(Refusal { status, body });
    match name {
        Some(name) if missing => Error::NotFound { path: name.to_string(), source },
        _ => Error::Generic { store: "S3", source },
    }
}

#[async_trait]
impl Locks for S3Locks {
    async fn put_new(&self, name: &Path, payload: PutPayload, keep_for: SignedDuration) -> Result<()> {
        let client = self.client(rounded(Timestamp::now(), keep_for))?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        client.put_opts(name, payload, options).await.map(drop)
    }

    async fn kept_until(&self, name: &Path, version: Option<&str>) -> Result<Option<Timestamp>> {
        let mut query = vec![("retention", "")];
        query.extend(version.map(|version| ("versionId", version)));
        match self.ask(Ask { method: Method::GET, name: Some(name), query, body: String::new() }).await {
            Ok(text) => xml::kept_until(&text).map(Some).map_err(failed),
            Err(error) if error.to_string().contains("NoSuchObjectLockConfiguration") => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn keep_until(&self, name: &Path, version: &str, until: Timestamp) -> Result<()> {
        let query = vec![("retention", ""), ("versionId", version)];
        self.ask(Ask { method: Method::PUT, name: Some(name), query, body: xml::retention(until) }).await.map(drop)
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<Version>> {
        let own = if self.prefix.as_ref().is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let whole = format!("{own}{prefix}");
        let (mut all, mut after) = (Vec::new(), None::<(String, String)>);
        loop {
            let mut query = vec![("versions", ""), ("prefix", whole.as_str())];
            if let Some((key, version)) = &after {
                query.push(("key-marker", key));
                query.extend((!version.is_empty()).then_some(("version-id-marker", version.as_str())));
            }
            let text = self.ask(Ask { method: Method::GET, name: None, query, body: String::new() }).await?;
            let page = xml::page(&text, &own).map_err(failed)?;
            all.extend(page.versions);
            match page.next {
                Some(next) if Some(&next) != after.as_ref() => after = Some(next),
                Some(_) => return Err(failed("a listing of versions does not come to an end")),
                None => break,
            }
        }
        // Marks and data may come in two lists; of each name the newest goes first.
        all.sort_by(|a, b| (&a.name, b.latest, b.stored).cmp(&(&b.name, a.latest, a.stored)));
        Ok(all)
    }

    async fn remove_version(&self, name: &Path, version: &str) -> Result<()> {
        let query = vec![("versionId", version)];
        self.ask(Ask { method: Method::DELETE, name: Some(name), query, body: String::new() }).await.map(drop)
    }
}
