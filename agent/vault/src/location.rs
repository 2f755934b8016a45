//! Where a repository lies, and how its store is reached.

mod bucket;
mod plugin;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use remora_core::{Error, ErrorKind};

use crate::store::Access;
pub(crate) use bucket::{Addressing, Bucket, Vendor};
pub(crate) use plugin::Plugin;

/// A repository's place, and how it is reached: `file:///path`, a plain path, `s3://bucket/prefix`,
/// `az://container/prefix` or `gs://bucket/prefix`, the last three with `?parameter=value`, or `plugin:NAME/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub(crate) place: Place,
    pub(crate) access: Access,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Folder(PathBuf),
    Bucket(Bucket),
    Plugin(Plugin),
}

impl Location {
    /// Reached in another way than by default.
    #[must_use]
    pub fn reached_by(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// The mover that keeps the store, and the prefix of the repository in it; none if no mover does.
    pub fn mover(&self) -> Option<(&str, &str)> {
        match &self.place {
            Place::Plugin(plugin) => Some((&plugin.name, plugin.prefix.as_ref())),
            Place::Folder(_) | Place::Bucket(_) => None,
        }
    }

    /// The folder, if it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder(path) => Some(path),
            Place::Bucket(_) | Place::Plugin(_) => None,
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let place = match text.split_once("://") {
            Some(("file", path)) => folder(path, text, "a file URL has three slashes and names no host")?,
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => {
                let vendor = Vendor::of_scheme(scheme).ok_or_else(|| {
                    // Not the whole text: what stands behind the scheme may be a secret.
                    Error::new(ErrorKind::Unsupported, format!("repository: no store is known for {scheme}:"))
                        .advise("Give a folder's path, file:///path, s3://, az://, gs:// or plugin:NAME/prefix.")
                })?;
                Place::Bucket(Bucket::parse(vendor, text)?)
            }
            _ if text.starts_with(plugin::SCHEME) => Place::Plugin(Plugin::parse(text)?),
            _ if text.is_empty() => return Err(invalid_folder(text, "the path is empty")),
            _ => folder_at(text)?,
        };
        Ok(Self { place, access: Access::default() })
    }
}

fn folder(path: &str, text: &str, unless_absolute: &str) -> Result<Place, Error> {
    if path.starts_with('/') { folder_at(path) } else { Err(invalid_folder(text, unless_absolute)) }
}

fn folder_at(path: &str) -> Result<Place, Error> {
    if path.contains('\0') {
        return Err(invalid_folder(path, "the path holds a NUL byte"));
    }
    Ok(Place::Folder(PathBuf::from(path)))
}

fn invalid_folder(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("repository {text:?}: {why}"))
        .advise("Give a folder's path, file:///path, s3://, az://, gs:// or plugin:NAME/prefix.")
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Folder(path) => path.display().fmt(f),
            Place::Bucket(bucket) => bucket.fmt(f),
            Place::Plugin(plugin) => plugin.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Location {
        text.parse().unwrap_or_else(|e: Error| panic!("{text}: {}", e.chain()))
    }

    #[test]
    fn paths_and_file_urls_are_folders_and_what_is_unknown_is_refused() {
        assert_eq!(parse("/a b"), parse("file:///a b"));
        assert_eq!(parse("rel/ative").to_string(), "rel/ative");
        for (text, kind) in [
            ("", ErrorKind::Invalid),
            ("file://host/a", ErrorKind::Invalid),
            ("gopher://x", ErrorKind::Unsupported),
            ("https://user:hunter2@host/x", ErrorKind::Unsupported),
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(!error.chain().contains("hunter2"));
        }
    }
}
