//! What everything that connects somewhere has in common: which addresses may be reached, and which authorities are trusted.

mod addresses;
mod names;

use remora_core::{Error, ErrorKind, Result};

pub use addresses::Grants;
pub(crate) use addresses::{Forbidden, forbidden};
pub(crate) use names::CheckedNames;
pub use names::{Names, SystemNames};

/// Certificates of authorities, as PEM. `whose` is what names them in a document.
pub(crate) fn authorities(pem: &[u8], whose: &str) -> Result<Vec<reqwest::Certificate>> {
    let read = reqwest::Certificate::from_pem_bundle(pem).ok().filter(|bundle| !bundle.is_empty());
    read.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("the certificates of authorities ({whose}) cannot be read"))
            .advise("The file holds certificates as text: -----BEGIN CERTIFICATE----- and so on.")
    })
}
