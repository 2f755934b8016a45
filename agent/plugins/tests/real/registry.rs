//! Modules of registries: a real one over TLS with a password, and servers that misbehave.

#[path = "registry/documents.rs"]
mod documents;
#[path = "registry/fetching.rs"]
mod fetching;
#[path = "registry/mirrors.rs"]
mod mirrors;
#[path = "registry/misbehaving.rs"]
mod misbehaving;
#[path = "registry/refused.rs"]
mod refused;
#[path = "registry/signatures.rs"]
mod signatures;

use std::fs;
use std::path::PathBuf;

use remora_core::{Error, ErrorKind};
use remora_plugins::set::{Generation, Snapshot};
use remora_plugins::{Host, HostOptions, Registries, builtins};
use remora_tests::Registry;
use tempfile::TempDir;

use super::components::options;
use super::folder::now;

/// A component that is a policy.
pub(crate) fn labels() -> &'static [u8] {
    builtins().find(|(name, _)| *name == "labels").unwrap().1
}

/// A folder of policies, one of plugins, and what was fetched.
pub(crate) struct Scene {
    dir: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["policies", "plugins"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The document of registries, with one registry and these lines of it, or of the document.
    fn registries(&self, host: &str, lines: &str) {
        let text = format!("kind: Registries\nregistries:\n- host: '{host}'\n  addresses: [127.0.0.1, '::1']\n{lines}");
        fs::write(self.at("plugins/registries.yaml"), text).unwrap();
    }

    /// The same for a real one, with its CA and its password.
    pub(crate) fn trust(&self, registry: &Registry, lines: &str) {
        self.registries(&registry.host(), &format!("{}{lines}", reached(registry)));
    }

    /// A policy that selects by a module.
    pub(crate) fn policy(&self, module: &str) {
        let text = format!(
            "kind: BackupPolicy\nname: nightly\nselect: {{module: '{module}', settings: {{names: ['*']}}}}\n\
             schedule: {{module: builtin:cron, settings: {{cron: 15 2 * * *}}}}\n"
        );
        fs::write(self.at("policies/nightly.yaml"), text).unwrap();
    }

    /// A host that knows nothing yet, as after a restart.
    pub(crate) fn host(&self) -> Host {
        let registries = Registries::new(self.at("plugins"), Some(self.dir.path()));
        Host::new(&HostOptions { registries, ..options() }).unwrap()
    }

    fn generation(&self, host: &Host) -> Generation {
        Generation::default().next(host, &Snapshot::read(&self.at("policies")).unwrap(), now())
    }

    /// Loads the policies anew; why one is broken.
    fn load(&self) -> Result<(), Error> {
        let generation = self.generation(&self.host());
        let broken = generation
            .broken()
            .next()
            .map(|(_, error)| Error::new(error.kind(), error.chain()).advise(error.advice().unwrap_or_default()));
        broken.map_or(Ok(()), Err)
    }

    #[track_caller]
    pub(crate) fn is_good(&self) {
        if let Err(error) = self.load() {
            panic!("{error}");
        }
    }

    #[track_caller]
    fn is_refused(&self, kind: ErrorKind, said: &str) -> Error {
        let error = self.load().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
        assert!(error.to_string().starts_with("nightly.yaml, line 3: select: oci://"), "{error}");
        assert!(error.advice().is_some_and(|advice| !advice.is_empty()), "{error}");
        error
    }
}

fn reached(registry: &Registry) -> String {
    format!("  caFile: {}\n  pullSecret: {}\n", registry.ca_file().display(), registry.pull_secret().display())
}

pub(crate) fn module(registry: &Registry, digest: &str) -> String {
    format!("oci://{}/acme/labels:1.0@{digest}", registry.host())
}
