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

use std::path::{Path, PathBuf};

use remora_core::{Error, ErrorKind, Result};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::host::{Digest, ModuleBytes};
use document::Config;
use fetched::Fetched;
use pull::{Away, Pull};

pub use artifact::Artifact;

/// What the signature of a file is called, after its name.
pub(crate) const SIGNATURE: &str = ".sig";

/// The largest signature of a file.
const LONGEST_SIGNATURE: u64 = 64 << 10;

/// How modules are fetched, and who must have signed them. Cheap to clone; the document is read anew for each module.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    folder: Option<PathBuf>,
    kept: Option<PathBuf>,
    away: Away,
}

impl Registries {
    /// By `registries.yaml` of a folder, if there is one. What was fetched is kept in another one, if it is given.
    pub fn new(folder: impl Into<PathBuf>, kept: Option<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), kept, away: Away::default() }
    }

    fn config(&self) -> Result<Config> {
        let folder = self.folder.as_deref();
        Config::read(folder).map_err(|error| document::within(folder.unwrap_or(Path::new("")), error))
    }

    /// What tells that another document is there, or other keys: what was loaded may be refused now.
    pub fn trust(&self) -> Digest {
        self.config().map_or_else(|error| Digest::of(error.chain().as_bytes()), |config| config.trust)
    }

    /// The module, from what is kept or from its registry. Takes the time that the network takes.
    pub(crate) fn module(&self, artifact: &Artifact) -> Result<ModuleBytes<'static>> {
        let config = self.config()?;
        let registry = config.of(artifact);
        let kept = self.kept.as_deref().map(Fetched);
        let known = kept.as_ref().and_then(|kept| kept.module(artifact));
        let is_signed = || {
            let signatures = kept.as_ref().map(|kept| kept.signatures(artifact)).unwrap_or_default();
            signatures.iter().any(|signature| signature.check(&artifact.digest, &registry.keys).is_ok())
        };
        let wants_signature = !registry.keys.is_empty() && !is_signed();
        let pull = Pull { artifact, registry, away: &self.away, wants_signature, wants_module: known.is_none() };
        if !pull.wants_signature && !pull.wants_module {
            return known.ok_or_else(|| nothing(artifact));
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
        let file = folder.join(&signature);
        let text = match std::fs::metadata(&file) {
            Ok(about) if about.len() > LONGEST_SIGNATURE => return Err(refused("it is no signature")),
            Ok(_) => std::fs::read_to_string(&file).map_err(|e| Error::io(format!("reading {signature}"), e))?,
            Err(_) => return Err(refused("there is no signature of the module")),
        };
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
