//! What a backup is told.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use remora_core::point::Quiesce;
use remora_core::{DiskName, VmName};

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The VM, by its libvirt name
    #[arg(value_parser = VmName::from_str)]
    pub(crate) vm: VmName,
    /// Read and store everything, and begin a new lineage
    #[arg(long, conflicts_with = "reread")]
    pub(crate) full: bool,
    /// Read everything, and store what differs from the newest point
    #[arg(long)]
    pub(crate) reread: bool,
    /// Back up only this disk, such as vda; may be repeated
    #[arg(long = "disk", value_name = "DISK")]
    pub(crate) disks: Vec<DiskName>,
    /// Whether the guest's filesystems are frozen for an instant: fail if they cannot be, try, or do not ask
    #[arg(long, value_enum, default_value_t = QuiesceArg::Preferred, value_name = "WISH")]
    pub(crate) quiesce: QuiesceArg,
    /// Wait while another backup job holds the VM, for at most so long (`90s`, `10m`); an hour if no time is given
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "1h",
          value_parser = duration)]
    pub(crate) wait: Option<Duration>,
}

/// [`Quiesce`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuiesceArg {
    /// Fail if the guest cannot be frozen.
    Required,
    /// Go on without, and say so.
    Preferred,
    /// Do not ask the guest.
    Never,
}

impl From<QuiesceArg> for Quiesce {
    fn from(arg: QuiesceArg) -> Self {
        match arg {
            QuiesceArg::Required => Self::Required,
            QuiesceArg::Preferred => Self::Preferred,
            QuiesceArg::Never => Self::Never,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| "a time such as 90s, 10m or 2h is wanted")?;
    Duration::try_from(parsed).map_err(|_| "a time cannot be negative".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;
    use crate::args::tests::parse;

    fn backup(line: &[&str]) -> Backup {
        match parse(line).unwrap().command {
            Command::Backup(backup) => backup,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waiting_takes_a_time_or_an_hour_and_never_the_vm() {
        assert_eq!(backup(&["backup", "vm"]).wait, None);
        assert_eq!(backup(&["backup", "--wait", "vm"]).wait, Some(Duration::from_hours(1)));
        assert_eq!(backup(&["backup", "--wait=90s", "vm"]).wait, Some(Duration::from_secs(90)));
        for bad in ["--wait=soon", "--wait=-5s"] {
            assert!(parse(&["backup", bad, "vm"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_vms_may_be_strange_but_not_empty() {
        assert_eq!(backup(&["backup", "a b\nč"]).vm.as_str(), "a b\nč");
        assert!(parse(&["backup", ""]).is_err());
        assert_eq!(backup(&["backup", "vm", "--disk", "vda", "--disk=vdb"]).disks.len(), 2);
        assert!(parse(&["backup", "vm", "--disk", "../vda"]).is_err());
    }

    #[test]
    fn what_contradicts_is_refused() {
        assert!(parse(&["backup", "vm", "--full", "--reread"]).is_err());
    }
}
