//! The passphrase: from a file, the environment or a prompt; never from the command line, never printed.

use std::io::{IsTerminal, Read};
use std::path::Path;

use remora_core::{Error, ErrorKind, Result};
use remora_vault::Passphrase;
use zeroize::Zeroizing;

use crate::environment::Environment;
use crate::settings::PassphraseFrom;

/// A passphrase file larger than this is none.
const LIMIT: u64 = 64 * 1024;

/// How often a prompt asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Once: to open a repository.
    Once,
    /// Twice, and both must be equal: to make one.
    Twice,
}

/// Gets it. Blocks while a person types.
pub(crate) fn get(from: &PassphraseFrom, environment: &Environment, ask: Ask) -> Result<Passphrase> {
    let bytes = match (from, environment.passphrase()) {
        (PassphraseFrom::File(path), _) => read(path)?,
        (PassphraseFrom::Environment, Some(passphrase)) => passphrase.clone(),
        (PassphraseFrom::Environment, None) | (PassphraseFrom::Prompt, _) => prompt(ask)?,
    };
    if bytes.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the passphrase is empty").advise("Give one that is not."));
    }
    Ok(Passphrase::new(bytes.to_vec()))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let named = format!("passphrase file {}", path.display());
    let failed = |error| Error::io(&named, error);
    let file = std::fs::File::open(path).map_err(failed)?;
    warn_if_public(path, &file);
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::new(ErrorKind::Invalid, format!("{named} is larger than {LIMIT} bytes")));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(bytes)
}

fn warn_if_public(path: &Path, file: &std::fs::File) {
    use std::os::unix::fs::MetadataExt;
    if file.metadata().is_ok_and(|meta| meta.is_file() && meta.mode() & 0o004 != 0) {
        tracing::warn!("everybody on this host may read the passphrase file {}", path.display());
    }
}

fn prompt(ask: Ask) -> Result<Zeroizing<Vec<u8>>> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(ErrorKind::Invalid, "there is no passphrase, and no terminal to ask at")
            .advise("Give --passphrase-file, REMORA_PASSPHRASE_FILE or REMORA_PASSPHRASE."));
    }
    let type_in = |prompt: &str| {
        let typed = rpassword::prompt_password(prompt).map_err(|e| Error::io("asking for the passphrase", e))?;
        Ok::<_, Error>(Zeroizing::new(typed.into_bytes()))
    };
    let first = type_in("Passphrase of the repository: ")?;
    if ask == Ask::Twice && *type_in("Once more: ")? != *first {
        return Err(Error::new(ErrorKind::Invalid, "the two passphrases differ").advise("Try again."));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_newline_of_a_file_is_ignored() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [("s3cret\n", "s3cret"), ("s3cret", "s3cret"), ("two\n\n", "two\n"), (" sp \n", " sp ")]
        {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(&**read(file.path()).unwrap(), expected.as_bytes());
        }
    }

    #[test]
    fn an_empty_a_missing_and_a_huge_file_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kind = |path: &Path| {
            get(&PassphraseFrom::File(path.into()), &Environment::default(), Ask::Once).unwrap_err().kind()
        };
        std::fs::write(file.path(), "\n").unwrap();
        assert_eq!(kind(file.path()), ErrorKind::Invalid);
        assert_eq!(kind(Path::new("/nonexistent/p")), ErrorKind::NotFound);
        std::fs::write(file.path(), vec![b'x'; LIMIT as usize + 1]).unwrap();
        assert_eq!(kind(file.path()), ErrorKind::Invalid);
    }

    #[test]
    fn nothing_prints_it() {
        let environment = Environment::of([("REMORA_PASSPHRASE".to_owned(), "hunter2".into())]);
        let passphrase = get(&PassphraseFrom::Environment, &environment, Ask::Once).unwrap();
        assert!(!format!("{passphrase:?}").contains("hunter2"));
        assert!(environment.get("REMORA_PASSPHRASE").is_none());
    }
}
