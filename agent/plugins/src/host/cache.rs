//! Compiled code on disk, so that a restarted agent need not compile what it knows. A file is named by the digest of the component
//! and by what the compiler and its settings were.
#![allow(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use remora_core::Result;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::module::Digest;
use super::private::PrivateFolder;

pub(crate) struct Cache {
    folder: PrivateFolder,
    compiler: u64,
}

impl Cache {
    /// Makes the folder if it is not there. Refuses one that anybody else could write.
    pub(crate) fn open(folder: &Path, engine: &Engine) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { folder: PrivateFolder::open(folder)?, compiler: hasher.finish() })
    }

    fn name(&self, digest: &Digest) -> String {
        format!("{digest}-{:016x}.cwasm", self.compiler)
    }

    /// What was compiled of a component, if it is there and whole.
    pub(crate) fn get(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let code = self.folder.get(&self.name(digest))?;
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
        match component.serialize() {
            Ok(code) => self.folder.put(&self.name(digest), &code),
            Err(error) => tracing::warn!(component = %digest, "its compiled code is not kept: {error:#}"),
        }
    }
}
