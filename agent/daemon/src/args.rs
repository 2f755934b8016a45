//! The command line.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Backs VMs up by policy: what is backed up, when, and for how long it is kept is in the documents of DIR/policies.
/// DIR/agent.toml names the repositories. docs/policies.md describes both.
#[derive(Debug, Parser)]
#[command(name = "remora-agent", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// The folder of agent.toml and policies/
    #[arg(long, value_name = "DIR", default_value = "/etc/remora")]
    pub(crate) config: PathBuf,
    /// Tell more of what is done (-vv: still more); REMORA_LOG takes filters such as `remora_vault=debug`
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Write log lines as JSON
    #[arg(long, global = true)]
    pub(crate) log_json: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watches over a backup; started by the agent itself
    #[command(hide = true)]
    Watchdog,
    /// Removes old checkpoints in the libvirt of a launcher's pod; started by the agent itself
    #[command(hide = true)]
    Retire {
        /// What to remove, as JSON
        what: String,
    },
    /// Writes restored disks to the claims of its pod; started by remora-controller
    #[command(hide = true)]
    Receive {
        #[command(flatten)]
        worker: WorkerArgs,
        /// A file that would hide what is written: it is removed first
        #[arg(long = "overlay", value_name = "PATH")]
        overlays: Vec<PathBuf>,
    },
    /// Reads the claims of its pod to an agent; started by remora-controller
    #[command(hide = true)]
    Lend(WorkerArgs),
    /// Does the BackupRuns and RestoreRuns of KubeVirt's VMs that the controller gives to this node
    Node(Box<NodeArgs>),
}

/// Runs in an unprivileged pod, which has claims and no keys.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// Where the agent connects to
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// The folder of ca.crt, tls.crt and tls.key
    #[arg(long, value_name = "DIR")]
    pub(crate) tls: PathBuf,
    /// A claim's folder or block device; the first is number 0
    #[arg(long = "disk", value_name = "PATH", required = true)]
    pub(crate) disks: Vec<PathBuf>,
}

/// Runs in a privileged pod of a DaemonSet; see deploy/base/agent.yaml.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// The node's name
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node: String,
    /// The namespace of remora
    #[arg(long, env = "REMORA_NAMESPACE", value_name = "NAMESPACE", default_value = "remora")]
    pub(crate) namespace: String,
    /// This pod's name
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub(crate) pod: String,
    /// This pod's UID, which its claims name
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pub(crate) pod_uid: String,
    /// The kubelet's folder of pods, mounted with HostToContainer; a short path, for sockets' paths are limited
    #[arg(long, value_name = "DIR", default_value = "/pods")]
    pub(crate) pods: PathBuf,
    /// Where keys are kept while a run lasts: a folder in memory
    #[arg(long, value_name = "DIR", default_value = "/run/remora")]
    pub(crate) keys: PathBuf,
    /// Where this node remembers what it saw of repositories, to notice one that was put back to an earlier state
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The folder of policies, whose retention says which points are dropped: the ConfigMap remora-policies; none are dropped
    /// if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) policies: Option<PathBuf>,
    /// The folder of plugins' documents, for repositories of plugin: and modules of oci:: the ConfigMap and the Secret
    /// remora-plugins; there are none of these if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,
    /// The controller's key service; https://remora-controller.NAMESPACE.svc:8443 if not given
    #[arg(long, env = "REMORA_CONTROLLER", value_name = "URL")]
    pub(crate) controller: Option<String>,
    /// The certificates that the key service's is signed by: ConfigMap remora-controller-ca
    #[arg(long, value_name = "FILE", default_value = "/etc/remora/controller/ca.crt")]
    pub(crate) controller_ca: PathBuf,
    /// This agent's token for the key service, of the audience remora-controller
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/remora/token")]
    pub(crate) token: PathBuf,
    /// How many backups run at once: each reads a disk at full speed
    #[arg(long, value_name = "NUMBER", default_value = "2")]
    pub(crate) parallel: NonZeroUsize,
    /// Where metrics and health are served; nowhere if not given
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
}
