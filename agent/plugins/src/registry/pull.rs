//! Fetching a module: its mirrors are asked first, then its registry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use remora_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::artifact::{Artifact, Place};
use super::client::Client;
use super::document::Registry;
use super::manifest::{Descriptor, INDEXES, MANIFESTS, Manifest};
use super::signature::Signature;
use crate::host::{Digest, LARGEST_COMPONENT, ModuleBytes};

/// The longest that one server may take for all that is asked of it.
const LONGEST: Duration = Duration::from_mins(2);

/// So long nobody asks a server again that could not be reached: hundreds of documents may name it. Twice as long after each time,
/// and four times as long as it took, so that waiting for it is never all that is done.
const AWAY: Duration = Duration::from_secs(15);

/// But one that is there again is not overlooked for longer than this.
const LONGEST_AWAY: Duration = Duration::from_mins(5);

/// The largest text that somebody signs, or bundle with one.
const LONGEST_TEXT: usize = 256 << 10;

/// The servers that could not be reached. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Away(Arc<Mutex<HashMap<String, Absence>>>);

/// The same, as long as the document of registries stays: after a change everybody is asked at once.
pub(super) struct AwayUnder {
    away: Away,
    trust: Digest,
}

#[derive(Clone, Debug)]
struct Absence {
    until: Instant,
    /// How long it was to be left alone.
    pause: Duration,
    why: String,
    trust: Digest,
}

impl Away {
    pub(super) fn under(&self, trust: Digest) -> AwayUnder {
        AwayUnder { away: self.clone(), trust }
    }
}

impl AwayUnder {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Absence>> {
        self.away.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it is not asked now.
    fn why(&self, host: &str, now: Instant) -> Option<Error> {
        let known = self.known();
        let absence = known.get(host).filter(|absence| now < absence.until && absence.trust == self.trust)?;
        Some(Error::new(ErrorKind::Unavailable, absence.why.clone()))
    }

    /// It could not be reached, which took so long to find out.
    fn note(&self, host: &str, error: &Error, took: Duration, now: Instant) {
        let mut known = self.known();
        let before = known.get(host).filter(|absence| absence.trust == self.trust);
        let pause = before.map_or(AWAY, |absence| absence.pause * 2).max(took * 4).min(LONGEST_AWAY);
        known.insert(host.into(), Absence { until: now + pause, pause, why: error.chain(), trust: self.trust });
    }

    fn is_there(&self, host: &str) {
        self.known().remove(host);
    }
}

/// What is wanted.
pub(super) struct Pull<'a> {
    pub(super) artifact: &'a Artifact,
    pub(super) registry: &'a Registry,
    pub(super) away: AwayUnder,
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
        let began = Instant::now();
        if let Some(error) = self.away.why(&place.host, began) {
            return Err(error);
        }
        let late = || Error::new(ErrorKind::Unavailable, format!("{} takes too long", place.host));
        let pulled = timeout(LONGEST, self.all_of(place)).await.unwrap_or_else(|_| Err(late()));
        match &pulled {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.away.note(&place.host, error, began.elapsed(), Instant::now());
            }
            // Also one that says no.
            _ => self.away.is_there(&place.host),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_away_is_left_alone_ever_longer_and_one_that_is_slow_for_longer_than_it_took() {
        let away = Away::default().under(Digest::of(&[]));
        let error = Error::new(ErrorKind::Unavailable, "it is away");
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut now = start;
        for pause in [15, 30, 60, 120, 240, 300, 300] {
            away.note("r.example", &error, second, now);
            assert!(away.why("r.example", now + (pause - 1) * second).is_some(), "{pause}");
            now += pause * second;
            assert!(away.why("r.example", now).is_none(), "{pause}");
        }
        away.is_there("r.example");
        away.note("r.example", &error, 20 * second, now);
        assert!(
            away.why("r.example", now + 79 * second).is_some() && away.why("r.example", now + 80 * second).is_none()
        );
        assert!(away.why("other.example", now).is_none());
    }

    #[test]
    fn another_document_of_registries_is_tried_at_once() {
        let away = Away::default();
        let now = Instant::now();
        let error = Error::new(ErrorKind::Unavailable, "it is away");
        away.under(Digest::of(b"one")).note("r.example", &error, Duration::ZERO, now);
        assert!(away.under(Digest::of(b"one")).why("r.example", now).is_some());
        assert!(away.under(Digest::of(b"other")).why("r.example", now).is_none());
    }
}
