//! The document of registries, `registries.yaml` in the folder of plugins.
//!
//! ```yaml
//! kind: Registries
//! keys: [cosign.pub]
//! registries:
//! - host: registry.example.com
//!   mirrors: [mirror.example.com:5000/proxied]
//!   caFile: ca.pem
//!   pullSecret: pull.json
//!   addresses: [10.20.0.0/16]
//! ```
//!
//! There is no switch that demands signatures: where keys are named, nothing is taken that none of them signed.
//! `docs/plugins.md` describes each field.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use remora_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::artifact::{Artifact, Place, host_of};
use super::logins::Logins;
use super::signature::PublicKey;
use crate::documents::At;
use crate::host::Digest;
use crate::mounted::{small_file, small_text, version};
use crate::network::{Grants, authorities};

/// The file.
pub(super) const FILE: &str = "registries.yaml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistriesYaml {
    kind: Spanned<String>,
    #[serde(default)]
    keys: Vec<PathBuf>,
    #[serde(default)]
    registries: Vec<RegistryYaml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RegistryYaml {
    host: Spanned<String>,
    #[serde(default)]
    mirrors: Vec<Spanned<String>>,
    ca_file: Option<PathBuf>,
    pull_secret: Option<PathBuf>,
    keys: Option<Vec<PathBuf>>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    #[serde(default)]
    plain_http: bool,
}

/// What the document says, with the files that it names.
#[derive(Debug)]
pub(super) struct Config {
    /// Those of what has none of its own.
    pub(super) keys: Vec<PublicKey>,
    registries: BTreeMap<String, Registry>,
    /// Of one that is not listed.
    other: Registry,
    /// What tells another document, or other keys.
    pub(super) trust: Digest,
}

/// How a registry is used.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    mirrors: Vec<Place>,
    pub(super) certificates: Option<Vec<u8>>,
    pub(super) logins: Logins,
    /// One of these must have signed what is taken; nobody if there are none.
    pub(super) keys: Vec<PublicKey>,
    pub(super) grants: Grants,
    pub(super) plain_http: bool,
}

impl Registry {
    /// Where an artifact is asked for, in this order.
    pub(super) fn places(&self, artifact: &Artifact) -> Vec<Place> {
        let itself = Place { host: artifact.host.clone(), prefix: String::new() };
        self.mirrors.iter().cloned().chain([itself]).collect()
    }
}

impl Config {
    /// That of a folder; one that says nothing if there is no document.
    pub(super) fn read(folder: Option<&Path>) -> Result<Self> {
        match folder.map(holding).transpose()?.flatten() {
            Some(folder) => parse(&small_text(&folder, Path::new(FILE))?, &Files { folder }),
            None => Ok(Self::of_nothing()),
        }
    }

    fn of_nothing() -> Self {
        let (registries, other) = (BTreeMap::new(), Registry::default());
        Self { keys: Vec::new(), registries, other, trust: Digest::of(&[]) }
    }

    /// How the registry of an artifact is used.
    pub(super) fn of(&self, artifact: &Artifact) -> &Registry {
        self.registries.get(&artifact.host).unwrap_or(&self.other)
    }
}

/// The version of a folder that has a document; none if there is no document. What cannot be known is an error: without a
/// document nothing has to be signed.
fn holding(folder: &Path) -> Result<Option<PathBuf>> {
    let mut now = version(folder);
    loop {
        match fs::symlink_metadata(now.join(FILE)) {
            Ok(_) => return Ok(Some(now)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("looking for {FILE}"), error)),
        }
        // Or that version was removed, for another one is there.
        let next = version(folder);
        if next == now {
            return Ok(None);
        }
        now = next;
    }
}

/// The files that a document names.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn keys(&self, paths: &[PathBuf]) -> Result<Vec<PublicKey>> {
        paths.iter().map(|path| PublicKey::parse(&small_file(&self.folder, path)?, path)).collect()
    }

    fn certificates(&self, path: &Path) -> Result<Vec<u8>> {
        let pem = small_file(&self.folder, path)?;
        authorities(&pem, &path.display().to_string()).map(|_| pem)
    }
}

fn parse(text: &str, files: &Files) -> Result<Config> {
    let at = At { file: FILE, guide: "docs/plugins.md lists the fields of the document of registries." };
    let yaml: RegistriesYaml = at.yaml(text)?;
    if yaml.kind.value != "Registries" {
        let line = Some(yaml.kind.referenced.line());
        return Err(at.error(line, format!("kind: it is {:?}", yaml.kind.value)).advise("Here it is Registries."));
    }
    let keys = files.keys(&yaml.keys)?;
    let mut registries = BTreeMap::new();
    for registry in yaml.registries {
        let (text, line) = (&registry.host.value, Some(registry.host.referenced.line()));
        let host = host_of(text).ok_or_else(|| {
            at.error(line, format!("host: {text:?} is no registry"))
                .advise("Write it as registry.example.com or registry.example.com:5000.")
        })?;
        let made = made(&at, registry, &keys, files)?;
        if registries.insert(host.clone(), made).is_some() {
            let error = at.error(line, format!("host: {host} stands there twice"));
            return Err(error.advise("Write all of it in one place."));
        }
    }
    let trusted = keys.iter().chain(registries.values().flat_map(|registry| &registry.keys));
    let trust = Digest::of(format!("{text}\n{:?}", trusted.collect::<Vec<_>>()).as_bytes());
    let other = Registry { keys: keys.clone(), ..Registry::default() };
    Ok(Config { keys, registries, other, trust })
}

fn made(at: &At<'_>, yaml: RegistryYaml, keys: &[PublicKey], files: &Files) -> Result<Registry> {
    let placed = |field: &str, text: &Spanned<String>, error: Error| {
        at.error(Some(text.referenced.line()), format!("{field}: {error}")).advise(error.advice().unwrap_or_default())
    };
    let mirror = |text: &Spanned<String>| text.value.parse::<Place>().map_err(|error| placed("mirrors", text, error));
    for text in &yaml.addresses {
        Grants::parse([&*text.value]).map_err(|error| placed("addresses", text, error))?;
    }
    let logins = |path: PathBuf| -> Result<Logins> {
        let secret = zeroize::Zeroizing::new(small_file(&files.folder, &path)?);
        Logins::parse(&secret, &path)
    };
    Ok(Registry {
        mirrors: yaml.mirrors.iter().map(mirror).collect::<Result<_>>()?,
        certificates: yaml.ca_file.map(|path| files.certificates(&path)).transpose()?,
        logins: yaml.pull_secret.map(logins).transpose()?.unwrap_or_default(),
        keys: yaml.keys.map_or_else(|| Ok(keys.to_vec()), |paths| files.keys(&paths))?,
        grants: Grants::parse(yaml.addresses.iter().map(|text| text.value.as_str()))?,
        plain_http: yaml.plain_http,
    })
}

/// Puts the file's name before an error of it.
pub(super) fn within(folder: &Path, error: Error) -> Error {
    let kind = error.kind();
    let error = error.within(folder.join(FILE).display());
    // What it names and is not there is the document's fault, not the module's.
    if kind == ErrorKind::NotFound { error.advise_if_none("Put the file there, or take its name out.") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEFfrysE8GbRUCPKRLrQyyrhR6whtI\n\
        kWHM2PhUKkfEZBPXOf4fJK4aUgquN4WgSrOE/szhQ9h48qKlXeLFmGVBuA==\n\
        -----END PUBLIC KEY-----\n";

    fn folder(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        std::fs::write(folder.path().join("a.pub"), KEY).unwrap();
        std::fs::write(folder.path().join("pull.json"), r#"{"auths": {"r.example": {"auth": "dTpw"}}}"#).unwrap();
        folder
    }

    fn artifact(host: &str) -> Artifact {
        Artifact::parse(&format!("//{host}/a/b@sha256:{}", Digest::of(&[]))).unwrap()
    }

    const WHOLE: &str = "\
kind: Registries
keys: [a.pub]
registries:
- host: R.example
  mirrors: ['m.example:5000/r']
  pullSecret: pull.json
  addresses: [10.1.0.0/16]
- host: free.example
  keys: []
";

    #[test]
    fn what_is_said_for_all_holds_for_whoever_says_nothing_else() {
        let folder = folder(WHOLE);
        let config = Config::read(Some(folder.path())).unwrap_or_else(|e| panic!("{}", e.chain()));
        let listed = config.of(&artifact("r.example"));
        assert_eq!((listed.keys.len(), listed.logins.of("r.example")), (1, Some("Basic dTpw")));
        let places: Vec<_> = listed.places(&artifact("r.example")).into_iter().map(|place| place.host).collect();
        assert_eq!(places, ["m.example:5000", "r.example"]);
        assert_eq!(config.of(&artifact("free.example")).keys.len(), 0);
        assert_eq!(config.of(&artifact("other.example")).keys.len(), 1, "one that is not listed is no way around");
    }

    #[test]
    fn without_a_document_nothing_is_demanded_and_another_one_is_told_apart() {
        let empty = tempfile::tempdir().unwrap();
        let none = Config::read(Some(empty.path())).unwrap();
        assert!(none.keys.is_empty() && none.of(&artifact("r.example")).keys.is_empty());
        let (one, other) = (folder(WHOLE), folder(WHOLE));
        std::fs::write(other.path().join("a.pub"), KEY.replace("2PhUKkfE", "AAAAAAAA")).unwrap();
        let trust = |folder: &tempfile::TempDir| Config::read(Some(folder.path())).unwrap().trust;
        assert!(trust(&one) != none.trust && trust(&one) != trust(&other));
    }

    #[test]
    fn every_error_names_the_file_and_the_line() {
        for (from, to, line) in [
            ("Registries", "Registry", ", line 1"),
            ("registries:", "registrys:", ", line 3"),
            ("R.example", "'https://r.example/'", ", line 4"),
            ("m.example:5000/r", "m.example/R", ", line 5"),
            ("10.1.0.0/16", "10.1/16", ", line 7"),
            ("free.example", "r.example", ", line 8"),
        ] {
            let folder = folder(&WHOLE.replacen(from, to, 1));
            let error = Config::read(Some(folder.path())).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{FILE}{line}: ")), "{to}: {error}");
            assert!(error.advice().is_some_and(|advice| !advice.is_empty()), "{to}");
        }
        for (from, to) in [("a.pub", "b.pub"), ("a.pub", "pull.json"), ("pull.json", "a.pub")] {
            assert!(Config::read(Some(folder(&WHOLE.replacen(from, to, 1)).path())).is_err(), "{to}");
        }
    }
}
