//! The certificates of one run. Their CA signs these two and its key is forgotten at once.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use remora_core::{Error, ErrorKind, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use zeroize::Zeroizing;

/// What a worker's certificate is for, whichever address it has: the CA is of one run alone.
const NAME: &str = "worker.remora.internal";

/// A certificate with its key, and what the other side's is signed by; PEM.
#[derive(Clone)]
pub struct Identity {
    /// The CA.
    pub ca: String,
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: Zeroizing<String>,
}

/// Both sides' of one run.
pub struct Credentials {
    /// The worker's.
    pub worker: Identity,
    /// The agent's.
    pub agent: Identity,
}

impl Credentials {
    /// New ones.
    pub fn new() -> Result<Self> {
        make().map_err(|error| Error::new(ErrorKind::Failed, "making the certificates of a run").because(error))
    }
}

fn make() -> std::result::Result<Credentials, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "remora run CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_certificate = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let one = |purpose: ExtendedKeyUsagePurpose| {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec![NAME.to_owned()])?;
        leaf.extended_key_usages = vec![purpose];
        let certificate = leaf.signed_by(&key, &issuer)?.pem();
        Ok::<_, rcgen::Error>(Identity {
            ca: ca_certificate.clone(),
            certificate,
            key: Zeroizing::new(key.serialize_pem()),
        })
    };
    Ok(Credentials {
        worker: one(ExtendedKeyUsagePurpose::ServerAuth)?,
        agent: one(ExtendedKeyUsagePurpose::ClientAuth)?,
    })
}

impl Identity {
    /// A worker's side: whoever shows no certificate of an agent is refused.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>> {
        let (roots, chain, key) = self.parts()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier.map_err(unusable)?)
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        Ok(Arc::new(config))
    }

    /// An agent's side.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>> {
        let (roots, chain, key) = self.parts()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        Ok(Arc::new(config))
    }

    fn parts(&self) -> Result<(RootCertStore, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca.as_bytes()) {
            roots.add(certificate.map_err(unusable)?).map_err(unusable)?;
        }
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<std::result::Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        Ok((roots, chain.map_err(unusable)?, key.map_err(unusable)?))
    }
}

/// What an agent wants a worker's certificate to be for.
pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("a name of DNS")
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Invalid, "the certificates of a run cannot be used").because(error)
}
