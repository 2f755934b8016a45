//! `agent.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use remora_core::{Error, ErrorKind, Result};
use remora_plugins::movers::Movers;
use remora_vault::{Access, Location, Plugins};
use serde::Deserialize;

/// How many backups run at once unless the file says otherwise: each reads a disk at full speed.
const PARALLEL: NonZeroU32 = NonZeroU32::new(2).expect("two is not zero");

/// What the file says. Its relative paths are relative to its folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the agent keeps its ledger and compiled components.
    #[serde(default = "state")]
    pub(crate) state: PathBuf,
    /// The libvirt, as virsh takes it.
    pub(crate) connect: Option<String>,
    /// Where QEMU keeps what guests overwrite during a backup.
    pub(crate) scratch: Option<PathBuf>,
    /// Locks and sockets.
    pub(crate) run_dir: Option<PathBuf>,
    /// How many backups run at once.
    #[serde(default = "parallel")]
    pub(crate) parallel: NonZeroU32,
    /// Where metrics and health are served; nowhere if none.
    pub(crate) listen: Option<SocketAddr>,
    /// The repositories, by the names that policies use. None are needed where all policies name a mover.
    #[serde(default)]
    pub(crate) repositories: BTreeMap<String, Repository>,
}

/// A repository.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Repository {
    url: String,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) passphrase_file: Option<PathBuf>,
    credentials: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

fn state() -> PathBuf {
    "/var/lib/remora".into()
}

const fn parallel() -> NonZeroU32 {
    PARALLEL
}

impl Config {
    /// Reads `agent.toml` of a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("agent.toml");
        let named = format!("configuration {}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| {
            Error::io(&named, e)
                .advise("--config names the folder of agent.toml and policies/; docs/policies.md shows one.")
        })?;
        let invalid = |why: String| Error::new(ErrorKind::Invalid, &named).because(why);
        let mut config: Self = toml::from_str(&text).map_err(|e| {
            invalid(e.to_string().trim_end().to_owned()).advise(
                "Its keys are: state, connect, scratch, run_dir, parallel, listen, and [repositories.NAME] with url, \
                 key_file or passphrase_file, credentials, ca_file.",
            )
        })?;
        config.state = folder.join(&config.state);
        for path in [&mut config.scratch, &mut config.run_dir].into_iter().flatten() {
            *path = folder.join(&*path);
        }
        for (name, repository) in &mut config.repositories {
            if repository.key_file.is_some() == repository.passphrase_file.is_some() {
                return Err(invalid(format!(
                    "repository {name} needs a key_file or a passphrase_file, and one of them"
                ))
                .advise("`remora key generate` makes a key file."));
            }
            repository.at(folder);
        }
        Ok(config)
    }
}

impl Repository {
    fn at(&mut self, folder: &Path) {
        let paths = [&mut self.key_file, &mut self.passphrase_file, &mut self.credentials, &mut self.ca_file];
        for path in paths.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        if !self.url.contains("://") && !self.url.starts_with("plugin:") {
            self.url = folder.join(&self.url).to_string_lossy().into_owned();
        }
    }

    /// Whether another one is at the same place, as far as their URLs tell.
    pub(crate) fn is_where(&self, other: &Self) -> bool {
        self.url.trim_end_matches('/') == other.url.trim_end_matches('/')
    }

    /// Where it is; one of these movers may keep its store.
    pub(crate) fn location(&self, movers: &Movers) -> Result<Location> {
        let access = Access {
            credentials: self.credentials.clone(),
            ca_file: self.ca_file.clone(),
            plugins: Some(Plugins::new(movers.clone().opener())),
            ..Access::default()
        };
        Ok(self.url.parse::<Location>()?.reached_by(access))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("agent.toml"), text).unwrap();
        Config::read(folder.path())
    }

    #[test]
    fn paths_are_relative_to_the_folder() {
        let config = read("state = 's'\n[repositories.offsite]\nurl = 'repo'\nkey_file = 'key'\n").unwrap();
        let repository = &config.repositories["offsite"];
        assert!(config.state.is_absolute() && repository.key_file.as_ref().unwrap().is_absolute());
        assert!(Path::new(&repository.url).is_absolute());
        assert_eq!(config.parallel.get(), 2);
        // Policies may name a mover.
        assert!(read("").unwrap().repositories.is_empty());
    }

    #[test]
    fn what_is_missing_is_told() {
        for (text, said) in [
            ("[repositories.a]\nurl = '/r'\n", "key_file or a passphrase_file"),
            ("[repositories.a]\nurl = '/r'\nkey_file = 'k'\npassphrase_file = 'p'\n", "one of them"),
            ("paralel = 3\n[repositories.a]\nurl = '/r'\nkey_file = 'k'\n", "paralel"),
            ("parallel = 0\n[repositories.a]\nurl = '/r'\nkey_file = 'k'\n", "parallel"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.chain().contains(said) && error.advice().is_some(), "{text}: {}", error.chain());
        }
        assert_eq!(Config::read(Path::new("/nonexistent")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
