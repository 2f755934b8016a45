//! What concerns a whole repository: made, looked at, opened, copied.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use remora_core::PointId;
use remora_vault::{Immutable, SlotId};

#[derive(Debug, Subcommand)]
pub(crate) enum RepoCommand {
    /// Make a repository; asks for its passphrase twice if there is none, and no key file, in the settings
    Init {
        /// Let nobody delete what is stored for so many days, such as 30d: of a bucket with Object Lock
        #[arg(long, value_name = "DAYS", value_parser = Immutable::from_str)]
        immutable: Option<Immutable>,
    },
    /// Tell what the repository is and holds
    Status,
    /// Change what is set for the repository
    Set(Set),
    /// Bring back what somebody deleted or replaced in a bucket that keeps versions; needs no key
    Undelete {
        /// Tell what would come back, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// What is set for a repository.
#[derive(Args, Clone, Copy, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Set {
    /// Let nobody delete what is stored from now on for so many days, such as 60d
    #[arg(long, value_name = "DAYS", value_parser = Immutable::from_str)]
    pub(crate) immutable: Option<Immutable>,
    /// Let what is stored from now on be deleted at any time; what is locked stays so until its time
    #[arg(long)]
    pub(crate) not_immutable: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key file: 32 random bytes that only its owner can read
    Generate {
        /// The file; it must not be there yet
        file: PathBuf,
    },
    /// List the slots; * marks the one that opened the repository
    List,
    /// Add a slot for another passphrase, which is asked for twice, or for a key file
    Add {
        /// The file that holds the new passphrase
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// The key file that is to open the repository too
        #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_file")]
        new_key_file: Option<PathBuf>,
    },
    /// Remove a slot; not the one that opens the repository now
    Remove {
        /// The slot, as `remora key list` names it
        slot: SlotId,
    },
    /// Exchange the passphrase that opens the repository now for another, which is asked for twice
    ChangePassphrase {
        /// The file that holds the new passphrase
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Copy {
    /// The points, as `remora points` names them; all if none is given
    pub(crate) points: Vec<PointId>,
    /// The repository to copy from; the one in the settings if none is given
    #[arg(long, value_name = "URL", required_unless_present = "to")]
    pub(crate) from: Option<String>,
    /// The repository to copy to, which must have been made; the one in the settings if none is given
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,
    /// The file that holds the passphrase of the repository to copy from, if it is another one
    #[arg(long, value_name = "FILE")]
    pub(crate) from_passphrase_file: Option<PathBuf>,
    /// The key file of the repository to copy from, if it is another one
    #[arg(long, value_name = "FILE", conflicts_with = "from_passphrase_file")]
    pub(crate) from_key_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use crate::args::tests::parse;

    #[test]
    fn a_key_file_and_a_passphrase_are_not_given_together() {
        assert!(parse(&["points", "--key-file", "k", "--passphrase-file", "p"]).is_err());
        assert!(parse(&["key", "add", "--new-key-file", "k", "--new-passphrase-file", "p"]).is_err());
        assert!(parse(&["key", "add", "--key-file", "k", "--new-passphrase-file", "p"]).is_ok());
        assert!(parse(&["key", "remove", "0011"]).is_err());
    }

    #[test]
    fn immutability_is_of_whole_days_and_ends_on_purpose_only() {
        for bad in [
            ["repo", "init", "--immutable", "30"].as_slice(),
            &["repo", "init", "--immutable", "0d"],
            &["repo", "set"],
            &["repo", "set", "--immutable", "30d", "--not-immutable"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&["repo", "init", "--immutable", "30d"]).is_ok());
        assert!(parse(&["repo", "set", "--not-immutable"]).is_ok());
    }
}
