//! What was compiled of the component before.
#![allow(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};

use wasmtime::Engine;
use wasmtime::component::Component;

use super::super::wire::LARGEST_COMPILED;

/// The component that was compiled before; none if it was with another compiler, or other settings.
pub(super) fn known(engine: &Engine, code: &[u8]) -> Option<Component> {
    let code = code.strip_prefix(&stamp(engine))?;
    // SAFETY: the bytes come from the host, which keeps them in a folder of its own, by the digest of this very component. They are
    // what a child like this one made of it before it ran any of it: so they are as good as what compiling it here would
    // give, and this process has no right that better ones could cost it. wasmtime refuses code of another version or other
    // settings.
    unsafe { Component::deserialize(engine, code) }.ok()
}

/// What is kept of a component for the next time; none if it is too large for that.
pub(super) fn kept(component: &Component) -> Option<Vec<u8>> {
    let code = component.serialize().ok()?;
    Some([&stamp(component.engine())[..], &code].concat()).filter(|kept| kept.len() <= LARGEST_COMPILED)
}

/// Of the compiler and its settings: wasmtime itself refuses code of another major version only, and a minor one may mend what
/// the compiler does wrong.
fn stamp(engine: &Engine) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish().to_le_bytes()
}
