//! How a module in a registry is named.

use std::fmt;
use std::str::FromStr;

use remora_core::{Error, ErrorKind, Result};
use url::Url;

use crate::host::Digest;

/// The registry that answers for `docker.io`, which itself is none.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// A repository's name is at most so long.
const LONGEST_NAME: usize = 255;

/// A module in a registry: `oci://HOST[:PORT]/REPOSITORY[:TAG]@sha256:…`. The digest is the manifest's, and says which one it
/// is; the tag is for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Artifact {
    pub(super) host: String,
    pub(super) repository: String,
    tag: Option<String>,
    pub(super) digest: Digest,
}

/// A server, and what its repositories' names begin with: a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) prefix: String,
}

impl Artifact {
    /// From what stands behind `oci:`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(ErrorKind::Invalid, format!("{:?} names no module of a registry: {why}", format!("oci:{text}")))
                .advise(
                    "Write it as oci://registry.example.com/acme/policy:1.2@sha256:… with the digest of its manifest.",
                )
        };
        let rest = text.strip_prefix("//").ok_or_else(|| invalid("two slashes are missing"))?;
        let (name, digest) = rest.rsplit_once('@').ok_or_else(|| {
            invalid("it has no digest, and what a tag means can change")
                .advise("Add @sha256:…, which whoever pushed it, or `oras resolve`, tells.")
        })?;
        let digest = digest.strip_prefix("sha256:").ok_or_else(|| invalid("its digest is no sha256:"))?;
        let digest = Digest::try_from(digest.to_owned()).map_err(|why| invalid(&why))?;
        let (host, path) = name.split_once('/').ok_or_else(|| invalid("it names no repository"))?;
        let host = host_of(host).ok_or_else(|| invalid("its host is none"))?;
        let (path, tag) = path.split_once(':').map_or((path, None), |(path, tag)| (path, Some(tag)));
        if !is_name(path) {
            return Err(invalid("its repository is no name of a-z, 0-9, '.', '_', '-' and '/'"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("its tag is none"));
        }
        // As Docker calls those of its own.
        let official = host == "docker.io" && !path.contains('/');
        let repository = if official { format!("library/{path}") } else { path.to_owned() };
        Ok(Self { host, repository, tag: tag.map(Into::into), digest })
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        write!(f, "@sha256:{}", self.digest)
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (host, prefix) = text.split_once('/').map_or((text, None), |(host, prefix)| (host, Some(prefix)));
        let host = host_of(host).filter(|_| prefix.is_none_or(is_name));
        let host = host.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{text:?} is no registry"))
                .advise("Write it as registry.example.com, registry.example.com:5000 or mirror.example.com/folder.")
        })?;
        Ok(Self { host, prefix: prefix.unwrap_or_default().into() })
    }
}

/// Host and port as URLs have them, so that two ways to write one are the same.
pub(super) fn host_of(text: &str) -> Option<String> {
    let url = Url::parse(&format!("https://{text}/")).ok()?;
    let plain = !text.contains(['*', '@', '?', '#', '\\', '/']) && url.path() == "/" && url.query().is_none();
    plain.then(|| host_and_port(&url))?
}

/// Host and port of a URL.
pub(super) fn host_and_port(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.into(), |port| format!("{host}:{port}")))
}

/// Who answers for a host.
pub(super) fn server_of(host: &str) -> &str {
    if host == "docker.io" { DOCKER_HUB } else { host }
}

fn is_name(text: &str) -> bool {
    let alphanumeric = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let part = |part: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        alphanumeric(part.bytes().next()) && alphanumeric(part.bytes().last()) && part.bytes().all(plain)
    };
    text.len() <= LONGEST_NAME && !text.contains("..") && text.split('/').all(part)
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = text.bytes().next().is_some_and(word);
    first && text.len() <= 128 && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_name_has_a_host_a_repository_and_a_digest() {
        for (text, shown) in [
            ("//Registry.Example.com/a/b-c", "oci://registry.example.com/a/b-c"),
            ("//r.example:5000/a:v1.2", "oci://r.example:5000/a:v1.2"),
            ("//r.example:443/a", "oci://r.example/a"),
            ("//[::1]:5000/a", "oci://[::1]:5000/a"),
            ("//docker.io/a", "oci://docker.io/library/a"),
        ] {
            let artifact = Artifact::parse(&format!("{text}@sha256:{DIGEST}")).unwrap();
            assert_eq!(artifact.to_string(), format!("{shown}@sha256:{DIGEST}"), "{text}");
        }
        for bad in [
            "//r.example/a",
            "//r.example/a:latest",
            "//r.example/a@sha256:00",
            &format!("//r.example/a@sha512:{DIGEST}"),
            &format!("/r.example/a@sha256:{DIGEST}"),
            &format!("//r.example@sha256:{DIGEST}"),
            &format!("//r.example/@sha256:{DIGEST}"),
            &format!("//r.example/../x@sha256:{DIGEST}"),
            &format!("//r.example/A@sha256:{DIGEST}"),
            &format!("//r.example/a%2fb@sha256:{DIGEST}"),
            &format!("//r.example/a?b@sha256:{DIGEST}"),
            &format!("//r.example/a:-x@sha256:{DIGEST}"),
            &format!("//user@r.example/a@sha256:{DIGEST}"),
            &format!("///a@sha256:{DIGEST}"),
        ] {
            let error = Artifact::parse(bad).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.advice().is_some(), "{bad}");
        }
    }

    #[test]
    fn a_mirror_may_have_a_folder() {
        let place = |text: &str| text.parse::<Place>().map(|place| (place.host, place.prefix)).ok();
        assert_eq!(place("m.example:5000/hub/x"), Some(("m.example:5000".into(), "hub/x".into())));
        assert_eq!(place("m.example"), Some(("m.example".into(), String::new())));
        for bad in ["", "https://m.example", "m.example/", "m.example/../x", "*.example", "u@m.example"] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
