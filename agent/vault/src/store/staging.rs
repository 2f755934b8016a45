//! What lies in a folder while an object is being written, and after whoever wrote it was killed.
//!
//! The folder's client writes an object into a file of its own, the object's name with `#` and the first number that is
//! free, and then links or renames it to the object's name. No listing of the client shows these files. A bucket has
//! nothing like it: an object is stored by one PUT, which is there whole or not at all.

use std::fs;
use std::io;
use std::path::{Path as FilePath, PathBuf};

use jiff::Timestamp;
use object_store::path::Path;
use remora_core::{Error, ErrorKind, Result};

use super::Store;

/// The file of an object that is being written, or that somebody died over.
#[derive(Debug)]
pub(crate) struct Staged {
    file: PathBuf,
    /// The object's name.
    pub(crate) object: Path,
    pub(crate) bytes: u64,
    /// When it was last written to, by the clock of the folder's filesystem.
    pub(crate) touched: Timestamp,
}

impl Store {
    /// What is being written into a folder, or was: none in a bucket.
    pub(crate) async fn staged(&self) -> Result<Vec<Staged>> {
        let Some(folder) = self.shared.folder.clone() else { return Ok(Vec::new()) };
        let named = format!("looking for unfinished writes in repository {}", self.place);
        let walked = tokio::task::spawn_blocking(move || {
            let mut staged = Vec::new();
            walk(&folder, &Path::default(), &mut staged).map(|()| staged)
        });
        let walked = walked.await.map_err(|e| Error::new(ErrorKind::Failed, &*named).because(e))?;
        walked.map_err(|e| Error::io(named, e))
    }

    /// Of a folder store: removes the folder of objects that are all gone. One that is not empty, or not there, stays
    /// as it is.
    pub(crate) fn remove_empty(&self, folder: &Path) {
        if let Some(root) = &self.shared.folder {
            let path = folder.parts().fold(root.clone(), |path, part| path.join(part.as_ref()));
            // Why it does not go is no matter: it holds nothing.
            fs::remove_dir(path).ok();
        }
    }
}

impl Staged {
    /// Removes it: nobody writes it any more.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", self.file.display()), error))
            }
            _ => Ok(()),
        }
    }
}

fn walk(folder: &FilePath, name: &Path, staged: &mut Vec<Staged>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(file_name) = entry.file_name().into_string() else { continue };
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &name.clone().join(file_name.as_str()), staged)?;
        } else if let Some(object) = staged_name(&file_name) {
            match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                meta => {
                    let meta = meta?;
                    let touched = Timestamp::try_from(meta.modified()?).unwrap_or(Timestamp::MAX);
                    let object = name.clone().join(object);
                    staged.push(Staged { file: entry.path(), object, bytes: meta.len(), touched });
                }
            }
        }
    }
    Ok(())
}

/// The file name of the object that is written under this one.
fn staged_name(file_name: &str) -> Option<&str> {
    let (object, number) = file_name.split_once('#')?;
    (!number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())).then_some(object)
}
