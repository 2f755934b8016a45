//! Compiled code on disk, so that a restarted agent need not compile what it knows.
//!
//! The folder belongs to the agent alone, mode 0700: what lies there is run as native code. A file is named by the digest
//! of the component and by what the compiler and its settings were, and begins with a digest of the rest: a file that a
//! crash cut off, or a failing disk changed, is compiled anew.
#![allow(unsafe_code)]

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use remora_core::{Error, ErrorKind, Result};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::module::Digest;

const DIGEST: usize = 32;

pub(crate) struct Cache {
    folder: PathBuf,
    compiler: u64,
}

impl Cache {
    /// Makes the folder if it is not there. Refuses one that anybody else could write.
    pub(crate) fn open(folder: &Path, engine: &Engine) -> Result<Self> {
        let named = format!("folder {} for compiled components", folder.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| Error::io(&named, e))?;
        let about = fs::symlink_metadata(folder).map_err(|e| Error::io(&named, e))?;
        let private = about.is_dir() && about.permissions().mode() & 0o777 == 0o700;
        if !private || about.uid() != nix::unistd::geteuid().as_raw() {
            return Err(Error::new(ErrorKind::Refused, named)
                .because("others can reach it, and what lies there is run")
                .advise("Make it a folder of this user with mode 0700, and empty it."));
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { folder: folder.into(), compiler: hasher.finish() })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}-{:016x}.cwasm", self.compiler))
    }

    /// What was compiled of a component, if it is there and whole.
    pub(crate) fn get(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let file = fs::read(self.path(digest)).ok()?;
        let (sum, code) = file.split_at_checked(DIGEST)?;
        if Digest::of(code).as_bytes() != sum {
            tracing::warn!(component = %digest, "its compiled code is damaged and is made anew");
            return None;
        }
        // SAFETY: the bytes are those that `put` stored: they have their digest, and only this user can write the folder.
        // wasmtime itself refuses code of another version or other settings.
        match unsafe { Component::deserialize(engine, code) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(component = %digest, "its compiled code is made anew: {error:#}");
                None
            }
        }
    }

    /// Keeps what was compiled. Failing to costs time only.
    pub(crate) fn put(&self, digest: &Digest, component: &Component) {
        if let Err(error) = self.store(digest, component) {
            tracing::warn!(component = %digest, error = error.chain(), "its compiled code is not kept");
        }
    }

    fn store(&self, digest: &Digest, component: &Component) -> Result<()> {
        let code = component.serialize().map_err(|e| Error::new(ErrorKind::Failed, format!("{e:#}")))?;
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(Digest::of(&code).as_bytes())?;
            file.write_all(&code)?;
            file.as_file().sync_all()?;
            file.persist(self.path(digest))?;
            Ok(())
        };
        write().map_err(|e| Error::io(format!("writing into {}", self.folder.display()), e))
    }
}
