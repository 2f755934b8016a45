//! What reads points: disks and files that come out of them, and what differs between two.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use remora_core::{DiskName, PointId};

#[derive(Args, Debug)]
pub(crate) struct Diff {
    /// The point before
    pub(crate) from: PointId,
    /// The point after
    pub(crate) to: PointId,
    /// Only this disk
    #[arg(long)]
    pub(crate) disk: Option<DiskName>,
}

/// What a disk is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageFormat {
    /// The bytes of the disk; a file is sparse.
    Raw,
    /// A qcow2 image.
    Qcow2,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The point
    pub(crate) point: PointId,
    /// A folder, made if it is not there, for DIR/<disk>.raw of every disk; with --disk, a file or a block device
    #[arg(long, value_name = "DIR|FILE|DEVICE")]
    pub(crate) to: PathBuf,
    /// Only this disk
    #[arg(long)]
    pub(crate) disk: Option<DiskName>,
    /// The form of the image
    #[arg(long, value_enum, default_value_t = ImageFormat::Raw)]
    pub(crate) format: ImageFormat,
    /// Replace what is there. A block device always needs this
    #[arg(long)]
    pub(crate) force: bool,
    /// Restore all that is not lost; lost ranges become zeros and are listed in a file beside the target
    #[arg(long)]
    pub(crate) allow_damaged: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The point
    pub(crate) point: PointId,
    /// The disk
    #[arg(long)]
    pub(crate) disk: DiskName,
    /// The form of the image
    #[arg(long, value_enum)]
    pub(crate) format: ImageFormat,
    /// The file; - is standard output
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Mount {
    /// The point
    pub(crate) point: PointId,
    /// The folder to mount below; made if it is not there
    pub(crate) dir: PathBuf,
    /// Only the raw disks, not the guest's files: starts no appliance
    #[arg(long)]
    pub(crate) disks_only: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Cp {
    /// What to copy: POINT:/path below the mount's files folder, such as POINT:/root/etc or POINT:/vda/1/boot
    #[arg(value_name = "POINT:/PATH")]
    pub(crate) from: PointPath,
    /// Where to: a folder that is there takes the copy in it, else the copy gets this name
    #[arg(value_name = "DEST")]
    pub(crate) to: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    pub(crate) force: bool,
}

/// A path in a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PointPath {
    pub(crate) point: PointId,
    pub(crate) path: PathBuf,
}

impl FromStr for PointPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (point, path) = text.split_once(':').ok_or("POINT:/path is wanted")?;
        if !path.starts_with('/') {
            return Err("after the colon an absolute path is wanted".into());
        }
        Ok(Self { point: point.parse::<PointId>().map_err(|e| e.to_string())?, path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::tests::parse;

    #[test]
    fn what_is_needed_must_be_given() {
        assert!(parse(&["restore", "0011223344556677-1"]).is_err());
        assert!(parse(&["export", "0011223344556677-1", "--disk", "vda"]).is_err());
    }

    #[test]
    fn a_path_in_a_point_is_absolute_and_may_hold_colons() {
        let parsed: PointPath = "0011223344556677-1:/root/a:b".parse().unwrap();
        assert_eq!(parsed.path.to_str(), Some("/root/a:b"));
        for bad in ["", "/etc", "0011223344556677-1", "0011223344556677-1:etc", "x:/etc"] {
            assert!(bad.parse::<PointPath>().is_err(), "{bad:?}");
        }
    }
}
