//! Small files of a folder that administrators write, which may be a mounted `ConfigMap`.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use remora_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

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

/// The bytes of a file, and of nothing else: whoever opens a pipe waits for ever, and a device has no end. Of one that has more
/// than `most`, one more, which shows that.
pub(crate) fn regular_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
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

/// The same, as text: of a document or a signature, which is a file and no pipe that somebody waits for.
pub(crate) fn small_text(folder: &Path, path: &Path) -> Result<String> {
    let there = folder.join(path);
    if fs::metadata(&there).is_ok_and(|found| !found.is_file()) {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is no file", there.display())));
    }
    String::from_utf8(small_file(folder, path)?)
        .map_err(|e| Error::new(ErrorKind::Invalid, format!("{} is no text", path.display())).because(e))
}

/// A secret of a file, without the newline that editors end one with.
pub fn secret_file(folder: &Path, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let mut secret = Zeroizing::new(small_file(folder, path)?);
    if secret.last() == Some(&b'\n') {
        secret.pop();
    }
    if secret.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is empty", folder.join(path).display())));
    }
    Ok(secret)
}

/// The texts of all documents of a folder; none if there is no folder.
pub(crate) fn documents(folder: &Path) -> Result<Vec<String>> {
    let folder = version(folder);
    let failed = |e| Error::io(format!("reading {}", folder.display()), e);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut texts = Vec::new();
    for entry in entries {
        let name = PathBuf::from(entry.map_err(failed)?.file_name());
        if name.extension().is_some_and(|ext| ext == "yaml" || ext == "yml") {
            texts.push(small_text(&folder, &name)?);
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_file_is_no_document_and_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/dev/zero", folder.path().join("a.yaml")).unwrap();
        let error = documents(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().ends_with("a.yaml is no file"), "{error}");
    }
}
