//! What a person or a machine holds to open a repository: a passphrase, or a key file. Neither prints anything of itself.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use remora_core::{Error, ErrorKind, Result, cut_newline};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::keys::{Key, random};

/// A larger file is none of a passphrase or a key.
const LARGEST: u64 = 64 * 1024;

/// A passphrase. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(Vec<u8>);

impl Passphrase {
    /// From its bytes, as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Of a file. One newline at its end is ignored: editors end it so.
    pub fn of_file(path: &Path) -> Result<Self> {
        let mut bytes = read(&format!("passphrase file {}", path.display()), path)?;
        cut_newline(&mut bytes);
        Ok(Self::new(bytes.to_vec()))
    }

    /// Whether there is nothing of it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// The 32 random bytes of a key file. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeyFile([u8; 32]);

impl KeyFile {
    /// Bytes of a key file.
    pub const LEN: usize = 32;

    /// A new one.
    pub fn random() -> Self {
        Self(random())
    }

    /// From what a file holds; `Invalid` unless that is 32 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        bytes.try_into().map(Self).map_err(|_| {
            let what = format!("a key file has {} bytes, this one has {}", Self::LEN, bytes.len());
            Error::new(ErrorKind::Invalid, what).advise("Make one with `remora key generate FILE`.")
        })
    }

    /// Of a file.
    pub fn of_file(path: &Path) -> Result<Self> {
        let named = format!("key file {}", path.display());
        Self::new(&read(&named, path)?).map_err(|error| error.within(named))
    }

    /// What the file holds.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The key that wraps the repository key in a key file's slot: the file is random already, so nothing is stretched.
    pub(crate) fn wrapping(&self) -> Key {
        Key::from_bytes(self.0).derive("remora vault v1 key files")
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFile(…)")
    }
}

/// What opens a key slot.
#[derive(Clone, Debug)]
pub enum Secret {
    /// A passphrase.
    Passphrase(Passphrase),
    /// A key file.
    KeyFile(KeyFile),
}

impl Secret {
    /// Its kind in a sentence.
    pub(crate) const fn noun(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "passphrase",
            Self::KeyFile(_) => "key file",
        }
    }
}

fn read(named: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error| Error::io(named, error);
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::new(ErrorKind::Invalid, format!("{named} is larger than {LARGEST} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_newline_of_a_passphrase_s_file_is_ignored() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [("s3cret\n", "s3cret"), ("s3cret", "s3cret"), ("two\n\n", "two\n"), (" sp \n", " sp ")]
        {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(Passphrase::of_file(file.path()).unwrap().as_bytes(), expected.as_bytes());
        }
    }

    #[test]
    fn a_missing_and_a_huge_file_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kinds =
            |path: &Path| [Passphrase::of_file(path).unwrap_err().kind(), KeyFile::of_file(path).unwrap_err().kind()];
        assert_eq!(kinds(Path::new("/nonexistent/p")), [ErrorKind::NotFound; 2]);
        std::fs::write(file.path(), vec![b'x'; LARGEST as usize + 1]).unwrap();
        assert_eq!(kinds(file.path()), [ErrorKind::Invalid; 2]);
    }

    #[test]
    fn secrets_do_not_print() {
        let secrets = [Secret::Passphrase(Passphrase::new(*b"open sesame")), Secret::KeyFile(KeyFile([7; 32]))];
        let text = format!("{secrets:?}");
        assert!(!text.contains('7') && !text.contains("sesame"), "{text}");
    }

    #[test]
    fn a_key_file_has_32_bytes() {
        assert_eq!(KeyFile::new(&[1; 32]).unwrap().as_bytes(), &[1; 32]);
        for len in [0, 31, 33] {
            assert_eq!(KeyFile::new(&vec![1; len]).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
