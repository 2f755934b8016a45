//! The command line. What it says of each command is the text that `--help` shows.
// So the comments are no Markdown.
#![allow(clippy::doc_markdown, rustdoc::bare_urls, rustdoc::invalid_html_tags)]

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use remora_core::point::Quiesce;
use remora_core::{DiskName, PointId, VmName};
use remora_vault::{Immutable, Share, SlotId};

use crate::size::Size;

/// Backs up libvirt VMs by their changed blocks, and gives disks and files back.
///
/// Each option below "Settings" can also come from the environment (REMORA_REPO, REMORA_PASSPHRASE_FILE, …) or from a
/// TOML file (--config, else ~/.config/remora/config.toml, else /etc/remora/config.toml); the command line goes first,
/// then the environment, then the file. What opens the repository is a key file or a passphrase: from --key-file or
/// --passphrase-file, else REMORA_KEY_FILE, REMORA_PASSPHRASE, REMORA_PASSPHRASE_FILE, else the file's key_file or
/// passphrase_file, else a prompt, and never from the command line itself.
#[derive(Debug, Parser)]
#[command(name = "remora", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) flags: Flags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The settings, as the command line gives them.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Settings")]
pub(crate) struct Flags {
    /// The repository: a folder's path, file:///path, s3://bucket/prefix?endpoint=…&region=…&path-style=…,
    /// az://container/prefix?account=…, or gs://bucket/prefix [env: REMORA_REPO]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) repo: Option<String>,
    /// The file that holds the passphrase; one trailing newline is ignored [env: REMORA_PASSPHRASE_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// A key file, in place of a passphrase; `remora key generate` makes one [env: REMORA_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_file")]
    pub(crate) key_file: Option<PathBuf>,
    /// The credentials of a bucket: a file, or a folder such as a Kubernetes Secret's; the environment's if not given
    /// [env: REMORA_CREDENTIALS]
    #[arg(long, global = true, value_name = "FILE|DIR")]
    pub(crate) credentials: Option<PathBuf>,
    /// A file of CA certificates that a bucket's server may have too, beside the system's [env: REMORA_CA_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Send to the repository at most so much a second, such as 50MiB [env: REMORA_LIMIT_UPLOAD]
    #[arg(long, global = true, value_name = "SIZE")]
    pub(crate) limit_upload: Option<Size>,
    /// Fetch from the repository at most so much a second [env: REMORA_LIMIT_DOWNLOAD]
    #[arg(long, global = true, value_name = "SIZE")]
    pub(crate) limit_download: Option<Size>,
    /// Ask the repository's store at most so often a second [env: REMORA_LIMIT_REQUESTS]
    #[arg(long, global = true, value_name = "NUMBER")]
    pub(crate) limit_requests: Option<NonZeroU64>,
    /// The libvirt to use, as virsh takes it [env: REMORA_CONNECT, LIBVIRT_DEFAULT_URI]
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) connect: Option<String>,
    /// The folder for scratch files during a backup; else they lie beside each disk's image [env: REMORA_SCRATCH]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// The folder for locks and sockets; /run/remora if not given [env: REMORA_RUN_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// The folder where this host remembers what it saw of repositories; /var/lib/remora if not given [env: REMORA_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// How results and errors are written [env: REMORA_OUTPUT]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<OutputFormat>,
    /// The configuration file [env: REMORA_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Tell more of what is done (-vv: still more); REMORA_LOG takes filters such as `remora_vault=debug`
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Show no progress and no notes
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// How results and errors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For scripts: one JSON value on standard output, errors as JSON on standard error.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look whether this host can do it: libvirt, QEMU, changed blocks, FUSE, the appliance, the clock; and try what the
    /// repository's store can do
    Doctor {
        /// The repository; else the one of the settings
        #[arg(value_name = "REPO")]
        repo: Option<String>,
    },
    /// Make a repository, or tell what one is and holds
    Repo {
        #[command(subcommand)]
        command: RepoCommand,
    },
    /// Say who can open the repository: each passphrase and each key file has a slot
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Back up a VM: all of it the first time, then only what changed
    Backup(Backup),
    /// List the points of all VMs or of one, oldest first
    Points {
        /// The VM
        #[arg(value_parser = VmName::from_str)]
        vm: Option<VmName>,
    },
    /// Tell all about a point
    Show {
        /// The point, as `remora points` names it
        point: PointId,
    },
    /// Tell which bytes of the disks differ between two points of a VM
    Diff(Diff),
    /// Restore the disks of a point to a folder, or one disk to a file or a block device
    Restore(Restore),
    /// Write a disk of a point as one image, also to standard output
    Export(Export),
    /// Mount a point: its disks below DIR/disks, the guest's files below DIR/files, until a signal comes
    Mount(Mount),
    /// Copy files or folders out of a point
    Cp(Cp),
    /// Copy points that are not there yet into another repository
    Copy(Copy),
    /// Read and authenticate everything that a point, or every point, needs
    Verify(Verify),
    /// Drop the points that no rule keeps, then remove what nothing needs any more
    Prune(Prune),
    /// Remove what no point needs any more
    Gc {
        /// The VM; all if none
        #[arg(value_parser = VmName::from_str)]
        vm: Option<VmName>,
        /// Tell what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Hold a point against every rule of `remora prune`
    Hold(Hold),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Watches over a backup; started by `remora backup` itself
    #[command(hide = true)]
    Watchdog,
}

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

#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// The point; all if none
    pub(crate) point: Option<PointId>,
    /// Read no data: only manifests, maps, and what segments say of themselves
    #[arg(long, conflicts_with = "sample")]
    pub(crate) structure_only: bool,
    /// Read this part of the data, such as 5%, each day another one: regular runs cover everything
    #[arg(long, value_name = "PERCENT", value_parser = Share::from_str)]
    pub(crate) sample: Option<Share>,
    /// Store again what is lost and the running VM still has; the next backup does so with the rest of its newest point
    #[arg(long)]
    pub(crate) repair: bool,
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

#[derive(Args, Debug)]
pub(crate) struct Prune {
    /// The VM; all if none
    #[arg(value_parser = VmName::from_str)]
    pub(crate) vm: Option<VmName>,
    #[command(flatten)]
    pub(crate) keep: Keep,
    /// Keep at least so many of the newest points, whatever the other rules say
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) min_count: u32,
    /// Keep every point that is younger than this (`36h`, `30d`)
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) min_age: Option<SignedDuration>,
    /// Tell what would become of each point, and what that would free, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Which points to keep; at least one rule must be given, so that a forgotten one drops nothing.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Keep {
    /// Keep the newest N points
    #[arg(long = "keep-last", value_name = "N")]
    pub(crate) last: Option<u32>,
    /// Keep the newest point of each of the last N hours that have one
    #[arg(long = "keep-hourly", value_name = "N")]
    pub(crate) hourly: Option<u32>,
    /// Of the last N days that have one, by the calendar in UTC
    #[arg(long = "keep-daily", value_name = "N")]
    pub(crate) daily: Option<u32>,
    /// Of the last N weeks, which begin on Monday
    #[arg(long = "keep-weekly", value_name = "N")]
    pub(crate) weekly: Option<u32>,
    /// Of the last N months
    #[arg(long = "keep-monthly", value_name = "N")]
    pub(crate) monthly: Option<u32>,
    /// Of the last N years
    #[arg(long = "keep-yearly", value_name = "N")]
    pub(crate) yearly: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct Hold {
    /// The point
    pub(crate) point: PointId,
    /// Until when it is held, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", required_unless_present = "clear")]
    pub(crate) until: Option<Timestamp>,
    /// Hold it no longer
    #[arg(long, conflicts_with = "until")]
    pub(crate) clear: bool,
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

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| "a time such as 90s, 10m or 2h is wanted")?;
    Duration::try_from(parsed).map_err(|_| "a time cannot be negative".into())
}

fn age(text: &str) -> Result<SignedDuration, String> {
    let span: jiff::Span = text.parse().map_err(|_| "a time such as 36h, 30d or 8w is wanted")?;
    let age = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours());
    age.ok().filter(|age| !age.is_negative()).ok_or_else(|| "a time of hours, days or weeks is wanted".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"remora").chain(line))
    }

    fn backup(line: &[&str]) -> Backup {
        match parse(line).unwrap().command {
            Command::Backup(backup) => backup,
            other => panic!("{other:?}"),
        }
    }

    /// Every visible command and flag.
    fn walk(command: &clap::Command, path: &str, see: &mut impl FnMut(String)) {
        for argument in command.get_arguments().filter(|a| !a.is_global_set() || path == "remora") {
            if let Some(long) = argument.get_long().filter(|long| !matches!(*long, "help" | "version")) {
                see(format!("--{long}"));
            }
        }
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name());
            if !sub.has_subcommands() {
                see(format!("### `{path}"));
            }
            walk(sub, &path, see);
        }
    }

    #[test]
    fn every_command_and_flag_stands_in_the_guide() {
        let guide = include_str!("../../../docs/cli.md");
        let mut seen = 0;
        walk(&Cli::command(), "remora", &mut |text| {
            seen += 1;
            assert!(guide.contains(&text), "docs/cli.md lacks {text:?}");
        });
        assert!(seen > 25, "only {seen}");
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
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
        assert!(parse(&["restore", "0011223344556677-1"]).is_err());
        assert!(parse(&["export", "0011223344556677-1", "--disk", "vda"]).is_err());
    }

    #[test]
    fn a_key_file_and_a_passphrase_are_not_given_together() {
        assert!(parse(&["points", "--key-file", "k", "--passphrase-file", "p"]).is_err());
        assert!(parse(&["key", "add", "--new-key-file", "k", "--new-passphrase-file", "p"]).is_err());
        assert!(parse(&["key", "add", "--key-file", "k", "--new-passphrase-file", "p"]).is_ok());
        assert!(parse(&["key", "remove", "0011"]).is_err());
    }

    #[test]
    fn pruning_needs_a_rule_and_holding_a_time() {
        for bad in [
            ["prune"].as_slice(),
            &["prune", "vm", "--min-count", "3"],
            &["prune", "--keep-last", "-1"],
            &["prune", "--keep-last=1", "--min-age=soon"],
            &["prune", "--keep-last=1", "--min-age=-1h"],
            &["hold", "0011223344556677-1"],
            &["hold", "0011223344556677-1", "--clear", "--until", "2027-01-01T00:00:00Z"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let Command::Prune(prune) = parse(&["prune", "vm", "--keep-daily=7", "--min-age=2d"]).unwrap().command else {
            panic!("it is another command")
        };
        assert_eq!((prune.keep.daily, prune.keep.last, prune.min_count), (Some(7), None, 1));
        assert_eq!(prune.min_age, Some(SignedDuration::from_hours(48)));
        assert!(parse(&["hold", "0011223344556677-1", "--until", "2027-01-01T00:00:00Z"]).is_ok());
        assert!(parse(&["hold", "0011223344556677-1", "--clear"]).is_ok());
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

    #[test]
    fn settings_stand_before_or_after_the_command() {
        for line in [["--repo", "/r", "points"], ["points", "--repo", "/r"]] {
            assert_eq!(parse(&line).unwrap().flags.repo.as_deref(), Some("/r"));
        }
        assert_eq!(parse(&["points", "-ojson"]).unwrap().flags.output, Some(OutputFormat::Json));
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
