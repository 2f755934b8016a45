//! What everything that connects somewhere has in common: which addresses may be reached, and which authorities are trusted.

mod addresses;
mod names;

use std::sync::Arc;
use std::time::Duration;

use remora_core::{Error, ErrorKind, Result, check_authorities};

pub use addresses::Grants;
pub(crate) use addresses::{Forbidden, forbidden};
pub(crate) use names::CheckedNames;
pub use names::{Names, SystemNames};

/// How long a server may be silent while an answer comes.
const SILENCE: Duration = Duration::from_mins(1);

/// A client that goes nowhere but where it is sent: to addresses that `names` permits, after no redirect and through no proxy of
/// the environment. `certificates` are trusted beside the system's.
pub(crate) fn checked_client(certificates: Vec<reqwest::Certificate>, names: CheckedNames) -> reqwest::ClientBuilder {
    // The one of this process; another caller may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder()
        .tls_certs_merge(certificates)
        .read_timeout(SILENCE)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .http1_only()
        .dns_resolver(Arc::new(names))
}

/// Certificates of authorities, as PEM. `whose` is what names them in a document.
pub(crate) fn authorities(pem: &[u8], whose: &str) -> Result<Vec<reqwest::Certificate>> {
    check_authorities(pem).map_err(|why| {
        Error::new(ErrorKind::Invalid, format!("the certificates of authorities ({whose})"))
            .because(why)
            .advise(why.advice())
    })?;
    let read = reqwest::Certificate::from_pem_bundle(pem).ok().filter(|bundle| !bundle.is_empty());
    read.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("the certificates of authorities ({whose}) cannot be read"))
            .advise("The file holds certificates as text: -----BEGIN CERTIFICATE----- and so on.")
    })
}
