//! Where a module comes from, as documents name it.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::LazyLock;

use remora_core::{Error, ErrorKind, Result};

use crate::host::{Digest, LARGEST_COMPONENT, ModuleBytes};
use crate::mounted::regular_file;
use crate::registry::{Artifact, Fetch, Registries};

/// The components that are built in, by name.
const BUILTINS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/builtins.rs"));

/// The built-in components: their names and bytes.
pub fn builtins() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    BUILTINS.iter().copied()
}

/// Their digests, in the same order: hundreds of documents name the same few.
static DIGESTS: LazyLock<Vec<Digest>> =
    LazyLock::new(|| BUILTINS.iter().map(|(_, component)| Digest::of(component)).collect());

/// Whether a component is one of those.
pub(crate) fn is_builtin(digest: &Digest) -> bool {
    DIGESTS.contains(digest)
}

/// A module, as documents name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModuleRef {
    /// `builtin:NAME`.
    Builtin(&'static str),
    /// `file:NAME.wasm`, beside the document.
    File(String),
    /// `oci://HOST/REPOSITORY@sha256:…`, in a registry.
    Registry(Artifact),
}

impl FromStr for ModuleRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            |advice: String| Err(Error::new(ErrorKind::Invalid, format!("{text:?} names no module")).advise(advice));
        match text.split_once(':') {
            Some(("builtin", wanted)) => {
                if let Some((name, _)) = builtins().find(|(name, _)| *name == wanted) {
                    return Ok(Self::Builtin(name));
                }
                let names: Vec<_> = builtins().map(|(name, _)| name).collect();
                invalid(format!("The built-in ones are: {}.", names.join(", ")))
            }
            Some(("file", name)) => {
                let hidden_or_elsewhere = name.starts_with('.') || name.contains('/');
                if hidden_or_elsewhere || name.strip_suffix(".wasm").is_none_or(str::is_empty) {
                    return invalid("After file: give the name of a file beside the document, NAME.wasm.".into());
                }
                Ok(Self::File(name.into()))
            }
            Some(("oci", rest)) => Artifact::parse(rest).map(Self::Registry),
            _ => invalid("Give builtin:NAME, file:NAME.wasm or oci://HOST/REPOSITORY@sha256:….".into()),
        }
    }
}

impl fmt::Display for ModuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::File(name) => write!(f, "file:{name}"),
            Self::Registry(artifact) => artifact.fmt(f),
        }
    }
}

impl ModuleRef {
    /// Its bytes; those of a file as it is now in `folder`. Who must have signed it did.
    pub(crate) fn read(&self, folder: &Path, registries: &Registries, fetch: Fetch) -> Result<ModuleBytes<'static>> {
        match self {
            Self::Builtin(wanted) => {
                let found = builtins().zip(&*DIGESTS).find(|((name, _), _)| name == wanted);
                found
                    .map(|((_, bytes), digest)| ModuleBytes { digest: *digest, bytes: Cow::Borrowed(bytes) })
                    .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no built-in module {wanted}")))
            }
            Self::File(name) => {
                let path = folder.join(name);
                let bytes = regular_file(&path, LARGEST_COMPONENT as u64).map_err(|e| {
                    Error::io(format!("reading the module {name}"), e).advise(format!(
                        "Put the component beside the document that names it: it was looked for as {}.",
                        path.display()
                    ))
                })?;
                registries.check_file(folder, name, &bytes)?;
                Ok(ModuleBytes { digest: Digest::of(&bytes), bytes: Cow::Owned(bytes) })
            }
            Self::Registry(artifact) => registries.module(artifact, fetch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cannot_lie_outside_the_folder() {
        let bad = ["", "..", "../a.wasm", "/etc/a.wasm", "sub/a.wasm", "a/../../b.wasm", ".a.wasm", ".wasm", "a.txt"];
        for bad in
            bad.map(|name| format!("file:{name}")).into_iter().chain(["a.wasm", "builtin:", "x://y"].map(String::from))
        {
            assert_eq!(bad.parse::<ModuleRef>().unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        assert_eq!("file:a.wasm".parse::<ModuleRef>().unwrap().to_string(), "file:a.wasm");
    }

    #[test]
    fn an_unknown_builtin_is_told_those_that_there_are() {
        let error = "builtin:label".parse::<ModuleRef>().unwrap_err();
        assert!(error.advice().unwrap().contains("labels"), "{:?}", error.advice());
    }
}
