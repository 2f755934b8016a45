//! What opens repositories: asked of the controller for each run, kept in memory while it lasts.

use std::path::PathBuf;

use remora_core::{Error, ErrorKind};
use remora_kube::keys::RunKeys;
use remora_kube::node::{Failure, KeyService};
use remora_vault::{Plugins, Vault, VaultOptions};
use tempfile::TempDir;

/// What the names of folders of keys begin with.
pub(super) const PREFIX: &str = "run-";

/// Who is asked, and where what is given is kept.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) service: KeyService,
    /// Where what opens repositories is kept while a run lasts: in memory.
    pub(super) folder: PathBuf,
    /// Where this node remembers what it saw of repositories.
    pub(super) state: Option<PathBuf>,
    /// What opens the administrators' repositories of plugins.
    pub(super) plugins: Option<Plugins>,
}

/// An open repository. What opened it is removed with it.
pub(super) struct Opened {
    pub(super) vault: Vault,
    /// The Repositories that are certainly not this one: what policies store there is not here.
    pub(super) elsewhere: Vec<String>,
    _keys: TempDir,
}

impl Keys {
    /// Opens the repository that keys are of, for a run of a namespace.
    pub(super) async fn open(&self, keys: &RunKeys, namespace: &str) -> Result<Opened, Failure> {
        if keys.tenant != namespace {
            let what = format!("the controller gave the keys of tenant {} for a run of {namespace}", keys.tenant);
            return Err(Error::new(ErrorKind::Refused, what).into());
        }
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&self.folder);
        let folder = folder.map_err(|e| Error::io(format!("making a folder in {}", self.folder.display()), e))?;
        let location = keys.store.location(&folder.path().join("keys"), self.plugins.as_ref())?;
        let options = VaultOptions { state: self.state.clone(), ..VaultOptions::default() };
        let vault = keys.grant()?.open(&location, options).await;
        let vault = vault.map_err(|error| error.within("opening the repository"))?;
        Ok(Opened { vault, elsewhere: keys.elsewhere.clone(), _keys: folder })
    }
}
