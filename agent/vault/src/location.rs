//! Where a repository lies.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use remora_core::{Error, ErrorKind};

/// A repository's place: `file:///path`, or a plain path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location(PathBuf);

impl Location {
    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.0
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            Error::new(ErrorKind::Invalid, format!("repository {text:?}: {why}"))
                .advise("Give a folder's path, or file:///path.")
        };
        let path = match text.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => path,
            Some(("file", _)) => return Err(invalid("a file URL has three slashes and names no host")),
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("repository {text:?}: no store is known for {scheme}:"),
                )
                .advise("This version keeps repositories in folders: give a path, or file:///path."));
            }
            _ => text,
        };
        if path.is_empty() || path.contains('\0') {
            return Err(invalid("the path is empty or holds a NUL byte"));
        }
        Ok(Self(PathBuf::from(path)))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_file_urls_are_folders_and_the_rest_is_refused() {
        assert_eq!("/a b".parse::<Location>().unwrap(), "file:///a b".parse().unwrap());
        assert_eq!("rel/ative".parse::<Location>().unwrap().to_string(), "rel/ative");
        for (text, kind) in [
            ("", ErrorKind::Invalid),
            ("file://host/a", ErrorKind::Invalid),
            ("s3://bucket/a", ErrorKind::Unsupported),
            ("gopher://x", ErrorKind::Unsupported),
        ] {
            assert_eq!(text.parse::<Location>().unwrap_err().kind(), kind, "{text}");
        }
    }
}
