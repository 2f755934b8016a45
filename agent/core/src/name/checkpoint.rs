//! Names of checkpoints, and of KubeVirt's backups that make them: by these we know our own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidName, LineageId, RepositoryId};
use crate::base32;

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

text_conversions!(CheckpointName, BackupName);
display_text!(CheckpointName, BackupName);

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
}
