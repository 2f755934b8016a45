//! Signatures, checked here against keys that the administrator named: nobody is asked.
//!
//! Their form is cosign's with a key pair. Of a module in a registry it is "simple signing": a JSON text that names the digest of
//! the manifest, and a signature of that text. Of a file it is a signature of the file (`cosign sign-blob`). ECDSA over P-256
//! with SHA-256, as ASN.1, in Base64. Neither says until when it holds: who wants a module no longer to be taken changes the key.

use std::path::Path;

use base64ct::{Base64, Encoding};
use remora_core::{Error, ErrorKind, Result};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::host::Digest;

/// What a public key for ECDSA over P-256 begins with (RFC 5480); its point, uncompressed, follows.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// An uncompressed point of P-256.
const POINT: usize = 65;

/// What the payload of a signature says that it is.
const KIND: &str = "cosign container image signature";

/// A key that modules are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicKey(Vec<u8>);

impl PublicKey {
    /// From the text of a file, as `cosign generate-key-pair` and `openssl ec -pubout` write it.
    pub(super) fn parse(pem: &[u8], file: &Path) -> Result<Self> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok();
        let point = der.as_deref().and_then(|der| der.strip_prefix(&P256));
        match point {
            Some(point) if point.len() == POINT && point[0] == 4 => Ok(Self(point.to_vec())),
            _ => Err(Error::new(ErrorKind::Invalid, format!("{} is no public key for signatures", file.display()))
                .advise("It is one of ECDSA over P-256, as text: the cosign.pub of `cosign generate-key-pair`.")),
        }
    }

    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(message, signature).is_ok()
    }
}

/// A signature of a manifest, with the text that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Signature {
    pub(super) payload: String,
    /// Base64.
    pub(super) signature: String,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

impl Signature {
    /// Whether one of the keys signed that manifest; why not.
    pub(super) fn check(&self, manifest: &Digest, keys: &[PublicKey]) -> Result<(), &'static str> {
        let signature = Base64::decode_vec(self.signature.trim()).map_err(|_| "it is not Base64")?;
        if !keys.iter().any(|key| key.signed(self.payload.as_bytes(), &signature)) {
            return Err("it is of none of the keys");
        }
        // Only now is there anything to believe in the text.
        let payload: Payload = serde_json::from_str(&self.payload).map_err(|_| "it signs something else")?;
        if payload.critical.kind != KIND {
            return Err("it signs something else");
        }
        if payload.critical.image.digest != format!("sha256:{manifest}") {
            return Err("it signs another manifest");
        }
        Ok(())
    }
}

/// Whether one of the keys signed a file; why not. `signature` is what `cosign sign-blob` writes.
pub(super) fn check_file(bytes: &[u8], signature: &str, keys: &[PublicKey]) -> Result<(), &'static str> {
    let signature = Base64::decode_vec(signature.trim()).map_err(|_| "it is not Base64")?;
    if keys.iter().any(|key| key.signed(bytes, &signature)) { Ok(()) } else { Err("it is of none of the keys") }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    fn signer() -> (EcdsaKeyPair, PublicKey) {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let der = [&P256[..], pair.public_key().as_ref()].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", Base64::encode_string(&der));
        (pair, PublicKey::parse(pem.as_bytes(), Path::new("k.pub")).unwrap())
    }

    fn signed(pair: &EcdsaKeyPair, payload: String) -> Signature {
        let signature = pair.sign(&SystemRandom::new(), payload.as_bytes()).unwrap();
        Signature { payload, signature: Base64::encode_string(signature.as_ref()) }
    }

    fn payload(kind: &str, digest: &str) -> String {
        format!(r#"{{"critical":{{"identity":{{}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}}}}"#)
    }

    #[test]
    fn a_signature_holds_for_its_manifest_and_its_key_alone() {
        let ((pair, key), (_, other)) = (signer(), signer());
        let (ours, another) = (Digest::of(b"ours"), Digest::of(b"another"));
        let good = signed(&pair, payload(KIND, &format!("sha256:{ours}")));
        assert_eq!(good.check(&ours, &[other.clone(), key.clone()]), Ok(()));
        assert_eq!(good.check(&ours, std::slice::from_ref(&other)), Err("it is of none of the keys"));
        assert_eq!(good.check(&ours, &[]), Err("it is of none of the keys"));
        assert_eq!(good.check(&another, std::slice::from_ref(&key)), Err("it signs another manifest"));
        let keys = [key];
        let changed = Signature { payload: good.payload.replace("identity", "Identity"), ..good.clone() };
        assert_eq!(changed.check(&ours, &keys), Err("it is of none of the keys"));
        for text in [payload("something", &format!("sha256:{ours}")), "{}".into(), "no JSON".into()] {
            assert_eq!(signed(&pair, text).check(&ours, &keys), Err("it signs something else"));
        }
        assert_eq!(Signature { signature: "?".into(), ..good }.check(&ours, &keys), Err("it is not Base64"));
    }

    #[test]
    fn another_kind_of_key_is_told() {
        for pem in ["", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"] {
            let error = PublicKey::parse(pem.as_bytes(), Path::new("k.pub")).unwrap_err();
            assert!(error.to_string().contains("k.pub") && error.advice().is_some());
        }
    }
}
