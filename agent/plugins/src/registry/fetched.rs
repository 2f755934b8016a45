//! What was fetched, by digest: a registry that is away costs nothing as long as nothing new is wanted.
//!
//! Nothing here is believed: manifests and modules are hashed each time that they are read, signatures checked again.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::artifact::Artifact;
use super::manifest::Manifest;
use super::signature::Signature;
use crate::host::{Digest, ModuleBytes};
use crate::state::{is_forgotten, is_wanted, remove};

/// What names of files end in.
const MANIFEST: &str = ".manifest";
const SIGNATURES: &str = ".signatures";
const MODULE: &str = ".wasm";

/// A folder of it, made when something is kept.
pub(super) struct Fetched<'a>(pub(super) &'a Path);

impl Fetched<'_> {
    fn manifest_file(&self, artifact: &Artifact) -> PathBuf {
        self.0.join(format!("{}{MANIFEST}", artifact.digest))
    }

    fn signatures_file(&self, artifact: &Artifact) -> PathBuf {
        self.0.join(format!("{}{SIGNATURES}", artifact.digest))
    }

    fn module_file(&self, module: &Digest) -> PathBuf {
        self.0.join(format!("{module}{MODULE}"))
    }

    /// The module, if it is there and whole.
    pub(super) fn module(&self, artifact: &Artifact) -> Option<ModuleBytes<'static>> {
        let file = self.manifest_file(artifact);
        let manifest = fs::read(&file).ok().filter(|it| Digest::of(it) == artifact.digest)?;
        let digest = module_of(&manifest)?;
        let bytes = fs::read(self.module_file(&digest)).ok()?;
        if Digest::of(&bytes) != digest {
            tracing::warn!(%artifact, "what was kept of it is damaged, and is fetched anew");
            return None;
        }
        is_wanted(&file, SystemTime::now());
        Some(ModuleBytes { digest, bytes: bytes.into() })
    }

    /// The signatures that were kept.
    pub(super) fn signatures(&self, artifact: &Artifact) -> Vec<Signature> {
        let read = || serde_json::from_slice(&fs::read(self.signatures_file(artifact)).ok()?).ok();
        read().unwrap_or_default()
    }

    /// Keeps a module. Failing to costs that it is fetched again.
    pub(super) fn put_module(&self, artifact: &Artifact, manifest: &[u8], module: &ModuleBytes<'_>) {
        let module_file = self.module_file(&module.digest);
        let stored = self.store(&module_file, &module.bytes);
        // Last, so that what it names is there.
        let stored = stored.and_then(|()| self.store(&self.manifest_file(artifact), manifest));
        self.told(artifact, stored);
    }

    /// Keeps what was found good.
    pub(super) fn put_signatures(&self, artifact: &Artifact, signatures: &[Signature]) {
        let json = serde_json::to_vec(signatures).unwrap_or_default();
        self.told(artifact, self.store(&self.signatures_file(artifact), &json));
    }

    /// Removes what nobody wanted for a month. `named` says whether somebody may still want a manifest of a digest.
    pub(super) fn tidy(&self, named: impl Fn(&str) -> bool, now: SystemTime) {
        let Ok(entries) = fs::read_dir(self.0) else { return };
        let (mut modules, mut others) = (HashSet::new(), Vec::new());
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let Some(digest) = name.strip_suffix(MANIFEST) else {
                others.push(path);
                continue;
            };
            if named(digest) {
                is_wanted(&path, now);
            }
            if is_forgotten(&path, now) {
                remove(&path);
            } else {
                modules.extend(fs::read(&path).ok().and_then(|manifest| module_of(&manifest)));
            }
        }
        // Modules that no manifest names, signatures without one, and what a process that was killed left half-written.
        for path in others.into_iter().filter(|path| is_forgotten(path, now)) {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let is_module = modules.iter().any(|module| name == format!("{module}{MODULE}"));
            let is_signature =
                name.strip_suffix(SIGNATURES).is_some_and(|of| self.0.join(format!("{of}{MANIFEST}")).exists());
            if !is_module && !is_signature {
                remove(&path);
            }
        }
    }

    fn told(&self, artifact: &Artifact, stored: io::Result<()>) {
        if let Err(error) = stored {
            tracing::warn!(%artifact, folder = %self.0.display(), %error, "it is not kept, and has to be fetched again");
        }
    }

    fn store(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // What lies here may be nobody else's to read.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.0)?;
        let mut file = tempfile::NamedTempFile::new_in(self.0)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }
}

/// The digest of the module that a manifest names.
fn module_of(manifest: &[u8]) -> Option<Digest> {
    Manifest::parse(manifest).ok()?.module().ok()?.digest().ok()
}
