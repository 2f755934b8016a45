//! The client for a place that somebody chose who is not trusted: it connects to addresses of the internet only.
//!
//! What a name resolves to is looked at where the connection takes its addresses from, so nothing can change in between;
//! addresses that stand in a URL, whoever wrote it, are looked at with each request; and no redirect is followed, nor a
//! proxy of the process's environment asked, which would connect in our stead.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpService, ReqwestConnector,
};
use remora_core::is_internet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use url::Host;

use crate::store::open::Patience;

/// What makes HTTP clients.
#[derive(Debug)]
pub(super) enum Connector {
    /// Those that connect to whatever they are told.
    Anywhere(ReqwestConnector),
    /// Those that do not.
    Internet(ToInternet),
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        match self {
            Self::Anywhere(connector) => connector.connect(options),
            Self::Internet(connector) => connector.connect(options),
        }
    }
}

/// Makes clients that connect to addresses of the internet only.
#[derive(Debug)]
pub(super) struct ToInternet {
    pub(super) patience: Patience,
    /// PEM certificates that are trusted beside the system's.
    pub(super) certificates: Option<Vec<u8>>,
}

impl ToInternet {
    /// The client itself, which looks at what names resolve to, and not at the addresses that stand in URLs.
    fn client(&self, options: &ClientOptions) -> object_store::Result<reqwest::Client> {
        let failed = |e: reqwest::Error| object_store::Error::Generic { store: "HTTP client", source: Box::new(e) };
        let certificates = match &self.certificates {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem).map_err(failed)?,
            None => Vec::new(),
        };
        let http = options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() == Some("true");
        reqwest::Client::builder()
            .default_headers(options.get_default_headers().cloned().unwrap_or_default())
            .tls_certs_merge(certificates)
            .connect_timeout(self.patience.connect)
            .read_timeout(self.patience.silence)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .https_only(!http)
            .dns_resolver(Arc::new(InternetNames))
            .build()
            .map_err(failed)
    }
}

impl HttpConnector for ToInternet {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(InternetOnly(self.client(options)?)))
    }
}

/// Refuses URLs with an address in them that is not of the internet.
#[derive(Debug)]
struct InternetOnly(reqwest::Client);

#[async_trait]
impl HttpService for InternetOnly {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let url = request.uri().to_string();
        // As the client reads it: 127.1 and 0x7f.1 are addresses too.
        let address = match url::Url::parse(&url).ok().and_then(|url| url.host().map(|host| host.to_owned())) {
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            None => return Err(never(Inside("a URL without a host".into()))),
        };
        if let Some(address) = address.filter(|address| !is_internet(*address)) {
            return Err(never(Inside(address.to_string())));
        }
        self.0.call(request).await.map_err(|error| if is_inside(&error) { never(error) } else { error })
    }
}

/// Whether it is what a name resolves to, which is told as a connection that failed.
fn is_inside(error: &HttpError) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.is::<Inside>() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// What another try does not change.
fn never(why: impl Error + Send + Sync + 'static) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, why)
}

/// Resolves names to addresses of the internet.
struct InternetNames;

impl Resolve for InternetNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One inside among them is no accident.
            if let Some(inside) = found.iter().find(|address| !is_internet(address.ip())) {
                return Err(Inside(format!("{} (of {})", inside.ip(), name.as_str())).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// An address that is not to be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not an address of the internet, and a tenant's repository reaches no other")]
struct Inside(String);

#[cfg(test)]
mod tests {
    use object_store::client::HttpRequestBody;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_inside_is_asked_for_once_be_it_an_address_or_a_name() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let to_internet = ToInternet { patience: Patience::USUAL, certificates: None };
        let client = to_internet.connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        for url in ["http://127.0.0.1:1/", "http://localhost:1/"] {
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.uri_mut() = url.parse().unwrap();
            let error = client.execute(request).await.unwrap_err();
            // Of this kind nothing is tried again, neither by the client nor while a store is waited for.
            assert_eq!(error.kind(), HttpErrorKind::Unknown, "{url}: {error:?}");
        }
    }

    /// Nobody would look at where it leads.
    #[tokio::test]
    async fn a_redirect_of_a_tenant_s_store_is_followed_nowhere() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let inside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        inside.set_nonblocking(true).unwrap();
        // As if it were of the internet: the client itself does not look at an address.
        let store = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
            inside.local_addr().unwrap()
        );
        let serving = async {
            let (mut stream, _) = store.accept().await.unwrap();
            let read = stream.read(&mut [0; 1024]).await.unwrap();
            assert!(read > 0, "it asks nothing");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let to_internet = ToInternet { patience: Patience::USUAL, certificates: None };
        let client = to_internet.client(&ClientOptions::new().with_allow_http(true)).unwrap();
        let url = format!("http://{}/", store.local_addr().unwrap());
        let (answered, _stream) = tokio::join!(client.get(url).send(), serving);
        assert_eq!(answered.unwrap().status().as_u16(), 307);
        assert!(inside.accept().is_err(), "it was followed");
    }
}
