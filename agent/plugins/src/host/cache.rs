//! Compiled code: taken from who compiled it, and kept on disk, so that a restarted agent need not compile what it knows. A file is
//! named by the digest of the component and by what the compiler and its settings were.
#![allow(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use remora_core::Result;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::module::Digest;
use super::private::PrivateFolder;

/// What names of files end in.
const CODE: &str = ".cwasm";

pub(crate) struct Cache {
    folder: PrivateFolder,
    compiler: u64,
}

impl Cache {
    /// Makes the folder if it is not there. Refuses one that anybody else could write. What another compiler made is removed.
    pub(crate) fn open(folder: &Path, engine: &Engine) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = Self { folder: PrivateFolder::open(folder)?, compiler: hasher.finish() };
        let ours = cache.ending();
        cache.folder.remove(|name| name.ends_with(CODE) && !name.ends_with(&ours));
        Ok(cache)
    }

    fn ending(&self) -> String {
        format!("-{:016x}{CODE}", self.compiler)
    }

    fn name(&self, digest: &Digest) -> String {
        format!("{digest}{}", self.ending())
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
    pub(crate) fn put(&self, digest: &Digest, code: &[u8]) {
        self.folder.put(&self.name(digest), code);
    }

    /// Removes what nobody has used for a month, of policies and of movers. These components are in use.
    pub(crate) fn tidy(&self, used: &[Digest]) {
        for digest in used {
            self.folder.is_used(&self.name(digest));
        }
        self.folder.tidy();
    }
}

/// What was compiled just now.
pub(super) fn made(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are what the compiler of this very wasmtime made, in this process or in one that had nothing but the
    // component, and ran none of it. Who could make it say something else could so here too, if it compiled here. wasmtime
    // refuses code of another version or other settings.
    unsafe { Component::deserialize(engine, code) }
}
