//! From documents to the next generation.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use remora_core::{Error, ErrorKind, Result};

use super::kept::KeptVersion;
use super::{AccessBinding, AccessPolicy, Active, BackupPolicy, Generation, Kept, ModuleInForce, PolicyFile, Snapshot};
use crate::documents::{self, AccessDocument, BackupDocument, Document, Use};
use crate::host::{Digest, Host, Module, Refused};
use crate::reference::ModuleRef;
use crate::registry::Fetch;
use crate::{AuthorizePolicy, RetentionPolicy, SchedulePolicy, SelectPolicy};

/// When that is compiled which takes long.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compile {
    /// At once: whoever loads it waits.
    Now,
    /// By [`Host::compile_wanted`]; meanwhile it cannot be loaded.
    Later,
}

/// When that is seen to which is not at hand.
#[derive(Clone, Copy)]
pub(super) struct Having {
    fetch: Fetch,
    compile: Compile,
}

impl Having {
    /// Whoever loads waits for all of it.
    pub(super) const NOW: Self = Self { fetch: Fetch::Now, compile: Compile::Now };

    /// Nobody waits for more than has to be.
    pub(super) fn later(host: &Host) -> Self {
        Self { fetch: host.registries().fetching(), compile: Compile::Later }
    }

    /// All policies are about to be looked at.
    fn begin(self, host: &Host) {
        if self.fetch == Fetch::Later {
            host.registries().begin();
        }
        if self.compile == Compile::Later {
            host.begin();
        }
    }
}

pub(super) fn next(
    before: &Generation,
    host: &Host,
    snapshot: &Snapshot,
    kept: Option<&Kept>,
    having: Having,
    now: Timestamp,
) -> Generation {
    let trust = host.registries().trust();
    having.begin(host);
    let mut names = Names::new();
    let mut files = Vec::new();
    let unread = snapshot.unreadable.iter().map(|(file, why)| (file, "", Some(why)));
    let documents = snapshot.documents.iter().map(|(file, text)| (file, text.as_str(), None));
    for (file, text, why) in documents.chain(unread) {
        let earlier = before.files.iter().find(|earlier| earlier.file == *file);
        let same = earlier.and_then(|earlier| unchanged(earlier, text, snapshot, trust));
        let folder = beside(snapshot, file);
        let loading = Loading { host, folder: &folder, file, having };
        let anew = || load(&loading, text, earlier.and_then(|earlier| earlier.active.as_ref()));
        let loaded = match why {
            Some(why) => Err(unreadable(file, why)),
            None => same.map_or_else(anew, Ok),
        };
        let loaded = loaded.and_then(|loaded| unique(&mut names, file, loaded));
        let mut settled = PolicyFile { trust, ..settle(file, text, loaded, earlier, now) };
        if let Some(kept) = kept {
            keep_or_revive(host, kept, snapshot, having, &mut settled, earlier);
        }
        files.push(settled);
    }
    one_of_each_name(&mut files, kept);
    if let Some(kept) = kept {
        kept.only(snapshot.documents.keys().chain(snapshot.unreadable.keys()).map(String::as_str));
    }
    Generation { number: before.number + 1, files: files.into_iter().map(Arc::new).collect() }
}

/// The folder of a document. Golden cases name theirs by paths; else it is the snapshot's.
fn beside(snapshot: &Snapshot, file: &str) -> PathBuf {
    snapshot.folder.join(file).parent().map_or_else(|| snapshot.folder.clone(), Path::to_owned)
}

fn unreadable(file: &str, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{file}: it cannot be read: {why}"))
        .advise("Put a document there that is text in UTF-8, or remove it.")
}

/// The last good versions of all documents, in the place of a folder that cannot be read: `error` says why. That is all there is
/// to say if nothing is kept.
pub(super) fn last_good(host: &Host, kept: &Kept, error: Error) -> Result<Generation> {
    let versions = kept.files().into_iter().filter_map(|file| Some((kept.get(&file)?, file)));
    let versions: Vec<(KeptVersion, String)> = versions.collect();
    if versions.is_empty() {
        return Err(error);
    }
    // Nothing else is loaded that could be held up, nor is it loaded again while the folder cannot be read.
    let having = Having { compile: Compile::Now, ..Having::later(host) };
    let trust = host.registries().trust();
    having.begin(host);
    let error = Arc::new(error);
    let revived = |(version, file): (KeptVersion, String)| {
        let loading = Loading { host, folder: &version.folder, file: &file, having };
        let loaded = load(&loading, &version.text, None);
        let settled = settle(&file, &version.text, loaded, None, version.time);
        let broken = settled.broken.clone().unwrap_or_else(|| Arc::clone(&error));
        PolicyFile { trust, broken: Some(broken), ..settled }
    };
    let mut files: Vec<_> = versions.into_iter().map(revived).collect();
    one_of_each_name(&mut files, None);
    Ok(Generation { number: 1, files: files.into_iter().map(Arc::new).collect() })
}

/// What a file stands for once it is loaded.
struct Loaded {
    active: Active,
    /// The modules that it has from files.
    modules: Vec<(String, Digest)>,
}

/// What a file stood for, if nothing of it has changed: in a folder of hundreds only what changed takes time.
fn unchanged(earlier: &PolicyFile, text: &str, snapshot: &Snapshot, trust: Digest) -> Option<Loaded> {
    let same = |(name, digest): &(String, Digest)| snapshot.modules.get(name) == Some(digest);
    // Of whom it has modules may not be trusted any more.
    if earlier.trust != trust && earlier.is_trusting() {
        return None;
    }
    if earlier.broken.is_some() || earlier.text != Digest::of(text.as_bytes()) || !earlier.modules.iter().all(same) {
        return None;
    }
    Some(Loaded { active: earlier.active.clone()?, modules: earlier.modules.clone() })
}

/// Keeps what is good and new; takes what is kept for what is broken from the start.
fn keep_or_revive(
    host: &Host,
    kept: &Kept,
    snapshot: &Snapshot,
    having: Having,
    settled: &mut PolicyFile,
    earlier: Option<&Arc<PolicyFile>>,
) {
    let file = settled.file.clone();
    if settled.broken.is_none() {
        if earlier.is_none_or(|earlier| earlier.broken.is_some() || !same_version(earlier, settled)) {
            kept.put(&file, &snapshot.documents[&file], &snapshot.folder);
        }
    } else if settled.active.is_none()
        && earlier.is_none_or(|earlier| earlier.again)
        && let Some(version) = kept.get(&file)
    {
        let loading = Loading { host, folder: &version.folder, file: &file, having };
        match load(&loading, &version.text, None) {
            Ok(loaded) => {
                settled.active_text = Some(Digest::of(version.text.as_bytes()));
                (settled.active, settled.since) = (Some(loaded.active), version.time);
            }
            // It may be good once it is compiled, or fetched.
            Err(error) if error.kind() == ErrorKind::Unavailable => settled.again = true,
            Err(error) => tracing::warn!(file, error = error.chain(), "its last good version is not good any more"),
        }
    }
}

/// Whether text and modules are equal.
fn same_version(a: &PolicyFile, b: &PolicyFile) -> bool {
    let digests = |file: &PolicyFile| -> Vec<_> {
        file.active.iter().flat_map(Active::modules).map(|module| (module.digest, module.settings)).collect()
    };
    // Another trust may have come with other signatures beside the modules.
    a.text == b.text && a.trust == b.trust && digests(a) == digests(b)
}

/// What a file stands for now.
fn settle(
    file: &str,
    text: &str,
    loaded: Result<Loaded>,
    earlier: Option<&Arc<PolicyFile>>,
    now: Timestamp,
) -> PolicyFile {
    let may_deny = !is_backup(text);
    let remote = text.contains("oci://");
    let text = Digest::of(text.as_bytes());
    let (active, modules, broken) = match loaded {
        Ok(Loaded { active, modules }) => (Some(active), modules, None),
        Err(error) => (earlier.and_then(|earlier| earlier.active.clone()), Vec::new(), Some(Arc::new(error))),
    };
    let again = broken.as_ref().is_some_and(|error| remote || error.kind() == ErrorKind::Unavailable);
    let active_text = if broken.is_none() { Some(text) } else { earlier.and_then(|earlier| earlier.active_text) };
    // A version that is as broken as the one before it makes nothing younger.
    let same = earlier.filter(|earlier| earlier.broken.is_some() == broken.is_some());
    let since = match same {
        Some(earlier) if broken.is_some() || earlier.text == text => earlier.since,
        _ => now,
    };
    let trust = Digest::of(&[]);
    PolicyFile { file: file.into(), text, modules, trust, may_deny, remote, active, active_text, broken, again, since }
}

/// Whether a document, broken as it may be, says readably that it is a backup policy. Of any other one nobody knows whom it was
/// to deny what.
fn is_backup(text: &str) -> bool {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("kind:"));
    let kinds = kinds.map(|kind| kind.split(" #").next().unwrap_or(kind).trim());
    kinds.eq(["BackupPolicy"]) && !text.contains("AccessPolicy")
}

/// The file of each policy, by its kind and its name.
type Names = BTreeMap<(bool, String), String>;

fn key(active: &Active) -> (bool, String) {
    (matches!(active, Active::Backup(_)), active.name().to_owned())
}

/// No two files may define the same policy.
fn unique(names: &mut Names, file: &str, loaded: Loaded) -> Result<Loaded> {
    let active = &loaded.active;
    let key = key(active);
    if let Some(other) = names.get(&key) {
        return Err(Error::new(
            ErrorKind::Exists,
            format!("{file}: the policy {} is defined in {other} too", active.name()),
        )
        .advise("Give one of them another name."));
    }
    names.insert(key, file.into());
    Ok(loaded)
}

/// What a broken file last stood for goes where another file stands for a policy of that name: everything is known by the
/// policy's name, and of two with one name nobody could say whose schedule holds, or what they keep.
fn one_of_each_name(files: &mut [PolicyFile], kept: Option<&Kept>) {
    let mut names = Names::new();
    let (good, broken): (Vec<_>, Vec<_>) = files.iter_mut().partition(|file| file.broken.is_none());
    for file in good.into_iter().chain(broken) {
        let Some(active) = &file.active else { continue };
        let name = active.name().to_owned();
        match names.entry(key(active)) {
            Entry::Vacant(free) => {
                free.insert(file.file.clone());
            }
            Entry::Occupied(other) => {
                let what = format!("{}: it stood for the policy {name}, which {} is now", file.file, other.get());
                let error = Error::new(ErrorKind::Exists, what).advise("Remove the file, or mend it.");
                file.broken = file.broken.take().map(|broken| Arc::new(error.because(broken)));
                (file.active, file.active_text) = (None, None);
                if let Some(kept) = kept {
                    kept.forget(&file.file);
                }
            }
        }
    }
}

fn load(loading: &Loading<'_>, text: &str, earlier: Option<&Active>) -> Result<Loaded> {
    let document = documents::parse(loading.file, text)?;
    let references: Vec<_> = document.uses().into_iter().map(|uses| uses.module.clone()).collect();
    let active = match document {
        Document::Backup(document) => {
            let earlier = match earlier {
                Some(Active::Backup(policy)) => Some(&**policy),
                _ => None,
            };
            Active::Backup(Arc::new(loading.backup(*document, earlier)?))
        }
        Document::Access(document) => {
            let earlier = match earlier {
                Some(Active::Access(policy)) => Some(&**policy),
                _ => None,
            };
            Active::Access(Arc::new(loading.access(document, earlier)?))
        }
    };
    let file_of = |(reference, module): (ModuleRef, ModuleInForce)| match reference {
        ModuleRef::File(name) => Some((name, module.digest)),
        ModuleRef::Builtin(_) | ModuleRef::Registry(_) => None,
    };
    let modules = references.into_iter().zip(active.modules()).filter_map(file_of).collect();
    Ok(Loaded { active, modules })
}

/// One document on its way.
struct Loading<'a> {
    host: &'a Host,
    folder: &'a Path,
    file: &'a str,
    having: Having,
}

/// A policy that need not be made anew if its component and its settings are the same.
trait Reusable: Clone {
    const FIELD: &'static str;
    fn is(&self, component: Digest, settings: Digest) -> bool;
    fn make(host: &Host, module: Arc<Module>, settings: &str) -> Result<Self, Refused>;
}

macro_rules! reusable {
    ($($policy:ident: $field:literal),*) => {$(
        impl Reusable for $policy {
            const FIELD: &'static str = $field;

            fn is(&self, component: Digest, settings: Digest) -> bool {
                self.digest() == component && self.settings_hash() == settings
            }

            fn make(host: &Host, module: Arc<Module>, settings: &str) -> Result<Self, Refused> {
                Self::of(host, module, settings)
            }
        }
    )*};
}
reusable!(SelectPolicy: "select", SchedulePolicy: "schedule", RetentionPolicy: "retention", AuthorizePolicy: "authorize");

impl Loading<'_> {
    fn backup(&self, document: BackupDocument, earlier: Option<&BackupPolicy>) -> Result<BackupPolicy> {
        let retention = |uses| self.policy(uses, earlier.and_then(|earlier| earlier.retention.as_ref()));
        Ok(BackupPolicy {
            select: self.policy(&document.select, earlier.map(|earlier| &earlier.select))?,
            schedule: self.policy(&document.schedule, earlier.map(|earlier| &earlier.schedule))?,
            retention: document.retention.as_ref().map(retention).transpose()?,
            name: document.name,
            target: document.target,
            scratch_class: document.scratch_class,
            quiesce: document.quiesce,
            deadline: document.deadline,
            verify_every: document.verify_every,
        })
    }

    fn access(&self, document: AccessDocument, earlier: Option<&AccessPolicy>) -> Result<AccessPolicy> {
        let bindings = document.authorize.iter().enumerate().map(|(n, binding)| {
            let earlier = earlier.and_then(|earlier| earlier.bindings.get(n)).map(|binding| &binding.policy);
            let policy = self.policy(&binding.uses, earlier)?;
            Ok(AccessBinding { module: binding.uses.module.to_string(), policy, mode: binding.mode })
        });
        let bindings = bindings.collect::<Result<_>>()?;
        Ok(AccessPolicy { name: document.name, bindings, max_staleness: document.max_staleness })
    }

    /// The earlier policy if nothing changed, else a new one.
    fn policy<P: Reusable>(&self, uses: &Use, earlier: Option<&P>) -> Result<P> {
        let settings = uses.settings.json();
        let component = uses
            .module
            .read(self.folder, self.host.registries(), self.having.fetch)
            .map_err(|error| self.placed(uses.line, P::FIELD, uses, error))?;
        let hash = Digest::of(settings.as_bytes());
        if let Some(earlier) = earlier.filter(|earlier| earlier.is(component.digest, hash)) {
            return Ok(earlier.clone());
        }
        let module = match self.having.compile {
            Compile::Now => self.host.module(&component),
            Compile::Later => self.host.module_at_hand(component),
        };
        let module = module.map_err(|error| self.placed(uses.line, P::FIELD, uses, error))?;
        P::make(self.host, module, &settings).map_err(|refused| match refused {
            Refused::Because(error) => self.placed(uses.line, P::FIELD, uses, error),
            Refused::Settings(errors) => self.refused_settings::<P>(uses, &errors),
        })
    }

    fn placed(&self, line: u64, field: &str, uses: &Use, error: Error) -> Error {
        error.within(format!("{}, line {line}: {field}: {}", self.file, uses.module))
    }

    /// All that a component says of its settings, each where it was written.
    fn refused_settings<P: Reusable>(&self, uses: &Use, errors: &[crate::host::FieldError]) -> Error {
        let lines: Vec<_> = errors
            .iter()
            .map(|error| {
                let line = uses.settings.line(&error.path).unwrap_or(uses.line);
                let field = error.path.replace('/', ".");
                let message: String = error.message.chars().filter(|c| !c.is_control()).take(500).collect();
                format!("{}, line {line}: {}.settings{field}: {message}", self.file, P::FIELD)
            })
            .take(20)
            .collect();
        let what = if lines.is_empty() { format!("{}: its settings are refused", self.file) } else { lines.join("; ") };
        Error::new(ErrorKind::Invalid, what)
            .advise(format!("docs/policies.md lists the settings of the built-in modules; this is {}.", uses.module))
    }
}
