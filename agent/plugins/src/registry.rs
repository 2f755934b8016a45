//! Modules from registries of the OCI distribution specification, and who must have signed a module.
//!
//! `document.rs` is what administrators write, `client.rs` the requests, `signature.rs` what is checked offline, `fetched.rs` what
//! needs no registry any more. The order for a module: who signed its manifest, if somebody must have; the manifest, by its
//! digest; the layer, by the digest in the manifest. A module that is kept passes the same checks.

mod artifact;
mod challenge;
mod client;
mod document;
mod fetched;
mod logins;
mod manifest;
mod pull;
mod signature;
mod wanted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use remora_core::{Error, ErrorKind, Result};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::host::{Digest, ModuleBytes};
use crate::{mounted, state};
use document::Config;
use fetched::Fetched;
use pull::{Away, Pull};
use wanted::Wanted;

pub use artifact::Artifact;

/// What the signature of a file is called, after its name.
pub(crate) const SIGNATURE: &str = ".sig";

/// Servers that are asked at once.
const HOSTS_AT_ONCE: usize = 16;

/// How modules are fetched, and who must have signed them. Cheap to clone; the document is read anew for each module.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    folder: Option<PathBuf>,
    kept: Option<PathBuf>,
    away: Away,
    wanted: Wanted,
}

/// When what is not at hand is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// At once: whoever loads it waits.
    Now,
    /// By [`Registries::fetch_wanted`]; meanwhile it cannot be loaded.
    Later,
}

/// The name of the error of what is not there yet, and is being seen to.
pub(crate) const WAITING: &str = "Waiting";

/// What [`Registries::fetch_wanted`] and [`Host::compile_wanted`] try.
///
/// [`Host::compile_wanted`]: crate::Host::compile_wanted
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// What was never tried.
    New,
    /// Also what could not be had before.
    All,
}

impl Registries {
    /// By `registries.yaml` of a folder, if there is one. What was fetched is kept in the state folder, if there is one.
    pub fn new(folder: impl Into<PathBuf>, state: Option<&Path>) -> Self {
        Self { folder: Some(folder.into()), kept: state.map(state::fetched), ..Self::default() }
    }

    fn config(&self) -> Result<Config> {
        let folder = self.folder.as_deref();
        Config::read(folder).map_err(|error| document::within(folder.unwrap_or(Path::new("")), error))
    }

    /// What tells that another document is there, or other keys: what was loaded may be refused now.
    pub fn trust(&self) -> Digest {
        self.config().map_or_else(|error| Digest::of(error.chain().as_bytes()), |config| config.trust)
    }

    /// How policies are best loaded that have modules of these registries: what is fetched later has to be kept.
    pub fn fetching(&self) -> Fetch {
        if self.kept.is_some() { Fetch::Later } else { Fetch::Now }
    }

    /// All policies are about to be looked at.
    pub(crate) fn begin(&self) {
        self.wanted.begin();
    }

    /// Whether something is to be fetched.
    pub fn wants(&self, what: Wants) -> bool {
        !self.wanted.list(what).is_empty()
    }

    /// Fetches what was not at hand, and keeps it. A registry that is slow holds up what is of the same one. Takes the time that the
    /// network takes.
    pub fn fetch_wanted(&self, what: Wants) {
        let mut hosts: BTreeMap<String, Vec<Artifact>> = BTreeMap::new();
        for artifact in self.wanted.list(what) {
            hosts.entry(artifact.host.clone()).or_default().push(artifact);
        }
        let fetch = |artifacts: &[Artifact]| {
            for artifact in artifacts {
                let fetched = self.module(artifact, Fetch::Now).and_then(|_| self.is_kept(artifact));
                self.wanted.tried(artifact, fetched.as_ref().err());
            }
        };
        let hosts: Vec<_> = hosts.into_values().collect();
        for some in hosts.chunks(HOSTS_AT_ONCE) {
            std::thread::scope(|scope| some.iter().for_each(|artifacts| drop(scope.spawn(|| fetch(artifacts)))));
        }
    }

    /// What was fetched for later has to be loaded from where it is kept.
    fn is_kept(&self, artifact: &Artifact) -> Result<()> {
        self.module(artifact, Fetch::Later).map(drop).map_err(|_| {
            let folder = self.kept.as_deref().unwrap_or(Path::new("")).display();
            let what = format!("{artifact} was fetched, and cannot be kept in {folder}");
            Error::new(ErrorKind::Failed, what).advise("Make room there, and let this user write there.")
        })
    }

    /// Removes what was fetched and nobody has named for a month: neither these `documents` nor those of the folder, and no call.
    pub fn tidy<'a>(&self, documents: impl Iterator<Item = &'a str>) {
        let Some(kept) = &self.kept else { return };
        let (mut texts, folder) = (documents.map(str::to_owned).collect::<Vec<_>>(), self.folder.as_deref());
        match folder.map(mounted::documents).transpose() {
            Ok(of_folder) => texts.extend(of_folder.unwrap_or_default()),
            // What it names is not known.
            Err(error) => return tracing::warn!(error = error.chain(), "what was fetched is not tidied up"),
        }
        let texts: Vec<_> = texts.iter().map(|text| text.to_ascii_lowercase()).collect();
        Fetched(kept).tidy(|digest| texts.iter().any(|text| text.contains(digest)), SystemTime::now());
    }

    /// The module, from what is kept or from its registry. Takes the time that the network takes.
    pub(crate) fn module(&self, artifact: &Artifact, fetch: Fetch) -> Result<ModuleBytes<'static>> {
        let config = self.config()?;
        let registry = config.of(artifact);
        let kept = self.kept.as_deref().map(Fetched);
        let known = kept.as_ref().and_then(|kept| kept.module(artifact));
        let is_signed = || {
            let signatures = kept.as_ref().map(|kept| kept.signatures(artifact)).unwrap_or_default();
            signatures.iter().any(|signature| signature.check(&artifact.digest, &registry.keys).is_ok())
        };
        let wants_signature = !registry.keys.is_empty() && !is_signed();
        let away = self.away.under(config.trust);
        let pull = Pull { artifact, registry, away, wants_signature, wants_module: known.is_none() };
        if !pull.wants_signature && !pull.wants_module {
            return known.ok_or_else(|| nothing(artifact));
        }
        if fetch == Fetch::Later {
            return Err(self.wanted.note(artifact));
        }
        let pulled = wait(pull.run())??;
        if let (Some(kept), Some(signature)) = (&kept, pulled.signature) {
            kept.put_signatures(artifact, &[signature]);
        }
        if let (Some(kept), Some((manifest, module))) = (&kept, &pulled.module) {
            kept.put_module(artifact, manifest, module);
        }
        known.or(pulled.module.map(|(_, module)| module)).ok_or_else(|| nothing(artifact))
    }

    /// That a file `name` of a folder was signed, if somebody must have signed files: its signature lies beside it.
    pub(crate) fn check_file(&self, folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        let config = self.config()?;
        if config.keys.is_empty() {
            return Ok(());
        }
        let signature = format!("{name}{SIGNATURE}");
        let refused = |why: &str| {
            Error::new(ErrorKind::Refused, format!("{signature}: {why}")).advise(format!(
                "{} demands signatures. Make one: `cosign sign-blob --key KEY --bundle {signature} {name}`.",
                document::FILE
            ))
        };
        let text = mounted::small_text(folder, Path::new(&signature)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => refused("there is no signature of the module"),
            ErrorKind::Invalid => refused("it is no signature"),
            _ => error,
        })?;
        signature::check_file(bytes, &text, &config.keys).map_err(refused)
    }
}

/// What cannot be: it was wanted, and there was no error.
fn nothing(artifact: &Artifact) -> Error {
    Error::new(ErrorKind::Failed, format!("nothing was fetched of {artifact}"))
}

/// Waits for something of the network, in whatever thread this is: modules are loaded in some that have a runtime and in some
/// that have none.
fn wait<F>(work: F) -> Result<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let failed = |why: &'static str| Error::new(ErrorKind::Failed, "fetching from a registry").because(why);
    let run = || {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                Ok(runtime.map_err(|e| Error::io("starting a runtime", e))?.block_on(work))
            });
            thread.join().unwrap_or_else(|_| Err(failed("its thread died")))
        })
    };
    match Handle::try_current() {
        // Others of this thread's tasks go on elsewhere meanwhile.
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(run),
        _ => run(),
    }
}
