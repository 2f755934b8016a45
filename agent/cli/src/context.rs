//! What commands have in common: settings, and the ways from them to a repository and to libvirt.

use std::path::PathBuf;

use remora_core::ports::Mover;
use remora_core::{Error, ErrorKind, Result};
use remora_plugins::movers::{Movers, VolumeMover};
use remora_plugins::{Host, HostOptions, Registries};
use remora_source::{LibvirtOptions, LibvirtSource};
use remora_vault::{Access, Keyring, Location, Plugins, Secret, Vault, VaultOptions};
use tokio_util::sync::CancellationToken;

use crate::args::OutputFormat;
use crate::environment::Environment;
use crate::output::{printable, say};
use crate::progress::{Shown, Silence};
use crate::secret::{self, Ask};
use crate::settings::Settings;

/// Where a host remembers what it saw, if it is not told where.
const STATE_DIR: &str = "/var/lib/remora";

/// Where the documents of plugins are, if it is not told where.
const PLUGINS: &str = "/etc/remora/plugins";

/// What a command works with.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) environment: Environment,
    pub(crate) silence: Silence,
    pub(crate) cancel: CancellationToken,
}

/// An open repository.
pub(crate) enum Repository {
    /// Of remora's own format.
    Vault(Vault),
    /// Of a mover that keeps points in a form of its own.
    Volumes(VolumeMover),
}

impl Repository {
    /// What all of them can do.
    pub(crate) fn port(&self) -> &dyn Mover {
        match self {
            Self::Vault(vault) => vault,
            Self::Volumes(volumes) => volumes,
        }
    }

    /// What only a vault can do; none if it is none.
    pub(crate) const fn vault(&self) -> Option<&Vault> {
        match self {
            Self::Vault(vault) => Some(vault),
            Self::Volumes(_) => None,
        }
    }
}

impl Context {
    /// How the result is written.
    pub(crate) const fn format(&self) -> OutputFormat {
        self.settings.output
    }

    /// Where the repository is.
    pub(crate) fn location(&self) -> Result<Location> {
        match &self.settings.repo {
            Some(repo) => self.location_of(repo),
            None => Err(Error::new(ErrorKind::Invalid, "no repository was given")
                .advise("Give --repo, set REMORA_REPO, or put `repo` into the configuration file.")),
        }
    }

    /// What opens it.
    pub(crate) fn secret(&self, ask: Ask) -> Result<Secret> {
        secret::get(&self.settings.secret, &self.environment, ask)
    }

    /// Where a repository is that is not the one of the settings.
    pub(crate) fn location_of(&self, repo: &str) -> Result<Location> {
        Ok(repo
            .parse::<Location>()?
            .reached_by(Access { plugins: Some(self.plugins()), ..self.settings.access.clone() }))
    }

    /// The movers of the folder of plugins.
    fn movers(&self) -> Movers {
        Movers::new(self.plugins_folder(), Some(&self.state_dir()))
    }

    fn plugins_folder(&self) -> PathBuf {
        self.settings.plugins.clone().unwrap_or_else(|| PLUGINS.into())
    }

    fn state_dir(&self) -> PathBuf {
        self.settings.state_dir.clone().unwrap_or_else(|| STATE_DIR.into())
    }

    /// What runs policies, with modules of registries as a folder of plugins says.
    pub(crate) fn policy_host(&self) -> Result<Host> {
        let registries = Registries::new(self.plugins_folder(), Some(&self.state_dir()));
        Host::new(&HostOptions { registries, ..HostOptions::default() })
    }

    /// What opens repositories of plugins.
    fn plugins(&self) -> Plugins {
        Plugins::new(self.movers().opener())
    }

    /// Opens the repository.
    pub(crate) async fn vault(&self) -> Result<Vault> {
        let location = self.location()?;
        self.open(&location, &self.secret(Ask::Once)?).await
    }

    /// Opens the repository as far as every kind of it can do the same: what a mover keeps in a form of its own is no vault.
    pub(crate) async fn points(&self) -> Result<Repository> {
        let location = self.location()?;
        if let Some((name, prefix)) = location.mover()
            && self.movers().keeps_points(name)?
        {
            if !prefix.is_empty() {
                return Err(Error::new(ErrorKind::Invalid, format!("mover {name} keeps its points in one place"))
                    .advise(format!("Write the repository as plugin:{name}, with nothing behind it.")));
            }
            return Ok(Repository::Volumes(self.movers().open_points(name)?));
        }
        Ok(Repository::Vault(self.vault().await?))
    }

    /// Opens a repository for the tenant of the settings.
    pub(crate) async fn open(&self, location: &Location, secret: &Secret) -> Result<Vault> {
        let keyring = Keyring::open(location, secret).await?;
        keyring.vault(&self.settings.tenant, self.vault_options()).await
    }

    /// How repositories are used here.
    pub(crate) fn vault_options(&self) -> VaultOptions {
        VaultOptions { state: Some(self.state_dir()), ..VaultOptions::default() }
    }

    /// The libvirt of this host.
    pub(crate) fn source(&self) -> Result<LibvirtSource> {
        let mut options = LibvirtOptions::of_this_program();
        options.connect.clone_from(&self.settings.connect);
        options.scratch.clone_from(&self.settings.scratch);
        if let Some(run_dir) = &self.settings.run_dir {
            options.run_dir.clone_from(run_dir);
        }
        LibvirtSource::new(options)
    }

    /// Shows the progress of something.
    pub(crate) fn progress(&self, doing: &str) -> Shown {
        Shown::new(self.silence, doing)
    }

    /// Tells a person something beside the result.
    pub(crate) fn note(&self, text: &str) {
        if self.silence == Silence::Audible {
            say(&format!("note: {}", printable(text)));
        }
    }
}
