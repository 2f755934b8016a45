//! What opens the repository: a key file, or a passphrase from a file, the environment or a prompt; never from the
//! command line, never printed.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use remora_core::{Error, ErrorKind, Result};
use remora_vault::{KeyFile, Passphrase, Secret};
use zeroize::Zeroizing;

use crate::environment::Environment;

/// Where the secret comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum SecretFrom {
    /// A key file.
    KeyFile(PathBuf),
    /// A passphrase's file.
    PassphraseFile(PathBuf),
    /// `REMORA_PASSPHRASE`.
    Environment,
    /// The person at the terminal.
    #[default]
    Prompt,
}

/// How often a prompt asks, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Once: to open a repository.
    Once,
    /// Twice, and both must be equal: to make one.
    Twice,
    /// Twice, for another passphrase than the one that opens it now.
    New,
}

/// Gets it. Blocks while a person types.
pub(crate) fn get(from: &SecretFrom, environment: &Environment, ask: Ask) -> Result<Secret> {
    if let SecretFrom::KeyFile(path) = from {
        warn_if_public("key file", path);
        return KeyFile::of_file(path).map(Secret::KeyFile);
    }
    passphrase(from, environment, ask).map(Secret::Passphrase)
}

/// Gets a passphrase from a file or from the person at the terminal.
pub(crate) fn new_passphrase(file: Option<PathBuf>) -> Result<Passphrase> {
    let from = file.map_or(SecretFrom::Prompt, SecretFrom::PassphraseFile);
    passphrase(&from, &Environment::default(), Ask::New)
}

/// Makes a key file, which must not be there yet: for its owner alone, and synced.
pub(crate) fn generate_key_file(path: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("making the key file {}", path.display()), e);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(KeyFile::random().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn passphrase(from: &SecretFrom, environment: &Environment, ask: Ask) -> Result<Passphrase> {
    let passphrase = match (from, environment.passphrase()) {
        (SecretFrom::PassphraseFile(path), _) => {
            warn_if_public("passphrase file", path);
            Passphrase::of_file(path)?
        }
        (SecretFrom::Environment, Some(passphrase)) => Passphrase::new(passphrase.to_vec()),
        _ => Passphrase::new(prompt(ask)?.to_vec()),
    };
    if passphrase.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the passphrase is empty").advise("Give one that is not."));
    }
    Ok(passphrase)
}

fn warn_if_public(what: &str, path: &Path) {
    if path.metadata().is_ok_and(|meta| meta.is_file() && meta.mode() & 0o004 != 0) {
        tracing::warn!("everybody on this host may read the {what} {}", path.display());
    }
}

fn prompt(ask: Ask) -> Result<Zeroizing<Vec<u8>>> {
    if !std::io::stdin().is_terminal() {
        let (what, advice) = match ask {
            Ask::New => ("there is no new passphrase", "Give --new-passphrase-file."),
            Ask::Once | Ask::Twice => (
                "there is no passphrase",
                "Give --passphrase-file, REMORA_PASSPHRASE_FILE or REMORA_PASSPHRASE, or --key-file or REMORA_KEY_FILE.",
            ),
        };
        return Err(Error::new(ErrorKind::Invalid, format!("{what}, and no terminal to ask at")).advise(advice));
    }
    let type_in = |prompt: &str| {
        let typed = rpassword::prompt_password(prompt).map_err(|e| Error::io("asking for the passphrase", e))?;
        Ok::<_, Error>(Zeroizing::new(typed.into_bytes()))
    };
    let new = if ask == Ask::New { "New passphrase" } else { "Passphrase" };
    let first = type_in(&format!("{new} of the repository: "))?;
    if ask != Ask::Once && *type_in("Once more: ")? != *first {
        return Err(Error::new(ErrorKind::Invalid, "the two passphrases differ").advise("Try again."));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_empty_and_a_missing_file_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kinds = |path: &Path| {
            let from = [SecretFrom::PassphraseFile(path.into()), SecretFrom::KeyFile(path.into())];
            from.map(|from| get(&from, &Environment::default(), Ask::Once).unwrap_err().kind())
        };
        std::fs::write(file.path(), "\n").unwrap();
        assert_eq!(kinds(file.path()), [ErrorKind::Invalid; 2]);
        assert_eq!(kinds(Path::new("/nonexistent/p")), [ErrorKind::NotFound; 2]);
    }

    #[test]
    fn a_key_file_is_made_for_its_owner_alone_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        generate_key_file(&path).unwrap();
        let made = std::fs::read(&path).unwrap();
        assert_eq!((made.len(), path.metadata().unwrap().permissions().mode() & 0o777), (KeyFile::LEN, 0o600));
        let Secret::KeyFile(read) =
            get(&SecretFrom::KeyFile(path.clone()), &Environment::default(), Ask::Once).unwrap()
        else {
            panic!("a key file is no passphrase");
        };
        assert_eq!(read.as_bytes().as_slice(), made);
        assert_eq!(generate_key_file(&path).unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), made);
    }

    #[test]
    fn nothing_prints_it() {
        let environment = Environment::of([("REMORA_PASSPHRASE".to_owned(), "hunter2".into())]);
        let passphrase = get(&SecretFrom::Environment, &environment, Ask::Once).unwrap();
        assert!(!format!("{passphrase:?}").contains("hunter2"));
        assert!(environment.get("REMORA_PASSPHRASE").is_none());
    }
}
