//! Small files of a folder that administrators write, which may be a mounted `ConfigMap`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use remora_core::{Error, ErrorKind, Result};

/// A mounted `ConfigMap` is a folder with a link of this name to the folder that holds the files. An update swaps the link.
const DATA: &str = "..data";

/// A document, a key or a secret is at most so long.
const LONGEST: u64 = 64 << 10;

/// The version of a folder that is there now. What is read below it is of one version, whatever happens to the link meanwhile.
pub(crate) fn version(folder: &Path) -> PathBuf {
    match fs::read_link(folder.join(DATA)) {
        Ok(target) => folder.join(target),
        Err(_) => folder.to_owned(),
    }
}

/// A file of at most 64 KiB; relative paths are relative to the folder.
pub(crate) fn small_file(folder: &Path, path: &Path) -> Result<Vec<u8>> {
    let path = folder.join(path);
    let named = || format!("reading {}", path.display());
    let file = fs::File::open(&path).map_err(|e| Error::io(named(), e))?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|e| Error::io(named(), e))?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is larger than 64 KiB", path.display())));
    }
    Ok(bytes)
}

/// The same, as text.
pub(crate) fn small_text(folder: &Path, path: &Path) -> Result<String> {
    String::from_utf8(small_file(folder, path)?)
        .map_err(|e| Error::new(ErrorKind::Invalid, format!("{} is no text", path.display())).because(e))
}
