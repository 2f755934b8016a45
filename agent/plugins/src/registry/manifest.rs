//! What a registry says of an artifact: manifests and indexes, as the OCI image specification has them.

use std::collections::BTreeMap;

use remora_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::host::{Digest, LARGEST_COMPONENT};

/// How the CNCF's form of WebAssembly artifacts calls the layer that is the component.
const WASM: &str = "application/wasm";

/// How cosign calls the text that it signs, and where it puts the signature.
const SIGNED: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// A bundle of Sigstore, of whatever version.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.";

/// What a manifest of signatures that refers to what it signs is called: of cosign's older form, and, where the type is taken from
/// its empty configuration, of bundles.
const SIGNATURES: [&str; 2] = ["application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.oci.empty.v1+json"];

/// What is asked for as a manifest: an index too, to say that it is one.
pub(super) const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json";

/// What is asked for as a list of what refers to something.
pub(super) const INDEXES: &str = "application/vnd.oci.image.index.v1+json";

/// Of signatures, and of what refers to a manifest, so many are looked at.
const LOOKED_AT: usize = 32;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    manifests: Option<Vec<Descriptor>>,
}

/// What is where, and how large.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    media_type: String,
    artifact_type: Option<String>,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(super) fn digest(&self) -> Result<Digest> {
        let known = self.digest.strip_prefix("sha256:").and_then(|hex| Digest::try_from(hex.to_owned()).ok());
        known.ok_or_else(|| damaged(format!("its manifest names the digest {:?}, which is no sha256:", self.digest)))
    }

    /// Its size, if it is within `most`.
    pub(super) fn size(&self, most: usize, what: &str) -> Result<usize> {
        usize::try_from(self.size).ok().filter(|size| *size <= most).ok_or_else(|| {
            let why = format!("{what} has {} bytes, and more than {most} are not taken", self.size);
            Error::new(ErrorKind::Refused, why)
        })
    }

    /// The signature of the text that it is, if it is one.
    pub(super) fn signature(&self) -> Option<&str> {
        (self.media_type == SIGNED).then(|| self.annotations.get(SIGNATURE))?.map(String::as_str)
    }
}

fn damaged(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, what)
}

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| damaged("what its registry gives is no manifest").because(e))
    }

    /// The layer that is the component.
    pub(super) fn module(&self) -> Result<&Descriptor> {
        let invalid = |what: &str| Error::new(ErrorKind::Invalid, what);
        if self.manifests.is_some() {
            return Err(invalid("it is an index of several, and not one module")
                .advise("Name the digest of the one that is meant."));
        }
        let mut wasm = self.layers.iter().filter(|layer| layer.media_type == WASM);
        let ((Some(layer), None, _) | (None, None, [layer])) = (wasm.next(), wasm.next(), &*self.layers) else {
            return Err(invalid("it is no artifact with one component in it")
                .advise("Push it with one layer of the type application/wasm: `wkg oci push`, or `oras push`."));
        };
        layer.size(LARGEST_COMPONENT, "its component")?;
        Ok(layer)
    }

    /// The texts that were signed.
    pub(super) fn signed(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().filter(|layer| layer.signature().is_some()).take(LOOKED_AT)
    }

    /// Bundles, each with a signature in it.
    pub(super) fn bundles(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().filter(|layer| layer.media_type.starts_with(BUNDLE)).take(LOOKED_AT)
    }

    /// Of an index of what refers to something, what may hold signatures.
    pub(super) fn referring(&self) -> impl Iterator<Item = &Descriptor> {
        let may = |one: &&Descriptor| {
            one.artifact_type.as_deref().is_none_or(|kind| SIGNATURES.contains(&kind) || kind.starts_with(BUNDLE))
        };
        self.manifests.iter().flatten().filter(may).take(LOOKED_AT)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn layer(kind: &str, size: u64) -> Value {
        json!({"mediaType": kind, "digest": format!("sha256:{}", Digest::of(kind.as_bytes())), "size": size})
    }

    fn manifest(layers: &[Value]) -> Manifest {
        Manifest::parse(json!({"schemaVersion": 2, "layers": layers}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_component_is_the_layer_of_its_type_or_the_only_one() {
        let of = |layers: &[Value]| manifest(layers).module().map(|layer| layer.media_type.clone());
        assert_eq!(of(&[layer("text/plain", 3), layer(WASM, 3)]).unwrap(), WASM);
        assert_eq!(of(&[layer("application/octet-stream", 3)]).unwrap(), "application/octet-stream");
        for layers in [&[][..], &[layer("a/b", 1), layer("c/d", 1)], &[layer(WASM, 1), layer(WASM, 2)]] {
            let error = of(layers).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.advice().is_some());
        }
        assert_eq!(of(&[layer(WASM, (64 << 20) + 1)]).unwrap_err().kind(), ErrorKind::Refused);
        let index = Manifest::parse(br#"{"schemaVersion": 2, "manifests": []}"#).unwrap();
        assert!(index.module().err().unwrap().to_string().contains("index"));
    }
}
