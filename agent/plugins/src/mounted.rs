//! Small files that administrators write: of a folder, which may be a mounted `ConfigMap`, and those named on a command line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use remora_core::{Error, ErrorKind, Result, cut_newline};
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

/// The bytes of a file, and of nothing else: a pipe may have no end, as a device has none, and what is none is invalid input. Of
/// one that has more than `most`, one more, which shows that.
pub(crate) fn regular_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Whoever opens a pipe waits for ever, but so. It is looked at once it is open, for what lies there may be swapped.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file of at most 64 KiB; relative paths are relative to the folder.
pub(crate) fn small_file(folder: &Path, path: &Path) -> Result<Vec<u8>> {
    let path = folder.join(path);
    let bytes = regular_file(&path, LONGEST).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Error::new(ErrorKind::Invalid, format!("{} is no file", path.display()))
            .advise("Put what it is to hold into a file there: pipes, devices and folders are not read."),
        _ => Error::io(format!("reading {}", path.display()), error),
    })?;
    check_length(&path, &bytes)?;
    Ok(bytes)
}

/// The same, as text.
pub(crate) fn small_text(folder: &Path, path: &Path) -> Result<String> {
    String::from_utf8(small_file(folder, path)?)
        .map_err(|e| Error::new(ErrorKind::Invalid, format!("{} is no text", path.display())).because(e))
}

fn check_length(path: &Path, bytes: &[u8]) -> Result<()> {
    if bytes.len() as u64 > LONGEST {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is larger than 64 KiB", path.display())));
    }
    Ok(())
}

/// A secret of a file, without the newline that editors end one with.
pub(crate) fn secret_file(folder: &Path, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    secret(&folder.join(path), Zeroizing::new(small_file(folder, path)?))
}

/// The same of what a person names on a command line, which may be a pipe, too: a shell makes one of `<(command)`. Whoever writes
/// into it is waited for, so this is for no daemon.
pub fn named_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    // One that grows leaves copies of what it held.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    read.map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
    check_length(path, &bytes)?;
    secret(path, bytes)
}

fn secret(path: &Path, mut bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>> {
    cut_newline(&mut bytes);
    if bytes.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is empty", path.display())));
    }
    Ok(bytes)
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
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::thread;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn what_is_no_file_is_no_document_and_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/dev/zero", folder.path().join("a.yaml")).unwrap();
        let error = documents(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().ends_with("a.yaml is no file"), "{error}");
    }

    #[test]
    fn a_pipe_and_a_folder_are_no_secret_and_are_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        mkfifo(&folder.path().join("pipe"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        for name in ["pipe", "folder"] {
            let error = secret_file(folder.path(), Path::new(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().ends_with(&format!("{name} is no file")), "{error}");
        }
        let error = secret_file(folder.path(), Path::new("absent")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        fs::write(folder.path().join("token"), "s3cret\n").unwrap();
        assert_eq!(*secret_file(folder.path(), Path::new("token")).unwrap(), b"s3cret");
        assert_eq!(*named_secret(&folder.path().join("token")).unwrap(), b"s3cret");
    }

    #[test]
    fn a_pipe_that_a_person_names_is_read_to_its_end_if_that_comes_soon() {
        let named = |written: Vec<u8>| {
            let (reader, mut writer) = io::pipe().unwrap();
            // Nobody reads more than may be.
            let writing = thread::spawn(move || writer.write_all(&written).ok());
            let secret = named_secret(Path::new(&format!("/dev/fd/{}", reader.as_raw_fd())));
            drop(reader);
            writing.join().unwrap();
            secret.map(|secret| secret.to_vec()).map_err(|error| (error.kind(), error.to_string()))
        };
        assert_eq!(named(b"s3cret\n".to_vec()).unwrap(), b"s3cret");
        let longest = LONGEST as usize;
        assert_eq!(named(vec![b'x'; longest]).unwrap().len(), longest);
        for (written, what) in [(vec![b'x'; longest * 4], "is larger than 64 KiB"), (b"\n".to_vec(), "is empty")] {
            let (kind, text) = named(written).unwrap_err();
            assert!(kind == ErrorKind::Invalid && text.ends_with(what), "{text}");
        }
        let text = named_secret(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(text, "/dev/zero is larger than 64 KiB");
    }
}
