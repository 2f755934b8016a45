//! Which servers may be asked at all.

use remora_core::{Error, ErrorKind, Result};
use url::{Host, Url};

use super::super::words::{Class, MoverError};
use crate::network::{Grants, forbidden};

/// The servers on the list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    allowed: Vec<(Host, u16)>,
    /// Whether requests may go unencrypted.
    pub(super) plain_http: bool,
}

impl Rules {
    /// Of servers such as `s3.example.com:443`.
    pub(crate) fn new<'a>(allowed: impl IntoIterator<Item = &'a str>, plain_http: bool) -> Result<Self> {
        let allowed = allowed.into_iter().map(server).collect::<Result<_>>()?;
        Ok(Self { allowed, plain_http })
    }

    /// The URL, if requests may go there.
    pub(super) fn check(&self, text: &str, grants: &Grants) -> Result<Url, MoverError> {
        let invalid = |why: &str| MoverError::new(Class::Invalid, "broker-url", format!("a request's URL {why}"));
        let refused = |code: &str, why: String| MoverError::new(Class::Permission, code, why);
        let url = Url::parse(text).map_err(|e| invalid(&format!("is none: {e}")))?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(invalid("has a user, a password or a fragment"));
        }
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            "http" => {
                let why = format!("{} is plain HTTP, which was not allowed (network.plainHttp)", shown(&url));
                return Err(refused("broker-plain-http", why));
            }
            other => return Err(refused("broker-scheme", format!("{other}: is neither https nor http"))),
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(invalid("names no host"));
        };
        let host = host.to_owned();
        if !self.allowed.iter().any(|allowed| *allowed == (host.clone(), port)) {
            let why = format!("{} is not on the list of servers (network.allow)", shown(&url));
            return Err(refused("broker-not-allowed", why));
        }
        if let Some(forbidden) = forbidden(&url, grants) {
            return Err(refused("broker-address", format!("{forbidden} (network.addresses)")));
        }
        Ok(url)
    }
}

/// Host and port: a path or a query may say too much.
fn shown(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

fn server(text: &str) -> Result<(Host, u16)> {
    let parsed = || {
        // As URLs are read, so that both are compared in one form.
        let url = Url::parse(&format!("https://{text}/")).ok()?;
        // A star would match nothing, and whoever writes one thinks otherwise.
        let plain = !text.contains('*')
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none();
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse().ok())?;
        plain.then(|| Some((url.host()?.to_owned(), port)))?
    };
    parsed().ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("{text:?} is no server")).advise("Write it as s3.example.com:443.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(rules: &Rules, url: &str) -> (Class, String) {
        let error = rules.check(url, &Grants::default()).unwrap_err();
        (error.class, error.code)
    }

    #[test]
    fn only_what_is_on_the_list_passes() {
        let rules = Rules::new(["S3.example.com:443", "[2606:4700::1]:8443", "127.0.0.1:443"], false).unwrap();
        for url in
            ["https://s3.example.com/b/k?x=%20y", "https://s3.EXAMPLE.com:443/", "https://[2606:4700:0::1]:8443/"]
        {
            rules.check(url, &Grants::default()).unwrap_or_else(|e| panic!("{url}: {}", e.message));
        }
        for (url, code) in [
            ("https://s3.example.com:444/", "broker-not-allowed"),
            ("https://s3.example.com.:443/", "broker-not-allowed"),
            ("https://evil.com/s3.example.com:443", "broker-not-allowed"),
            ("https://evil.com#s3.example.com", "broker-url"),
            ("https://s3.example.com@evil.com/", "broker-url"),
            ("http://s3.example.com:443/", "broker-plain-http"),
            ("ftp://s3.example.com:443/", "broker-scheme"),
            ("https://0x7f.1/", "broker-address"),
            ("s3.example.com:443", "broker-scheme"),
            ("/", "broker-url"),
        ] {
            assert_eq!(refusal(&rules, url).1, code, "{url}");
        }
        // An empty list allows nothing.
        assert_eq!(
            refusal(&Rules::default(), "https://s3.example.com/"),
            (Class::Permission, "broker-not-allowed".into())
        );
    }

    #[test]
    fn what_is_no_server_is_told() {
        for text in ["s3.example.com", "https://a:1", "a:1/b", "a:x", ":443", "u@a:1", "*:443"] {
            assert!(Rules::new([text], false).is_err(), "{text}");
        }
    }
}
