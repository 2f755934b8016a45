//! Signatures, checked here against keys that the administrator named: nobody is asked.
//!
//! Their form is cosign's with a key pair, ECDSA over P-256 with SHA-256. Of a module in a registry it is "simple signing", a text
//! that names the digest of the manifest; or, as cosign 3 has it, a bundle of Sigstore with an in-toto statement that does, in
//! an envelope of DSSE. Of a file it is a signature of its bytes, alone or in a bundle. None says until when it holds: who wants
//! a module no longer to be taken takes its key out. What else a bundle holds, such as an entry of a log, is not looked at.

use std::collections::BTreeMap;
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

/// What the payload of an envelope is, and what it states: that something was signed. A key may sign other statements, such as
/// what is in a module, which are no consent to it.
const STATEMENT: &str = "application/vnd.in-toto+json";
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// A signature of a manifest, with the text that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "form", rename_all = "lowercase")]
pub(super) enum Signature {
    /// Of a text that cosign calls simple.
    Simple { payload: String, signature: String },
    /// Of an envelope.
    Bundle(Envelope),
}

/// An envelope of DSSE. Payload and signatures are Base64.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<OfEnvelope>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct OfEnvelope {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Option<Envelope>,
    message_signature: Option<OfMessage>,
}

#[derive(Deserialize)]
struct OfMessage {
    signature: String,
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

/// Why a signature is not one that is wanted.
const NOT_BASE64: &str = "it is not Base64";
const OF_NONE: &str = "it is of none of the keys";
const ELSE: &str = "it signs something else";
const ANOTHER: &str = "it signs another manifest";

impl Signature {
    /// That in a bundle, if it is one of a manifest.
    pub(super) fn of_bundle(json: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Bundle>(json).ok()?.dsse_envelope.map(Self::Bundle)
    }

    /// Whether one of the keys signed that manifest; why not.
    pub(super) fn check(&self, manifest: &Digest, keys: &[PublicKey]) -> Result<(), &'static str> {
        // What the text says is looked at when there is something to believe in it.
        match self {
            Self::Simple { payload, signature } => {
                is_signed(payload.as_bytes(), [&**signature], keys)?;
                let payload: Payload = serde_json::from_str(payload).map_err(|_| ELSE)?;
                let Critical { image, kind } = payload.critical;
                match kind == KIND {
                    true if image.digest == format!("sha256:{manifest}") => Ok(()),
                    true => Err(ANOTHER),
                    false => Err(ELSE),
                }
            }
            Self::Bundle(envelope) => {
                let payload = Base64::decode_vec(&envelope.payload).map_err(|_| NOT_BASE64)?;
                let signatures = envelope.signatures.iter().map(|one| &*one.sig);
                is_signed(&encoded(&envelope.payload_type, &payload), signatures, keys)?;
                let statement: Statement = serde_json::from_slice(&payload).map_err(|_| ELSE)?;
                if envelope.payload_type != STATEMENT || statement.predicate_type != SIGNED {
                    return Err(ELSE);
                }
                let is_it = |subject: &Subject| subject.digest.get("sha256") == Some(&manifest.to_string());
                if statement.subject.iter().any(is_it) { Ok(()) } else { Err(ANOTHER) }
            }
        }
    }
}

/// What is signed of an envelope (DSSE, "PAE").
fn encoded(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

fn is_signed<'a>(
    message: &[u8],
    signatures: impl IntoIterator<Item = &'a str>,
    keys: &[PublicKey],
) -> Result<(), &'static str> {
    for signature in signatures {
        let signature = Base64::decode_vec(signature.trim()).map_err(|_| NOT_BASE64)?;
        if keys.iter().any(|key| key.signed(message, &signature)) {
            return Ok(());
        }
    }
    Err(OF_NONE)
}

/// Whether one of the keys signed a file; why not. `text` is what `cosign sign-blob` writes: a signature, or a bundle with one.
pub(super) fn check_file(bytes: &[u8], text: &str, keys: &[PublicKey]) -> Result<(), &'static str> {
    let bundled = serde_json::from_str::<Bundle>(text).ok().and_then(|bundle| bundle.message_signature);
    is_signed(bytes, [bundled.as_ref().map_or(text, |of| &of.signature)], keys)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

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
        Signature::Simple { payload, signature: Base64::encode_string(signature.as_ref()) }
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
        let Signature::Simple { payload: text, signature } = good else { panic!("{good:?}") };
        let changed = Signature::Simple { payload: text.replace("identity", "Identity"), signature };
        assert_eq!(changed.check(&ours, &keys), Err("it is of none of the keys"));
        for text in [payload("something", &format!("sha256:{ours}")), "{}".into(), "no JSON".into()] {
            assert_eq!(signed(&pair, text).check(&ours, &keys), Err("it signs something else"));
        }
        let none = Signature::Simple { payload: text, signature: "?".into() };
        assert_eq!(none.check(&ours, &keys), Err("it is not Base64"));
    }

    fn bundle(pair: &EcdsaKeyPair, kind: &str, predicate: &str, digest: &Digest) -> Signature {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": digest.to_string()}}],
            "predicateType": predicate, "predicate": {},
        });
        let statement = statement.to_string();
        let signed = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "x"}},
            "dsseEnvelope": {
                "payload": Base64::encode_string(statement.as_bytes()), "payloadType": kind,
                "signatures": [{"sig": Base64::encode_string(signature.as_ref()), "keyid": ""}],
            },
        });
        Signature::of_bundle(bundle.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_bundle_holds_if_it_states_that_the_manifest_was_signed() {
        let ((pair, key), (_, other)) = (signer(), signer());
        let (ours, another) = (Digest::of(b"ours"), Digest::of(b"another"));
        let good = bundle(&pair, STATEMENT, SIGNED, &ours);
        assert_eq!(good.check(&ours, &[other.clone(), key.clone()]), Ok(()));
        assert_eq!(good.check(&ours, &[other]), Err("it is of none of the keys"));
        let keys = [key];
        assert_eq!(good.check(&another, &keys), Err("it signs another manifest"));
        // A list of what is in it is no consent to it.
        let list = bundle(&pair, STATEMENT, "https://cyclonedx.org/bom", &ours);
        assert_eq!(list.check(&ours, &keys), Err("it signs something else"));
        assert_eq!(bundle(&pair, "text/plain", SIGNED, &ours).check(&ours, &keys), Err("it signs something else"));
        let kept = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Signature>(&kept).unwrap(), good);
    }

    #[test]
    fn a_file_has_a_signature_or_a_bundle_with_one() {
        let ((pair, key), (_, other)) = (signer(), signer());
        let signature = Base64::encode_string(pair.sign(&SystemRandom::new(), b"bytes").unwrap().as_ref());
        let bundle = json!({"messageSignature": {"messageDigest": {}, "signature": signature}}).to_string();
        let keys = [key];
        for text in [format!("{signature}\n"), bundle] {
            assert_eq!(check_file(b"bytes", &text, &keys), Ok(()));
            assert_eq!(check_file(b"others", &text, &keys), Err("it is of none of the keys"));
            assert_eq!(check_file(b"bytes", &text, std::slice::from_ref(&other)), Err("it is of none of the keys"));
        }
        assert_eq!(check_file(b"bytes", "{}", &keys), Err("it is not Base64"));
    }

    #[test]
    fn another_kind_of_key_is_told() {
        for pem in ["", "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"] {
            let error = PublicKey::parse(pem.as_bytes(), Path::new("k.pub")).unwrap_err();
            assert!(error.to_string().contains("k.pub") && error.advice().is_some());
        }
    }
}
