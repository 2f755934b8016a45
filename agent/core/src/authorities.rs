//! What stands where certificates of authorities are wanted, as PEM.

/// Why text is none of certificates of authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAuthorities {
    /// It has a private key in it, alone or beside certificates.
    #[error("there is a private key in it")]
    Key,
    /// It has nothing of what is wanted in it.
    #[error("there is no certificate in it")]
    Nothing,
}

impl NotAuthorities {
    /// What to do.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Key => {
                "A key is for its server alone: put the certificate of the authority that signed the server's there, \
                 -----BEGIN CERTIFICATE----- and so on, and no key."
            }
            Self::Nothing => {
                "Put the certificate of the authority that signed the server's there, as text: \
                 -----BEGIN CERTIFICATE----- and so on."
            }
        }
    }
}

/// That PEM text is of certificates and of no key: it is handed on to whoever is to trust a server, as no key may be. Whether the
/// certificates can be read is not looked at.
pub fn check_authorities(pem: &[u8]) -> Result<(), NotAuthorities> {
    let text = String::from_utf8_lossy(pem);
    if text.contains("PRIVATE KEY-----") {
        return Err(NotAuthorities::Key);
    }
    if text.contains("-----BEGIN CERTIFICATE-----") { Ok(()) } else { Err(NotAuthorities::Nothing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

    #[test]
    fn a_key_is_no_authority_whatever_stands_beside_it() {
        for kind in ["", "RSA ", "EC ", "ENCRYPTED ", "OPENSSH "] {
            let key = format!("-----BEGIN {kind}PRIVATE KEY-----\nMA==\n-----END {kind}PRIVATE KEY-----\n");
            for pem in [key.clone(), format!("{CERTIFICATE}{key}"), format!("{key}{CERTIFICATE}")] {
                assert_eq!(check_authorities(pem.as_bytes()), Err(NotAuthorities::Key), "{pem}");
            }
        }
    }

    #[test]
    fn certificates_are_wanted_as_text() {
        for pem in [CERTIFICATE.to_owned(), format!("# of the shop\n{CERTIFICATE}{CERTIFICATE}")] {
            assert_eq!(check_authorities(pem.as_bytes()), Ok(()), "{pem}");
        }
        for other in [b"".as_slice(), b"\x30\x82\xff", b"-----BEGIN PUBLIC KEY-----\nMA==\n-----END PUBLIC KEY-----\n"]
        {
            assert_eq!(check_authorities(other), Err(NotAuthorities::Nothing), "{other:?}");
        }
    }
}
