//! Requests to a registry: few of them, and only those that read.
//!
//! A crate of the field (`oci-client`) has more and lacks what matters here: it reads manifests and errors without a bound, lets
//! nobody look at addresses, follows redirects by itself, and logs in wherever a registry says.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use remora_core::{Error, ErrorKind, Result};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::Url;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::artifact::{Place, host_and_port, server_of};
use super::challenge::Challenge;
use super::document::Registry;
use crate::host::Digest;
use crate::network::{CheckedNames, Forbidden, SystemNames, authorities, checked_client, forbidden};

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(20);

/// Registries send whoever wants a blob to where it lies; more often than this none needs to.
const REDIRECTS: usize = 3;

/// The longest answer of a server of tokens.
const LONGEST_TOKEN: usize = 64 << 10;

/// The longest manifest.
const LONGEST_MANIFEST: usize = 1 << 20;

/// One repository of one server.
pub(super) struct Client<'a> {
    http: reqwest::Client,
    registry: &'a Registry,
    /// Of the server.
    base: Url,
    host: String,
    repository: String,
    /// What this server took for a login.
    login: Option<HeaderValue>,
}

#[derive(Deserialize, ZeroizeOnDrop)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Client<'a> {
    /// Of a repository below a place. Lives as long as the runtime in which its requests are made.
    pub(super) fn new(registry: &'a Registry, place: &Place, repository: &str) -> Result<Self> {
        let certificates = registry.certificates.as_deref().map(|pem| authorities(pem, "caFile")).transpose()?;
        let names = CheckedNames { names: Arc::new(SystemNames), grants: Arc::new(registry.grants.clone()) };
        let http = checked_client(certificates.unwrap_or_default(), names)
            .connect_timeout(CONNECT)
            .https_only(!registry.plain_http)
            .build()
            .map_err(|e| Error::new(ErrorKind::Failed, "making the client of a registry").because(e))?;
        let scheme = if registry.plain_http { "http" } else { "https" };
        let server = server_of(&place.host);
        let base = Url::parse(&format!("{scheme}://{server}/"))
            .map_err(|e| Error::new(ErrorKind::Invalid, format!("{server} is no registry")).because(e))?;
        let repository =
            if place.prefix.is_empty() { repository.to_owned() } else { format!("{}/{repository}", place.prefix) };
        let host = host_and_port(&base).unwrap_or_default();
        Ok(Self { http, registry, base, host, repository, login: None })
    }

    /// A manifest or an index by its digest or tag; none if there is none.
    pub(super) async fn manifest(&mut self, reference: &str, accept: &str) -> Result<Option<Vec<u8>>> {
        self.get(&format!("manifests/{reference}"), accept, LONGEST_MANIFEST).await
    }

    /// What refers to a manifest; none if the registry does not tell.
    pub(super) async fn referrers(&mut self, digest: &Digest, accept: &str) -> Result<Option<Vec<u8>>> {
        self.get(&format!("referrers/sha256:{digest}"), accept, LONGEST_MANIFEST).await
    }

    /// A blob of that digest and size.
    pub(super) async fn blob(&mut self, digest: &Digest, size: usize) -> Result<Vec<u8>> {
        let blob = self.get(&format!("blobs/sha256:{digest}"), "*/*", size).await?;
        let blob = blob.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("{} has no blob sha256:{digest}, which its manifest names", self.host),
            )
        })?;
        if blob.len() != size {
            let why = format!("{} gives {} bytes of sha256:{digest}, which has {size}", self.host, blob.len());
            return Err(Error::new(ErrorKind::Damaged, why));
        }
        self.is(&blob, digest)?;
        Ok(blob)
    }

    /// That bytes of this server have a digest.
    pub(super) fn is(&self, bytes: &[u8], digest: &Digest) -> Result<()> {
        let found = Digest::of(bytes);
        if found == *digest {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Damaged, format!("{} gives sha256:{found} for sha256:{digest}", self.host))
            .advise("What it holds was damaged or replaced: nothing of it is used."))
    }

    /// The answer to a request, at most so many bytes; none if there is no such thing.
    async fn get(&mut self, path: &str, accept: &str, most: usize) -> Result<Option<Vec<u8>>> {
        let url = self.base.join(&format!("v2/{}/{path}", self.repository));
        let url = url.map_err(|e| Error::new(ErrorKind::Invalid, format!("{path} makes no URL")).because(e))?;
        let mut answer = self.send(url.clone(), accept, self.login.clone()).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.login = Some(self.log_in(&answer).await?);
            answer = self.send(url.clone(), accept, self.login.clone()).await?;
        }
        let answer = self.follow(url, answer, accept).await?;
        let status = answer.status();
        if status.is_success() {
            return self.body(answer, most).await.map(Some);
        }
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Err(self.refusal(status))
    }

    fn refusal(&self, status: StatusCode) -> Error {
        let kind = match status.as_u16() {
            401 | 403 => ErrorKind::Refused,
            429 | 500.. => ErrorKind::Unavailable,
            _ => ErrorKind::Failed,
        };
        let error = Error::new(kind, format!("{} answers {status} for {}", self.host, self.repository));
        match kind {
            ErrorKind::Refused if self.registry.logins.of(&self.host).is_none() => error.advise(format!(
                "Name a pullSecret of the registry in registries.yaml that has {} among its auths.",
                self.host
            )),
            ErrorKind::Refused => error.advise("Look whether its user in the pull secret may read that repository."),
            _ => error,
        }
    }

    /// One request. What a URL's host may not be told is left out by whoever calls.
    async fn send(&self, url: Url, accept: &str, login: Option<HeaderValue>) -> Result<Response> {
        if let Some(why) = forbidden(&url, &self.registry.grants) {
            return Err(ungranted(&why));
        }
        let host = host_and_port(&url).unwrap_or_default();
        let mut request = self.http.get(url).header(ACCEPT, accept);
        if let Some(login) = login {
            request = request.header(AUTHORIZATION, login);
        }
        request.send().await.map_err(|e| unreached(&host, &e))
    }

    /// Goes where the server says that it lies. The login goes along to nowhere else: who holds blobs for a registry is told by
    /// the URL what it may give.
    async fn follow(&self, mut url: Url, mut answer: Response, accept: &str) -> Result<Response> {
        for _ in 0..REDIRECTS {
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let nowhere = || Error::new(ErrorKind::Failed, format!("{} redirects to nowhere", self.host));
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok()).ok_or_else(nowhere)?;
            let to = url.join(to).map_err(|_| nowhere())?;
            let plain = to.scheme() == "https" || to.scheme() == "http" && self.registry.plain_http;
            if !plain || !to.username().is_empty() || to.password().is_some() {
                let why = format!("{} redirects to {}:, which is not https", self.host, to.scheme());
                return Err(Error::new(ErrorKind::Refused, why));
            }
            let same = to.origin() == self.base.origin();
            answer = self.send(to.clone(), accept, self.login.clone().filter(|_| same)).await?;
            url = to;
        }
        Err(Error::new(ErrorKind::Failed, format!("{} redirects more than {REDIRECTS} times", self.host)))
    }

    /// What the server wants to see, had with what the pull secret has for whoever gives it.
    async fn log_in(&self, answer: &Response) -> Result<HeaderValue> {
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenges.iter().find_map(|value| Challenge::parse(value.to_str().ok()?));
        match challenge {
            Some(Challenge::Basic) => {
                let login = self.registry.logins.of(&self.host).ok_or_else(|| self.refusal(answer.status()))?;
                secret(login)
            }
            Some(Challenge::Bearer { realm, service }) => self.token(&realm, service.as_deref()).await,
            None => Err(self.refusal(answer.status())),
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>) -> Result<HeaderValue> {
        let bad =
            |why: String| Error::new(ErrorKind::Refused, format!("{} wants a token of {realm:?}: {why}", self.host));
        let mut url = Url::parse(realm).map_err(|e| bad(e.to_string()))?;
        if !(url.scheme() == "https" || url.scheme() == "http" && self.registry.plain_http) {
            return Err(bad("it is not https".into()));
        }
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", self.repository));
        let host = host_and_port(&url).unwrap_or_default();
        let login = self.registry.logins.of(&host).map(secret).transpose()?;
        let known = login.is_some();
        let answer = self.send(url, "application/json", login).await?;
        let status = answer.status();
        if !status.is_success() {
            let error = bad(format!("it answers {status}"));
            return Err(if known {
                error.advise("Look whether its user in the pull secret may read that repository.")
            } else {
                error.advise(format!("Put {host} among the auths of the registry's pullSecret: logins go to the host that they stand for alone."))
            });
        }
        let body = Zeroizing::new(self.body(answer, LONGEST_TOKEN).await?);
        let token: Token = serde_json::from_slice(&body).map_err(|_| bad("it gives none".into()))?;
        let token = token.token.as_ref().or(token.access_token.as_ref()).ok_or_else(|| bad("it gives none".into()))?;
        secret(&Zeroizing::new(format!("Bearer {token}")))
    }

    async fn body(&self, mut answer: Response, most: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|e| unreached(&self.host, &e))? {
            if piece.len() > most - body.len() {
                let why = format!("{} gives more than {most} bytes", self.host);
                return Err(
                    Error::new(ErrorKind::Damaged, why).advise("An answer is read no further than it may be long.")
                );
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

fn secret(value: &str) -> Result<HeaderValue> {
    let mut header = HeaderValue::from_str(value)
        .map_err(|_| Error::new(ErrorKind::Invalid, "a login has characters that no header takes"))?;
    header.set_sensitive(true);
    Ok(header)
}

fn ungranted(why: &Forbidden) -> Error {
    Error::new(ErrorKind::Refused, why.to_string())
        .advise("If it should be reached, list the registry in registries.yaml, with that address in its addresses.")
}

/// Why there is no answer. Never with the URL, of which a query may be secret.
fn unreached(host: &str, error: &reqwest::Error) -> Error {
    let mut causes = Vec::new();
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(why) = cause.downcast_ref::<Forbidden>() {
            return ungranted(why);
        }
        causes.push(cause.to_string());
        next = cause.source();
    }
    let why = causes.join(": ");
    if why.contains("invalid peer certificate") || why.contains("UnknownIssuer") {
        return Error::new(ErrorKind::Refused, format!("the certificate of {host} is not trusted"))
            .because(why)
            .advise("Name the authority that signed it as caFile of the registry in registries.yaml.");
    }
    Error::new(ErrorKind::Unavailable, format!("{host} cannot be reached")).because(why)
}
