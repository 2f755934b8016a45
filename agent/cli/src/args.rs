//! The command line. What it says of each command is the text that `--help` shows.
// So the comments are no Markdown.
#![allow(clippy::doc_markdown, rustdoc::bare_urls, rustdoc::invalid_html_tags)]

mod backup;
mod plugin;
mod policy;
mod read;
mod repository;
mod upkeep;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use remora_core::{PointId, VmName};
use remora_vault::Tenant;

pub(crate) use self::backup::Backup;
pub(crate) use self::plugin::{Language, New, NewKind, Plugin, PluginCommand};
pub(crate) use self::policy::{ActionArg, Explain, PolicyCommand};
pub(crate) use self::read::{Cp, Diff, Export, ImageFormat, Mount, Restore};
pub(crate) use self::repository::{Copy, KeyCommand, RepoCommand};
pub(crate) use self::upkeep::{Hold, Prune, Verify};
use crate::size::Size;

/// Backs up libvirt VMs by their changed blocks, and gives disks and files back.
///
/// The options below "Settings" can also come from the environment (REMORA_REPO, REMORA_PASSPHRASE_FILE, …: each names
/// its variable) or from a TOML file (--config, else ~/.config/remora/config.toml, else /etc/remora/config.toml); but the
/// file cannot name itself, and --verbose and --quiet are of the command line alone. The command line goes first, then the
/// environment, then the file. What opens the repository is a key file or a passphrase: from --key-file or
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
    /// az://container/prefix?account=…, gs://bucket/prefix, or plugin:NAME/prefix [env: REMORA_REPO]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) repo: Option<String>,
    /// Whose points: those of a namespace of Kubernetes, by its name; else those that this program makes
    /// [env: REMORA_TENANT]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) tenant: Option<Tenant>,
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
    /// The folder of plugins' documents, for repositories of plugin: and modules of oci:;
    /// /etc/remora/plugins if not given [env: REMORA_PLUGINS]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,
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
    ///
    /// Of a point that is called sampled, which went through a plugin, only a part was read back when it was stored.
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
    /// Try policies before they are in force: their documents, golden cases, and what they would decide
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Make a policy or a mover, and try one before it is used
    Plugin {
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the definitions of remora's resources on Kubernetes, for `kubectl apply --server-side -f -`
    Crds,
    /// Watches over a backup; started by `remora backup` itself
    #[command(hide = true)]
    Watchdog,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    pub(super) fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"remora").chain(line))
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
    fn settings_stand_before_or_after_the_command() {
        for line in [["--repo", "/r", "points"], ["points", "--repo", "/r"]] {
            assert_eq!(parse(&line).unwrap().flags.repo.as_deref(), Some("/r"));
        }
        assert_eq!(parse(&["points", "-ojson"]).unwrap().flags.output, Some(OutputFormat::Json));
    }
}
