//! The folder of movers: a document for each, and beside it what it names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use object_store::ObjectStore;
use remora_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::broker::{Broker, BrokerOptions};
use super::compiled::Compiled;
use super::conversation::{Component, State, Tell, places};
use super::document::{self, MoverDocument};
use super::retry::Patience;
use super::store::MoverStore;
use super::volume::VolumeMover;
use super::wire::World;
use crate::documents::Settings;
use crate::host::wrong_setting;
use crate::mounted::{secret_file, small_file, small_text, version};
use crate::network::{Names, SystemNames};
use crate::program::plugin_host;
use crate::reference::ModuleRef;
use crate::registry::{Fetch, Registries};
use crate::state;

/// The movers of a folder.
#[derive(Clone)]
pub struct Movers {
    folder: PathBuf,
    /// The program that runs them; else the one beside this program.
    pub program: Option<PathBuf>,
    /// How long a store that fails is tried.
    pub patience: Patience,
    /// What knows the addresses of names.
    pub names: Arc<dyn Names>,
    /// The private folder where what is compiled of movers is kept, made with mode 0700; nothing is kept if none.
    compiled: Option<PathBuf>,
    registries: Registries,
}

impl std::fmt::Debug for Movers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Movers").field(&self.folder).finish()
    }
}

/// What an administrator wrote of a mover.
struct Written {
    /// The version of the folder that the document is of, and all that it names.
    folder: PathBuf,
    document: MoverDocument,
}

impl Movers {
    /// Those of a folder, which need not be there as long as none is used. What is fetched from registries, and what is compiled,
    /// is kept in the state folder, if there is one.
    pub fn new(folder: impl Into<PathBuf>, state: Option<&Path>) -> Self {
        let folder = folder.into();
        let registries = Registries::new(&folder, state);
        Self {
            folder,
            program: None,
            patience: Patience::default(),
            names: Arc::new(SystemNames),
            compiled: state.map(state::compiled),
            registries,
        }
    }

    /// The store that the mover `name` keeps below `prefix`. The mover is started when it is first called.
    pub fn open(&self, name: &str, prefix: &str) -> Result<MoverStore> {
        let opened = self.read(name).and_then(|written| match written.document.volume {
            None => {
                Ok(MoverStore::new(name.into(), self.component(name, prefix, written, World::Objects)?, self.patience))
            }
            Some(_) => {
                Err(Error::new(ErrorKind::Invalid, "it keeps points in a form of its own (volume), and no objects")
                    .advise(
                        "On a libvirt host the commands backup, points, show, restore, verify and prune are for it, and policies \
                         with target.mover. A repository of remora's own format, as Kubernetes wants one, needs a mover of objects.",
                    ))
            }
        });
        opened.map_err(|error| error.within(format!("mover {name}")))
    }

    /// What opens their stores, by a mover's name and a prefix.
    pub fn opener(self) -> impl Fn(&str, &str) -> Result<Arc<dyn ObjectStore>> + Send + Sync + 'static {
        move |name, prefix| Ok(Arc::new(self.open(name, prefix)?))
    }

    /// Whether the mover `name` keeps points in a form of its own.
    pub fn keeps_points(&self, name: &str) -> Result<bool> {
        Ok(self.read(name).map_err(|error| error.within(format!("mover {name}")))?.document.volume.is_some())
    }

    /// The repository that the mover `name` keeps in a form of its own.
    pub fn open_points(&self, name: &str) -> Result<VolumeMover> {
        let opened = self.read(name).and_then(|written| match written.document.volume.clone() {
            Some(grant) => {
                let component = self.component(name, "", written, World::Volumes)?;
                Ok(VolumeMover::new(name.into(), component, self.patience, grant))
            }
            None => Err(Error::new(ErrorKind::Refused, "it may not see disks in the clear, as a store of points must")
                .advise("If it is to, its document grants that: volume: {disksInTheClear: [MACHINE]}.")),
        });
        opened.map_err(|error| error.within(format!("mover {name}")))
    }

    fn read(&self, name: &str) -> Result<Written> {
        let file = format!("{name}.yaml");
        let folder = version(&self.folder);
        let text = small_text(&folder, Path::new(&file)).map_err(|error| {
            error.advise(format!(
                "plugin:{name} in a repository's URL, and target.mover: {name} in a policy, want the document {file} in {}, the \
                 folder of plugins.",
                self.folder.display()
            ))
        })?;
        let document = document::parse(&file, name, &text)?;
        Ok(Written { folder, document })
    }

    fn component(&self, name: &str, prefix: &str, written: Written, world: World) -> Result<Component> {
        let (file, Written { folder, document }) = (format!("{name}.yaml"), written);
        let bytes = self.module(&folder, &file, &document)?;
        let place = place(&file, &document);
        let broker = Broker::new(BrokerOptions {
            mover: name.into(),
            rules: document.rules,
            grants: document.grants,
            certificates: document.ca_file.map(|path| small_file(&folder, &path)).transpose()?,
            secrets: secrets(&folder, &document.secrets)?,
            names: Arc::clone(&self.names),
            ear: None,
        })?;
        Ok(Component {
            program: self.program.clone().map_or_else(plugin_host, Ok)?,
            compiled: self.compiled.as_deref().and_then(|folder| Compiled::of(&bytes, folder)),
            bytes,
            world,
            settings: document.settings.json(),
            prefix: prefix.into(),
            deadline: document.timeout,
            broker,
            tell: tell(file, document.settings),
            state: Mutex::new(State::named_at(place)),
            places: places(),
            faults: 0.into(),
            hashes: false.into(),
        })
    }

    /// The component, which is the one that the document pins.
    fn module(&self, folder: &Path, file: &str, document: &MoverDocument) -> Result<Vec<u8>> {
        let at = document::at(file);
        let fault = |what: String| at.error(Some(document.line), what);
        if let ModuleRef::Builtin(name) = &document.module {
            return Err(fault(format!("module: the built-in {name} is a policy"))
                .advise("Name a mover, as file:NAME.wasm or oci://HOST/REPOSITORY@sha256:…."));
        }
        let module = document
            .module
            .read(folder, &self.registries, Fetch::Now)
            .map_err(|error| error.within(place(file, document)))?;
        if let Some(pinned) = document.digest.filter(|pinned| *pinned != module.digest) {
            return Err(fault(format!("digest: the module's is sha256:{}, not sha256:{pinned}", module.digest))
                .advise("Somebody changed the module. If it was you, write down its new digest."));
        }
        Ok(module.bytes.into_owned())
    }
}

/// Where a document names its module.
fn place(file: &str, document: &MoverDocument) -> String {
    format!("{file}, line {}: module: {}", document.line, document.module)
}

fn secrets(folder: &Path, files: &BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>> {
    let read = |(name, path): (&String, &PathBuf)| {
        let secret = secret_file(folder, path).map_err(|error| error.within(format!("secret {name}")))?;
        Ok((name.clone(), secret))
    };
    files.iter().map(read).collect()
}

/// Wrong settings, each with the line where it stands.
fn tell(file: String, settings: Settings) -> Tell {
    Box::new(move |wrong| {
        let each = wrong.iter().map(|(path, message)| {
            let line = settings.line(path).map(|line| format!(", line {line}")).unwrap_or_default();
            format!("{file}{line}: settings: {}", wrong_setting(path, message))
        });
        let what = each.collect::<Vec<_>>().join("; ");
        Error::new(ErrorKind::Invalid, what).advise("What the settings mean is told by who made the mover.")
    })
}
