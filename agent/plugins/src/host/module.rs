//! A compiled component: what it is, and what it may be.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use remora_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre, Linker};

use super::cache::{self, Cache};
use super::compile::Compiler;
use super::engine::LARGEST_COMPONENT;
use super::instance::Guest;
use super::interface::Kind;
use crate::reference;

/// The SHA-256 of a component's file, or of settings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut bytes = [0; 32];
        match hex::decode_to_slice(&text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(format!("{text:?} is no SHA-256: 64 hexadecimal digits are wanted")),
        }
    }
}

/// What to do about bytes that begin as a component and are none.
pub(crate) const FETCH_AGAIN: &str =
    "Fetch it again, for it may be cut off; or build it again, as docs/plugins.md tells.";

/// What to do about a component that has the right names, and other types behind them.
pub(crate) const BUILD_AGAIN: &str = "Build it again, against the wit/ of this version of remora; or ask who made it.";

/// What to do about a component with interfaces of `wit/` that this remora does not know: it knows all that were ever released
/// before it.
pub(crate) const NEWER: &str = "It is made for a newer version: a newer remora is needed, or it is to be built again, against the \
                                wit/ of this one.";

/// A component's file.
pub(crate) struct ModuleBytes<'a> {
    pub(crate) digest: Digest,
    pub(crate) bytes: Cow<'a, [u8]>,
}

impl<'a> From<&'a [u8]> for ModuleBytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { digest: Digest::of(bytes), bytes: Cow::Borrowed(bytes) }
    }
}

/// A compiled component, linked to what policies get: nothing.
pub(crate) struct Module {
    digest: Digest,
    linked: InstancePre<Guest>,
    exports: BTreeMap<Kind, &'static str>,
}

impl Module {
    /// From what was compiled of the component before and is kept. None if nothing is.
    pub(super) fn kept(engine: &Engine, cache: Option<&Cache>, component: &ModuleBytes<'_>) -> Result<Option<Self>> {
        check_form(&component.bytes)?;
        let kept = cache.and_then(|cache| cache.get(engine, &component.digest));
        kept.map(|kept| Self::new(engine, component.digest, &kept)).transpose()
    }

    /// From native code of the component, which is kept.
    pub(super) fn of_code(
        engine: &Engine,
        cache: Option<&Cache>,
        component: &ModuleBytes<'_>,
        code: &[u8],
    ) -> Result<Self> {
        // More memories, or larger ones, than an instance may have.
        let made = cache::made(engine, code).map_err(|e| {
            Error::new(ErrorKind::Invalid, "it wants more than an instance may have")
                .because(format!("{e:#}"))
                .advise("docs/plugins.md says what that is.")
        })?;
        if let Some(cache) = cache {
            cache.put(&component.digest, code);
        }
        Self::new(engine, component.digest, &made)
    }

    fn new(engine: &Engine, digest: Digest, component: &Component) -> Result<Self> {
        let exports = check_world(engine, component)?;
        let linked = Linker::new(engine).instantiate_pre(component);
        let linked = linked.map_err(|e| {
            Error::new(ErrorKind::Invalid, "it cannot be linked").because(format!("{e:#}")).advise(BUILD_AGAIN)
        })?;
        Ok(Self { digest, linked, exports })
    }

    /// The SHA-256 of its file.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Which interfaces it exports: the name of each, of the newest version if there are several.
    pub(crate) fn exports(&self) -> &BTreeMap<Kind, &'static str> {
        &self.exports
    }

    pub(crate) fn linked(&self) -> &InstancePre<Guest> {
        &self.linked
    }
}

/// Native code of a component. What is built in has been read by those who made it, and is compiled here; all else where it can do
/// no harm. Takes the time that compiling takes.
pub(super) fn code(engine: &Engine, compiler: &Compiler, component: &ModuleBytes<'_>) -> Result<Vec<u8>> {
    if !reference::is_builtin(&component.digest) {
        return compiler.compile(component);
    }
    let made = engine.precompile_component(&component.bytes);
    made.map_err(|e| Error::new(ErrorKind::Failed, "compiling the component").because(format!("{e:#}")))
}

/// Whether the bytes are a component at all; a core module and compiled code are told apart, for those who mix them up.
pub(crate) fn check_form(bytes: &[u8]) -> Result<()> {
    let invalid = |what: &str, advice: &str| Err(Error::new(ErrorKind::Invalid, what).advise(advice));
    if bytes.len() > LARGEST_COMPONENT {
        return invalid("the component is larger than 64 MiB", "Build it without debug information.");
    }
    // The magic number is followed by a version and a layer: https://github.com/WebAssembly/component-model, Binary.md
    match bytes {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => invalid(
            "it is a core module, not a component",
            "Make a component of it: `wasm-tools component new`, or see docs/plugins.md.",
        ),
        [0x7f, b'E', b'L', b'F', ..] => invalid(
            "it is compiled code, which is never taken from outside",
            "Name the component itself (.wasm), not what wasmtime compiled of it (.cwasm).",
        ),
        _ => invalid("it is no WebAssembly component", "Name a file that begins with the bytes \\0asm."),
    }
}

/// A policy imports nothing, and exports interfaces that this host knows.
fn check_world(engine: &Engine, component: &Component) -> Result<BTreeMap<Kind, &'static str>> {
    let world = component.component_type();
    let imports: Vec<_> = world.imports(engine).map(|(name, _)| name.to_owned()).collect();
    if !imports.is_empty() {
        let newer = imports.iter().any(|name| name.starts_with("remora:policy/"));
        return Err(Error::new(ErrorKind::Refused, "a policy imports nothing")
            .because(format!("it imports {}", imports.join(", ")))
            .advise(if newer {
                NEWER
            } else {
                "Build it without a standard library that asks for an operating system: for Rust, for the target \
                 wasm32-unknown-unknown; for others see docs/plugins.md."
            }));
    }
    let exports: Vec<_> = world
        .exports(engine)
        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_)))
        .map(|(name, _)| name.to_owned())
        .collect();
    let newest = |kind: Kind| {
        let known = kind.exports().iter().copied().find(|known| exports.iter().any(|name| name == known));
        known.map(|known| (kind, known))
    };
    let found: BTreeMap<_, _> = Kind::ALL.into_iter().filter_map(newest).collect();
    if found.is_empty() {
        let wanted = Kind::ALL.map(|kind| kind.exports().join(", ")).join(", ");
        let newer = exports.iter().any(|name| name.starts_with("remora:policy/"));
        let error = Error::new(ErrorKind::Unsupported, "it exports no interface that this remora knows")
            .because(format!("it exports {}", if exports.is_empty() { "nothing".into() } else { exports.join(", ") }));
        return Err(error.advise(if newer {
            format!("{NEWER} This one knows {wanted}.")
        } else {
            format!("A policy exports one of {wanted}.")
        }));
    }
    Ok(found)
}
