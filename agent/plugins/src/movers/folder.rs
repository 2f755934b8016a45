//! The folder of movers: a document for each, and beside it what it names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use remora_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use super::broker::{Broker, BrokerOptions, Names, SystemNames};
use super::conversation::{Component, State, Tell, places};
use super::document::{self, MoverDocument};
use super::retry::Patience;
use super::store::MoverStore;
use super::volume::VolumeMover;
use super::wire::World;
use crate::documents::Settings;
use crate::reference::ModuleRef;

/// A document or a secret is at most so long.
const LONGEST: u64 = 64 << 10;

/// The program that runs a component, beside those of remora.
const PROGRAM: &str = "remora-plugin-host";

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
}

impl std::fmt::Debug for Movers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Movers").field(&self.folder).finish()
    }
}

impl Movers {
    /// Those of a folder, which need not be there as long as none is used.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let names = Arc::new(SystemNames);
        Self { folder: folder.into(), program: None, patience: Patience::default(), names }
    }

    /// The store that the mover `name` keeps below `prefix`. The mover is started when it is first called.
    pub fn open(&self, name: &str, prefix: &str) -> Result<MoverStore> {
        let opened = self.read(name).and_then(|document| match document.volume {
            None => {
                Ok(MoverStore::new(name.into(), self.component(name, prefix, document, World::Objects)?, self.patience))
            }
            Some(_) => {
                Err(Error::new(ErrorKind::Invalid, "it keeps points in a form of its own (volume), and no objects")
                    .advise("The commands backup, points, show and restore are for it too."))
            }
        });
        opened.map_err(|error| error.within(format!("mover {name}")))
    }

    /// Whether the mover `name` keeps points in a form of its own.
    pub fn keeps_points(&self, name: &str) -> Result<bool> {
        Ok(self.read(name).map_err(|error| error.within(format!("mover {name}")))?.volume.is_some())
    }

    /// The repository that the mover `name` keeps in a form of its own.
    pub fn open_points(&self, name: &str) -> Result<VolumeMover> {
        let opened = self.read(name).and_then(|document| match document.volume.clone() {
            Some(grant) => {
                let component = self.component(name, "", document, World::Volumes)?;
                Ok(VolumeMover::new(name.into(), component, self.patience, grant))
            }
            None => Err(Error::new(ErrorKind::Refused, "it may not see disks in the clear, as a store of points must")
                .advise("If it is to, its document grants that: volume: {disksInTheClear: [MACHINE]}.")),
        });
        opened.map_err(|error| error.within(format!("mover {name}")))
    }

    fn read(&self, name: &str) -> Result<MoverDocument> {
        let file = format!("{name}.yaml");
        let text = self.text(&file).map_err(|error| {
            error.advise(format!(
                "The repository plugin:{name}/… wants the document {file} in {}, the folder of plugins.",
                self.folder.display()
            ))
        })?;
        document::parse(&file, name, &text)
    }

    fn component(&self, name: &str, prefix: &str, document: MoverDocument, world: World) -> Result<Component> {
        let file = format!("{name}.yaml");
        let bytes = self.module(&file, &document)?;
        let broker = Broker::new(BrokerOptions {
            mover: name.into(),
            rules: document.rules,
            grants: document.grants,
            certificates: document.ca_file.map(|path| self.bytes(&path)).transpose()?,
            secrets: self.secrets(&document.secrets)?,
            names: Arc::clone(&self.names),
            ear: None,
        })?;
        Ok(Component {
            program: self.program.clone().map_or_else(beside_this_program, Ok)?,
            bytes,
            world,
            settings: document.settings.json(),
            prefix: prefix.into(),
            deadline: document.timeout,
            broker,
            tell: tell(file, document.settings),
            state: Mutex::new(State::default()),
            places: places(),
            faults: 0.into(),
        })
    }

    fn text(&self, file: &str) -> Result<String> {
        let bytes = self.bytes(Path::new(file))?;
        String::from_utf8(bytes).map_err(|e| Error::new(ErrorKind::Invalid, format!("{file} is no text")).because(e))
    }

    /// A file; relative paths are relative to the folder.
    fn bytes(&self, path: &Path) -> Result<Vec<u8>> {
        use std::io::Read;
        let path = self.folder.join(path);
        let named = || format!("reading {}", path.display());
        let file = std::fs::File::open(&path).map_err(|e| Error::io(named(), e))?;
        let mut bytes = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|e| Error::io(named(), e))?;
        if bytes.len() as u64 > LONGEST {
            return Err(Error::new(ErrorKind::Invalid, format!("{} is larger than 64 KiB", path.display())));
        }
        Ok(bytes)
    }

    /// The component, which is the one that the document pins.
    fn module(&self, file: &str, document: &MoverDocument) -> Result<Vec<u8>> {
        let at = document::at(file);
        let fault = |what: String| at.error(Some(document.line), what);
        if let ModuleRef::Builtin(name) = &document.module {
            return Err(
                fault(format!("module: the built-in {name} is a policy")).advise("Name a mover, as file:NAME.wasm.")
            );
        }
        let module = document.module.read(&self.folder)?;
        if let Some(pinned) = document.digest.filter(|pinned| *pinned != module.digest) {
            return Err(fault(format!("digest: the module's is sha256:{}, not sha256:{pinned}", module.digest))
                .advise("Somebody changed the module. If it was you, write down its new digest."));
        }
        Ok(module.bytes.into_owned())
    }

    fn secrets(&self, files: &BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>> {
        let read = |(name, path): (&String, &PathBuf)| {
            let mut secret = Zeroizing::new(self.bytes(path).map_err(|error| error.within(format!("secret {name}")))?);
            if secret.last() == Some(&b'\n') {
                secret.pop();
            }
            if secret.is_empty() {
                return Err(Error::new(ErrorKind::Invalid, format!("secret {name}: {} is empty", path.display())));
            }
            Ok((name.clone(), secret))
        };
        files.iter().map(read).collect()
    }
}

/// Wrong settings, each with the line where it stands.
fn tell(file: String, settings: Settings) -> Tell {
    Box::new(move |wrong| {
        let each = wrong.iter().map(|(path, message)| {
            let line = settings.line(path).map(|line| format!(", line {line}")).unwrap_or_default();
            let path = if path.is_empty() { "" } else { &format!("{path}: ") };
            format!("{file}{line}: settings: {path}{message}")
        });
        let what = each.collect::<Vec<_>>().join("; ");
        Error::new(ErrorKind::Invalid, what).advise("What the settings mean is told by who made the mover.")
    })
}

pub(super) fn beside_this_program() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|e| Error::io("finding this program's folder", e))?;
    Ok(own.with_file_name(PROGRAM))
}
