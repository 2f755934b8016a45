//! Names and ids: parsed once at the edge, valid ever after.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

// Before the module, which has them too.
macro_rules! text_conversions {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    )*};
}

macro_rules! display_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

mod checkpoint;

pub use self::checkpoint::{BackupName, CheckpointName};

/// Why a text is no name or id of the kind wanted.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no {kind}: {why}")]
pub struct InvalidName {
    kind: &'static str,
    text: String,
    why: &'static str,
}

impl From<InvalidName> for crate::Error {
    fn from(error: InvalidName) -> Self {
        Self::new(crate::ErrorKind::Invalid, error.to_string())
    }
}

/// A VM's name as its hypervisor knows it. Any text but the empty one: spaces, newlines and non-ASCII occur.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmName(String);

/// A disk's target name (`vda`). ASCII letters, digits, `.`, `_` and `-`, so that it can be a file's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskName(String);

/// The id of a point: 16 hexadecimal digits that stand for the VM, a dash, and the point's sequence number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PointId {
    vm: String,
    sequence: u64,
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 16]);

        impl $name {
            /// A fresh one from the operating system's random numbers.
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the kernel's random numbers never fail on a booted Linux");
                Self(bytes)
            }

            /// From its bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let mut bytes = [0; 16];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) => Err(InvalidName { kind: $kind, text: text.into(), why: "32 hexadecimal digits are wanted" }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

id128!(
    /// A repository's random id.
    RepositoryId,
    "repository id"
);
id128!(
    /// The id of a lineage: the points of one disk that were made from one another share it.
    LineageId,
    "lineage id"
);

impl VmName {
    /// Any text but the empty one.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        if text.is_empty() || text.contains('\0') {
            return Err(InvalidName { kind: "VM name", text, why: "it is empty or holds a NUL byte" });
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl DiskName {
    /// See the type for what is allowed.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if text.is_empty() || text.starts_with('.') || text.len() > 100 || !plain {
            return Err(InvalidName {
                kind: "disk name",
                text,
                why: "letters, digits, '.', '_' and '-' are allowed, at most 100, no '.' first",
            });
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DiskName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl PointId {
    /// The point of `sequence` of the VM that `vm`, 16 lower-case hexadecimal digits, stands for.
    pub fn new(vm: impl Into<String>, sequence: u64) -> Result<Self, InvalidName> {
        let vm = vm.into();
        if vm.len() != 16 || !vm.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidName {
                kind: "point",
                text: vm,
                why: "16 hexadecimal digits, a dash and a number are wanted",
            });
        }
        Ok(Self { vm, sequence })
    }

    /// The digits that stand for the VM.
    pub fn vm(&self) -> &str {
        &self.vm
    }

    /// The place in the VM's sequence; newest means highest.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl FromStr for PointId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName {
            kind: "point",
            text: text.into(),
            why: "16 hexadecimal digits, a dash and a number are wanted",
        };
        let (vm, sequence) = text.split_once('-').ok_or_else(invalid)?;
        let id = Self::new(vm, sequence.parse().map_err(|_| invalid())?).map_err(|_| invalid())?;
        // One spelling a point: no sign, no leading zeros.
        if id.to_string() == text { Ok(id) } else { Err(invalid()) }
    }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.vm, self.sequence)
    }
}

text_conversions!(DiskName, PointId);
display_text!(VmName, DiskName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_names_cannot_leave_a_folder() {
        for bad in ["", "..", ".hidden", "a/b", "a b", "vda\n"] {
            assert!(DiskName::new(bad).is_err(), "{bad:?}");
        }
        assert!(DiskName::new("vda").is_ok());
    }

    #[test]
    fn a_point_id_has_one_spelling() {
        let id: PointId = "00112233445566aa-7".parse().unwrap();
        assert_eq!((id.vm(), id.sequence()), ("00112233445566aa", 7));
        for bad in ["", "7", "00112233445566AA-7", "00112233445566aa-07", "00112233445566aa-+7", "../../etc-1"] {
            assert!(bad.parse::<PointId>().is_err(), "{bad}");
        }
    }
}
