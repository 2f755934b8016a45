//! Who logs in where: a pull secret, in the form of Docker's `config.json` and of Secrets of the type
//! `kubernetes.io/dockerconfigjson`.
//!
//! What stands under the name of a host is sent to that host alone. A registry may say that tokens are had elsewhere: who wants
//! to log in there names that host too.

use std::collections::BTreeMap;
use std::path::Path;

use base64ct::{Base64, Encoding};
use remora_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::artifact::host_of;

/// The name under which `docker login` keeps what is for all of Docker Hub, and the hosts of that.
const DOCKER_HUB: &str = "index.docker.io";
const OF_DOCKER_HUB: [&str; 3] = ["docker.io", "registry-1.docker.io", "auth.docker.io"];

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Deserialize, ZeroizeOnDrop)]
struct Login {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// User and password of each host, as a header's value. Prints no secret.
#[derive(Clone, Default)]
pub(super) struct Logins(BTreeMap<String, Zeroizing<String>>);

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Logins {
    pub(super) fn parse(json: &[u8], file: &Path) -> Result<Self> {
        let invalid = |why: &str| {
            // Without the parser's own words, which could quote the secret.
            Error::new(ErrorKind::Invalid, format!("{} is no pull secret: {why}", file.display())).advise(
                "It has the form of Docker's config.json: {\"auths\": {\"registry.example.com\": {\"auth\": …}}}.",
            )
        };
        let config: Config = serde_json::from_slice(json).map_err(|_| invalid("it is not of its form"))?;
        let mut logins = BTreeMap::new();
        for (name, login) in config.auths {
            // Docker writes some as URLs.
            let host = name.split_once("://").map_or(&*name, |(_, rest)| rest).split('/').next().unwrap_or_default();
            let host = host_of(host).ok_or_else(|| invalid(&format!("{name:?} is no registry")))?;
            let pair = match (&login.auth, &login.username, &login.password) {
                (Some(pair), ..) if !pair.is_empty() => Zeroizing::new(pair.clone()),
                (_, Some(user), Some(password)) => {
                    let pair = Zeroizing::new(format!("{user}:{password}"));
                    Zeroizing::new(Base64::encode_string(pair.as_bytes()))
                }
                _ => return Err(invalid(&format!("{name} has neither auth nor username and password"))),
            };
            let decoded = Base64::decode_vec(pair.trim()).map(Zeroizing::new);
            if !decoded.is_ok_and(|pair| pair.contains(&b':')) {
                return Err(invalid(&format!("what stands for {name} is no user and password")));
            }
            logins.insert(host, Zeroizing::new(format!("Basic {}", pair.trim())));
        }
        Ok(Self(logins))
    }

    /// What is sent to a host.
    pub(super) fn of(&self, host: &str) -> Option<&str> {
        let name = if OF_DOCKER_HUB.contains(&host) && !self.0.contains_key(host) { DOCKER_HUB } else { host };
        self.0.get(name).map(|basic| basic.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_a_host_is_for_that_host() {
        let json = r#"{"auths": {
            "r.example:5000": {"auth": "dTpw"},
            "https://index.docker.io/v1/": {"username": "u", "password": "p"},
            "https://R2.example": {"auth": "dTpw", "email": "x"}}, "credsStore": "x"}"#;
        let logins = Logins::parse(json.as_bytes(), Path::new("pull.json")).unwrap();
        for host in ["r.example:5000", "r2.example", "docker.io", "registry-1.docker.io", "auth.docker.io"] {
            assert_eq!(logins.of(host), Some("Basic dTpw"), "{host}");
        }
        for host in ["r.example", "r.example:5001", "evil.example", "docker.io.evil.example"] {
            assert_eq!(logins.of(host), None, "{host}");
        }
        assert!(!format!("{logins:?}").contains("dTpw"));
    }

    #[test]
    fn what_is_none_is_told_without_its_secrets() {
        for json in [
            "hunter2",
            r#"{"auths": {"r.example": {}}}"#,
            r#"{"auths": {"r.example": {"auth": "hunter2"}}}"#,
            r#"{"auths": {"r.example": {"identitytoken": "hunter2"}}}"#,
            r#"{"auths": {"": {"auth": "dTpw"}}}"#,
        ] {
            let error = Logins::parse(json.as_bytes(), Path::new("pull.json")).unwrap_err();
            assert!(error.to_string().contains("pull.json") && !error.chain().contains("hunter2"), "{}", error.chain());
        }
    }
}
