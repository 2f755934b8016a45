//! The key service's certificate: made once, kept in a Secret, its CA published in a `ConfigMap` that agents mount.
//!
//! The CA signs this one certificate and its key is forgotten at once. Deleting the Secret and restarting the controllers
//! makes both anew.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use remora_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::{OWNER, Settings, api};

/// The Secret with the certificate and its key.
const SECRET: &str = "remora-controller-tls";

/// The `ConfigMap` with the CA.
const CONFIG_MAP: &str = "remora-controller-ca";

/// The key of the `ConfigMap` and the Secret that holds the CA.
const CA: &str = "ca.crt";

/// A certificate with its key, as PEM.
pub(super) struct Certificate {
    pub(super) chain: String,
    pub(super) key: Zeroizing<String>,
    pub(super) ca: String,
}

/// The one that all controllers show: read, or made by the first of them.
pub(super) async fn ready(client: &Client, settings: &Settings) -> Result<Certificate> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let failed = |error| api(&format!("keeping Secret {SECRET} of namespace {}", settings.namespace), error);
    let certificate = if let Some(secret) = secrets.get_opt(SECRET).await.map_err(failed)? {
        read(secret)?
    } else {
        let made = make(&settings.service, &settings.namespace)?;
        match secrets.create(&PostParams::default(), &secret(&made)).await {
            Ok(_) => made,
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                read(secrets.get(SECRET).await.map_err(failed)?)?
            }
            Err(error) => return Err(failed(error)),
        }
    };
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), &settings.namespace);
    let published = ConfigMap {
        metadata: ObjectMeta { name: Some(CONFIG_MAP.into()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(CA.to_owned(), certificate.ca.clone())])),
        ..ConfigMap::default()
    };
    let params = PatchParams::apply(OWNER).force();
    let applied = config_maps.patch(CONFIG_MAP, &params, &Patch::Apply(&published)).await;
    applied.map_err(|error| api(&format!("publishing the CA in ConfigMap {CONFIG_MAP}"), error))?;
    Ok(certificate)
}

fn secret(certificate: &Certificate) -> Secret {
    let data = [
        (CA, certificate.ca.as_bytes()),
        ("tls.crt", certificate.chain.as_bytes()),
        ("tls.key", certificate.key.as_bytes()),
    ];
    Secret {
        metadata: ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data.map(|(name, value)| (name.to_owned(), ByteString(value.to_vec()))).into()),
        ..Secret::default()
    }
}

fn read(secret: Secret) -> Result<Certificate> {
    let name = secret.name_any();
    let mut data = secret.data.unwrap_or_default();
    let mut text = |key: &str| {
        let value = data.remove(key).and_then(|value| String::from_utf8(value.0).ok());
        value.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("Secret {name} has no {key}"))
                .advise("Delete the Secret: the controller makes it anew when it starts.")
        })
    };
    Ok(Certificate { ca: text(CA)?, chain: text("tls.crt")?, key: Zeroizing::new(text("tls.key")?) })
}

/// Makes one for a Service. Its CA may sign names of that Service alone, and has no key any more.
pub(super) fn make(service: &str, namespace: &str) -> Result<Certificate> {
    let failed =
        |error: rcgen::Error| Error::new(ErrorKind::Failed, "making the key service's certificate").because(error);
    let ca_key = KeyPair::generate().map_err(failed)?;
    let mut ca = CertificateParams::new(Vec::new()).map_err(failed)?;
    ca.distinguished_name.push(DnType::CommonName, "remora key service CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_certificate = ca.self_signed(&ca_key).map_err(failed)?;
    let issuer = Issuer::new(ca, ca_key);
    let names =
        [format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.cluster.local"), service.to_owned()];
    let key = KeyPair::generate().map_err(failed)?;
    let mut leaf = CertificateParams::new(names).map_err(failed)?;
    leaf.distinguished_name.push(DnType::CommonName, service);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &issuer).map_err(failed)?;
    Ok(Certificate { chain: leaf.pem(), key: Zeroizing::new(key.serialize_pem()), ca: ca_certificate.pem() })
}
