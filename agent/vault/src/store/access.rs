//! How a store is reached: what the URL does not say.

use std::num::NonZeroU64;
use std::path::PathBuf;

/// How a store is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Where the credentials are: a file, or a folder such as a Kubernetes Secret's; without it, the environment.
    pub credentials: Option<PathBuf>,
    /// A file of PEM certificates that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How much of it may be used.
    pub limits: Limits,
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
