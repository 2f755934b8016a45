//! What verifies, of either kind of repository.

use remora_core::ports::{Listing, Mover, Progress, VerifyReport};
use remora_core::{ErrorKind, PointId, Result};
use remora_plugins::movers::VolumeVerifier;
use remora_vault::{Depth, Vault};

use crate::context::Repository;

pub(super) enum Verifier<'a> {
    Vault(&'a Vault, remora_vault::Verifier),
    /// What a mover keeps is listed once.
    Volumes(VolumeVerifier),
}

impl<'a> Verifier<'a> {
    pub(super) async fn of(repository: &'a Repository, depth: Depth) -> Result<Self> {
        match repository {
            Repository::Vault(vault) => Ok(Self::Vault(vault, vault.verifier(depth))),
            Repository::Volumes(volumes) => volumes.verifier(None).await.map(Self::Volumes),
        }
    }

    /// All points.
    pub(super) async fn all(&self) -> Result<Listing> {
        match self {
            Self::Vault(vault, _) => vault.list(None).await,
            Self::Volumes(volumes) => Ok(volumes.listing()),
        }
    }

    /// One point, as if there were no other.
    pub(super) async fn alone(&self, point: &PointId) -> Result<Listing> {
        let found = match self {
            Self::Vault(vault, _) => vault.open(point).await.map(|reader| reader.point().clone()),
            Self::Volumes(volumes) => volumes.find(point).cloned(),
        };
        match found {
            Ok(point) => Ok(Listing { points: vec![point], ..Listing::default() }),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                Ok(Listing { unreadable: vec![(point.clone(), error)], ..Listing::default() })
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn point(&self, point: &PointId, progress: &dyn Progress) -> Result<VerifyReport> {
        match self {
            Self::Vault(_, verifier) => verifier.point(point, progress).await,
            Self::Volumes(verifier) => verifier.point(point, progress).await,
        }
    }
}
