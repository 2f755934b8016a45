//! Fetching a module: its mirrors are asked first, then its registry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use remora_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::artifact::{Artifact, Place};
use super::client::Client;
use super::document::Registry;
use super::manifest::{Descriptor, INDEXES, MANIFESTS, Manifest};
use super::signature::Signature;
use crate::host::{LARGEST_COMPONENT, ModuleBytes};

/// The longest that one server may take for all that is asked of it.
const LONGEST: Duration = Duration::from_mins(2);

/// So long nobody asks a server again that could not be reached: hundreds of documents may name it.
const AWAY: Duration = Duration::from_secs(15);

/// The largest text that somebody signs, or bundle with one.
const LONGEST_TEXT: usize = 256 << 10;

/// The servers that could not be reached: since when, and why.
#[derive(Clone, Debug, Default)]
pub(super) struct Away(Arc<Mutex<HashMap<String, (Instant, String)>>>);

impl Away {
    /// Why it is not asked now.
    fn why(&self, host: &str) -> Option<Error> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, why) = known.get(host).filter(|(since, _)| since.elapsed() < AWAY)?;
        Some(Error::new(ErrorKind::Unavailable, why.clone()))
    }

    fn note(&self, host: &str, error: &Error) {
        let known = (Instant::now(), error.chain());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host.into(), known);
    }
}

/// What is wanted.
pub(super) struct Pull<'a> {
    pub(super) artifact: &'a Artifact,
    pub(super) registry: &'a Registry,
    pub(super) away: &'a Away,
    pub(super) wants_signature: bool,
    pub(super) wants_module: bool,
}

/// What was fetched of it.
#[derive(Default)]
pub(super) struct Pulled {
    /// One that holds.
    pub(super) signature: Option<Signature>,
    /// The manifest, and the module.
    pub(super) module: Option<(Vec<u8>, ModuleBytes<'static>)>,
}

impl Pull<'_> {
    pub(super) async fn run(self) -> Result<Pulled> {
        let mut errors: Vec<Error> = Vec::new();
        for place in self.registry.places(self.artifact) {
            match self.at(&place).await {
                Ok(pulled) => return Ok(pulled),
                Err(error) => errors.push(error),
            }
        }
        // What the registry itself says is worth most; one that is away hides nothing that a mirror says.
        let worst = errors.iter().rposition(|error| error.kind() != ErrorKind::Unavailable).unwrap_or(errors.len() - 1);
        let (kind, advice) = (errors[worst].kind(), errors[worst].advice().map(str::to_owned));
        let why: Vec<_> = errors.iter().map(Error::chain).collect();
        let error = Error::new(kind, "it cannot be fetched").because(why.join("; "));
        Err(match advice {
            Some(advice) => error.advise(advice),
            None => {
                error.advise("Look whether it can be reached from this host. What was fetched once needs no registry.")
            }
        })
    }

    async fn at(&self, place: &Place) -> Result<Pulled> {
        if let Some(error) = self.away.why(&place.host) {
            return Err(error);
        }
        let late = || Error::new(ErrorKind::Unavailable, format!("{} takes too long", place.host));
        let pulled = timeout(LONGEST, self.all_of(place)).await.unwrap_or_else(|_| Err(late()));
        if let Err(error) = &pulled
            && error.kind() == ErrorKind::Unavailable
        {
            self.away.note(&place.host, error);
        }
        pulled
    }

    async fn all_of(&self, place: &Place) -> Result<Pulled> {
        let mut client = Client::new(self.registry, place, &self.artifact.repository)?;
        let mut pulled = Pulled::default();
        if self.wants_signature {
            pulled.signature = Some(self.signature(&mut client, place).await?);
        }
        if self.wants_module {
            pulled.module = Some(self.module(&mut client, place).await?);
        }
        Ok(pulled)
    }

    async fn module(&self, client: &mut Client<'_>, place: &Place) -> Result<(Vec<u8>, ModuleBytes<'static>)> {
        let digest = &self.artifact.digest;
        let manifest = client.manifest(&format!("sha256:{digest}"), MANIFESTS).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("{} has no sha256:{digest} in {}", place.host, self.artifact.repository),
            )
            .advise("Look whether it was pushed there, and whether the digest is the manifest's and not the module's.")
        })?;
        client.is(&manifest, digest)?;
        let parsed = Manifest::parse(&manifest)?;
        let layer = parsed.module()?;
        let (digest, size) = (layer.digest()?, layer.size(LARGEST_COMPONENT, "its component")?);
        let bytes = client.blob(&digest, size).await?;
        Ok((manifest, ModuleBytes { digest, bytes: bytes.into() }))
    }

    /// A signature that holds: under the tag that cosign gives it, or among what refers to the manifest.
    async fn signature(&self, client: &mut Client<'_>, place: &Place) -> Result<Signature> {
        let digest = &self.artifact.digest;
        let mut why = "there is none";
        if let Some(manifest) = client.manifest(&format!("sha256-{digest}.sig"), MANIFESTS).await?
            && let Some(good) = self.good(client, &Manifest::parse(&manifest)?, &mut why).await?
        {
            return Ok(good);
        }
        let index = match client.referrers(digest, INDEXES).await? {
            Some(index) => Some(index),
            // What the specification has for registries that cannot tell.
            None => client.manifest(&format!("sha256-{digest}"), INDEXES).await?,
        };
        for one in index.as_deref().map(Manifest::parse).transpose()?.iter().flat_map(Manifest::referring) {
            let digest = one.digest()?;
            let Some(manifest) = client.manifest(&format!("sha256:{digest}"), MANIFESTS).await? else { continue };
            client.is(&manifest, &digest)?;
            if let Some(good) = self.good(client, &Manifest::parse(&manifest)?, &mut why).await? {
                return Ok(good);
            }
        }
        Err(Error::new(ErrorKind::Refused, format!("{} has no signature of it that holds: {why}", place.host)).advise(
            "A signature is demanded for it. Sign it with a key that registries.yaml names: `cosign sign --key KEY \
             HOST/REPOSITORY@sha256:…`.",
        ))
    }

    async fn good(
        &self,
        client: &mut Client<'_>,
        manifest: &Manifest,
        why: &mut &'static str,
    ) -> Result<Option<Signature>> {
        let mut signatures = Vec::new();
        for layer in manifest.signed() {
            let payload = String::from_utf8_lossy(&Self::text(client, layer).await?).into_owned();
            signatures.push(Signature::Simple { payload, signature: layer.signature().unwrap_or_default().into() });
        }
        for layer in manifest.bundles() {
            signatures.extend(Signature::of_bundle(&Self::text(client, layer).await?));
        }
        for signature in signatures {
            match signature.check(&self.artifact.digest, &self.registry.keys) {
                Ok(()) => return Ok(Some(signature)),
                Err(wrong) => *why = wrong,
            }
        }
        Ok(None)
    }

    /// What is signed, or a bundle.
    async fn text(client: &mut Client<'_>, layer: &Descriptor) -> Result<Vec<u8>> {
        let size = layer.size(LONGEST_TEXT, "what is signed")?;
        client.blob(&layer.digest()?, size).await
    }
}
