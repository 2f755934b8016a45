//! How a store is reached: what the URL does not say.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use remora_core::Result;

/// How a store is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Where the credentials are: a file, or a folder such as a Kubernetes Secret's; without it, the environment.
    pub credentials: Option<PathBuf>,
    /// A file of PEM certificates that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How much of it may be used.
    pub limits: Limits,
    /// What may be connected to, and read, on behalf of whoever chose the place and the credentials.
    pub reach: Reach,
    /// What opens repositories of plugins; without it there are none.
    pub plugins: Option<Plugins>,
}

/// What opens the stores of plugins: by the plugin's name, and the prefix of the repository.
#[derive(Clone)]
pub struct Plugins(Arc<Opens>);

type Opens = dyn Fn(&str, &str) -> Result<Arc<dyn ObjectStore>> + Send + Sync;

impl Plugins {
    /// Opened so.
    pub fn new(open: impl Fn(&str, &str) -> Result<Arc<dyn ObjectStore>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }

    pub(super) fn open(&self, name: &str, prefix: &str) -> Result<Arc<dyn ObjectStore>> {
        (self.0)(name, prefix)
    }
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plugins")
    }
}

impl PartialEq for Plugins {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Plugins {}

/// How far whoever chose a place and its credentials is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Like the one who runs this process: any address, and credentials that name files and servers of their own.
    #[default]
    Anywhere,
    /// Not at all: addresses of the internet only, whatever a name resolves to and wherever a server sends us, and
    /// credentials that are written out.
    Internet,
}

/// How much of a store may be used each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes sent.
    pub upload: Option<NonZeroU64>,
    /// Bytes fetched.
    pub download: Option<NonZeroU64>,
    /// Requests.
    pub requests: Option<NonZeroU64>,
}
