//! Names and ids: parsed once at the edge, valid ever after.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base32;

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

/// The name of one of our checkpoints, in one of two forms. Both name the repository, which [`CheckpointName::repository`]
/// gives.
///
/// * `remora-<repository id>-<128 random bits>`, both in hexadecimal: made by us in libvirt.
/// * `<backup name>-<YYYY-MM-DD_HH-MM-SS>`: made by KubeVirt for the [`BackupName`] that we gave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckpointName(String);

/// The name of a backup of KubeVirt that is ours: `r-<repository id>-<128 random bits>`, both in lower-case base32 without
/// padding (RFC 4648), for a Kubernetes name has 63 characters at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupName(String);

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

impl CheckpointName {
    const PREFIX: &'static str = "remora-";

    /// A fresh name for a checkpoint of `repository` that we make.
    pub fn random(repository: RepositoryId) -> Self {
        Self(format!("{}{repository}-{}", Self::PREFIX, LineageId::random()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The repository whose points it serves.
    pub fn repository(&self) -> RepositoryId {
        self.ids().0
    }

    /// The name of the backup of KubeVirt that made it, if one did.
    pub fn backup(&self) -> Option<BackupName> {
        split_made_by_backup(&self.0)
    }

    /// The name for a backup of KubeVirt that stands for this checkpoint: of the same repository and random bits.
    pub fn as_backup(&self) -> BackupName {
        let (repository, random) = self.ids();
        BackupName::new(repository, random)
    }

    fn ids(&self) -> (RepositoryId, LineageId) {
        let ids = split_hexadecimal(&self.0).or_else(|| self.backup().and_then(|backup| backup.ids()));
        ids.expect("checked when it was made")
    }
}

impl FromStr for CheckpointName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if split_hexadecimal(text).is_none() && split_made_by_backup(text).is_none() {
            return Err(InvalidName {
                kind: "checkpoint of ours",
                text: text.into(),
                why: "remora-<repository id>-<random>, or r-<repository id>-<random>-<date>_<time>, is wanted",
            });
        }
        Ok(Self(text.into()))
    }
}

/// The parts of the hexadecimal form.
fn split_hexadecimal(text: &str) -> Option<(RepositoryId, LineageId)> {
    let (repository, random) = text.strip_prefix(CheckpointName::PREFIX)?.split_once('-')?;
    Some((repository.parse().ok()?, random.parse().ok()?))
}

/// The backup's name in KubeVirt's form.
fn split_made_by_backup(text: &str) -> Option<BackupName> {
    let (backup, time) = text.split_at_checked(BackupName::LENGTH)?;
    let digits = |byte: &u8, pattern: &u8| if *pattern == b'0' { byte.is_ascii_digit() } else { byte == pattern };
    let pattern = b"-0000-00-00_00-00-00";
    let is_time =
        time.len() == pattern.len() && time.bytes().zip(pattern).all(|(byte, pattern)| digits(&byte, pattern));
    backup.parse().ok().filter(|_| is_time)
}

impl BackupName {
    const PREFIX: &'static str = "r-";

    /// The characters of 128 bits in base32.
    const ID: usize = 26;

    const LENGTH: usize = Self::PREFIX.len() + 2 * Self::ID + 1;

    fn new(repository: RepositoryId, random: LineageId) -> Self {
        Self(format!("{}{}-{}", Self::PREFIX, base32::encode(repository.as_bytes()), base32::encode(random.as_bytes())))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The repository whose points it serves.
    pub fn repository(&self) -> RepositoryId {
        self.ids().expect("checked when it was made").0
    }

    fn ids(&self) -> Option<(RepositoryId, LineageId)> {
        let (repository, random) = self.0.strip_prefix(Self::PREFIX)?.split_once('-')?;
        let (repository, random) = (base32::decode(repository)?, base32::decode(random)?);
        Some((RepositoryId::from_bytes(repository), LineageId::from_bytes(random)))
    }
}

impl FromStr for BackupName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let name = Self(text.into());
        if name.ids().is_none() {
            return Err(InvalidName {
                kind: "backup of ours",
                text: text.into(),
                why: "r-<repository id>-<random> is wanted",
            });
        }
        Ok(name)
    }
}

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
text_conversions!(DiskName, PointId, CheckpointName, BackupName);

macro_rules! display_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
display_text!(VmName, DiskName, CheckpointName, BackupName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_names_tell_their_repository_and_refuse_foreign_ones() {
        let repository = RepositoryId::random();
        let name = CheckpointName::random(repository);
        assert_eq!(name.as_str().parse::<CheckpointName>().unwrap().repository(), repository);
        for foreign in ["cp1", "remora-", "remora-1-2", "virtnbdbackup.0"] {
            assert!(foreign.parse::<CheckpointName>().is_err(), "{foreign}");
        }
    }

    #[test]
    fn a_checkpoint_that_kubevirt_made_names_its_backup_and_its_repository() {
        let repository = RepositoryId::random();
        let asked = CheckpointName::random(repository);
        let backup = asked.as_backup();
        assert_eq!(backup.repository(), repository);
        assert_ne!(backup, CheckpointName::random(repository).as_backup());
        let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        assert!(backup.as_str().len() <= 63 && backup.as_str().bytes().all(label), "{backup}");
        let made: CheckpointName = format!("{backup}-2026-03-01_09-59-07").parse().unwrap();
        assert_eq!((made.repository(), made.backup().as_ref()), (repository, Some(&backup)));
        assert_eq!(made.as_backup(), backup);
        assert_eq!(asked.backup(), None);
        assert_eq!(serde_like_round_trip(&made), made);
    }

    fn serde_like_round_trip(name: &CheckpointName) -> CheckpointName {
        String::from(name.clone()).try_into().unwrap()
    }

    #[test]
    fn what_only_resembles_a_backup_of_ours_is_foreign() {
        let backup = CheckpointName::random(RepositoryId::random()).as_backup().to_string();
        for time in ["", "-", "-2026-03-01", "-2026-03-01_09-59-7", "-2026-03-01_09-59-070", "_2026-03-01_09-59-07"] {
            assert!(format!("{backup}{time}").parse::<CheckpointName>().is_err(), "{time}");
        }
        // The last of 26 characters has two bits too many: one spelling a name.
        let last = backup.as_bytes()[backup.len() - 1];
        let other = format!("{}{}", &backup[..backup.len() - 1], if last == b'b' { 'c' } else { 'b' });
        let upper = backup.to_uppercase();
        for foreign in ["r-", "r-a-b", &backup[..54], &backup[1..], &format!("{backup}x"), &upper, &other, "r-é"] {
            assert!(foreign.parse::<BackupName>().is_err(), "{foreign}");
        }
    }

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
