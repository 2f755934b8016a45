//! The command line.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Parser;

/// Runs in a pod of remora's namespace, under its own ServiceAccount; outside of a cluster with what KUBECONFIG names.
#[derive(Debug, Parser)]
#[command(name = "remora-controller", version, max_term_width = 100)]
pub(crate) struct Args {
    /// The namespace of remora, whose Repositories are the administrators'
    #[arg(long, env = "REMORA_NAMESPACE", value_name = "NAMESPACE", default_value = "remora")]
    pub(crate) namespace: String,
    /// The name of this one among the controllers
    #[arg(long, env = "REMORA_POD", value_name = "NAME")]
    pub(crate) instance: String,
    /// The agents' ServiceAccount
    #[arg(long, value_name = "NAME", default_value = "remora-agent")]
    pub(crate) agents: String,
    /// Where the key service listens
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    pub(crate) keys: SocketAddr,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8080")]
    pub(crate) health: SocketAddr,
    /// The Service of the key service
    #[arg(long, value_name = "NAME", default_value = "remora-controller")]
    pub(crate) service: String,
    /// The image of workers, the pods that write or read claims, which holds remora-agent; that of this pod if not given
    #[arg(long, env = "REMORA_IMAGE", value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// The folder of policies: the ConfigMap remora-policies; nothing is scheduled if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) policies: Option<PathBuf>,
    /// Where the last good versions of policies are kept, for a controller that is started again
    #[arg(long, value_name = "DIR")]
    pub(crate) kept: Option<PathBuf>,
    /// The folder of plugins' documents, for repositories of plugin: and modules of oci:: the ConfigMap and the Secret
    /// remora-plugins; there are none of these if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,
    /// Where what is fetched from registries is kept, for a controller that is started again, and what is compiled of movers
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// How many runs that policies ask for may be at work at once
    #[arg(long, value_name = "NUMBER", default_value = "64")]
    pub(crate) scheduled_runs: NonZeroUsize,
    /// Tell more of what is done (-vv: still more); REMORA_LOG takes filters such as `remora_kube=debug`
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Write log lines as JSON
    #[arg(long)]
    pub(crate) log_json: bool,
}
