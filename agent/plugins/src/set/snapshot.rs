//! The files of a policy folder at one instant.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use remora_core::{Error, ErrorKind, Result};

use crate::host::{Digest, LARGEST_COMPONENT};
use crate::mounted::{regular_file, version};

/// So often a swap may come in between: more is no swap.
const TRIES: usize = 5;

/// The documents of a folder, and where the modules lie that they name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that was read: of a mounted `ConfigMap`, the one behind the link.
    pub folder: PathBuf,
    /// The documents, by file name.
    pub documents: BTreeMap<String, String>,
    /// The documents that cannot be read, and why: their neighbours are read all the same.
    pub unreadable: BTreeMap<String, String>,
    /// The digests of the modules beside them, by file name.
    pub modules: BTreeMap<String, Digest>,
    /// What tells a change of any file, documents, modules and signatures alike.
    pub digest: Digest,
}

impl Snapshot {
    /// Reads `folder`: every `*.yaml` and `*.yml` in it is a document, every `*.wasm` a module, and
    /// every `*.sig` a signature of one. All of it comes from one
    /// version of a mounted `ConfigMap`.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut tries = 0;
        loop {
            // Resolved once: what is read then is one version, whatever happens to the link meanwhile.
            match read(&version(folder), tries == TRIES) {
                Ok(snapshot) => return Ok(snapshot),
                // The version, or a file, was removed while it was read: there is a newer one.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
                Err(error) => {
                    return Err(Error::io(format!("reading the policy folder {}", folder.display()), error)
                        .advise("Make the folder, or name another one with --config."));
                }
            }
        }
    }

    /// Reads one document, with the modules beside it.
    pub fn of_file(file: &Path) -> Result<Self> {
        let named = || format!("reading the policy {}", file.display());
        let text = fs::read_to_string(file).map_err(|e| Error::io(named(), e))?;
        let name = file.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{}: it has no name", named())))?;
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(Self {
            folder: parent.unwrap_or(Path::new(".")).into(),
            digest: Digest::of(text.as_bytes()),
            documents: BTreeMap::from([(name.to_owned(), text)]),
            unreadable: BTreeMap::new(),
            modules: BTreeMap::new(),
        })
    }
}

/// What cannot be read in it is told of by its file. One that went meanwhile is so only if `last`, for a swap may be why.
fn read(folder: &Path, last: bool) -> io::Result<Snapshot> {
    let (mut documents, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
    let (mut modules, mut all) = (BTreeMap::new(), BTreeMap::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("yaml" | "yml" | "sig" | "wasm")) {
            continue;
        }
        let bytes = match regular_file(&path, LARGEST_COMPONENT as u64) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !last && !dangles(&path) => return Err(error),
            bytes => bytes,
        };
        let digest = match &bytes {
            Ok(bytes) => Digest::of(bytes),
            Err(error) => Digest::of(error.to_string().as_bytes()),
        };
        all.insert(name.to_owned(), digest);
        match extension {
            Some("wasm") => {
                modules.insert(name.to_owned(), digest);
            }
            // Of a module.
            Some("sig") => {}
            _ => match bytes.and_then(text) {
                Ok(text) => {
                    documents.insert(name.to_owned(), text);
                }
                Err(error) => {
                    unreadable.insert(name.to_owned(), error.to_string());
                }
            },
        }
    }
    let sum: Vec<_> = all.iter().map(|(name, digest)| format!("{digest} {name}\n")).collect();
    let digest = Digest::of(sum.concat().as_bytes());
    Ok(Snapshot { folder: folder.into(), documents, unreadable, modules, digest })
}

/// Whether it is a link to nothing, which it may be for long, and no file that was just removed.
fn dangles(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_to_nothing_is_told_of_at_the_first_try() {
        let folder = tempfile::tempdir().unwrap();
        symlink("nowhere", folder.path().join("a.yaml")).unwrap();
        let snapshot = read(folder.path(), false).unwrap();
        assert_eq!(snapshot.unreadable.keys().collect::<Vec<_>>(), ["a.yaml"]);
    }

    #[test]
    fn what_was_removed_meanwhile_is_no_link_to_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        assert!(!dangles(&file));
        symlink("a.yaml", &link).unwrap();
        assert!(dangles(&link));
        // It was swapped: there is a file again.
        fs::write(&file, "").unwrap();
        assert!(!dangles(&link) && !dangles(&file));
    }
}
