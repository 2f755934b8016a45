//! What a person or a machine holds to open a repository: a passphrase, or a key file. Neither prints anything of itself.

use std::fmt;

use remora_core::{Error, ErrorKind, Result};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::keys::{Key, random};

/// A passphrase. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(Vec<u8>);

impl Passphrase {
    /// From its bytes, as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
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

#[cfg(test)]
mod tests {
    use super::*;

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
