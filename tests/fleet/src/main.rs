//! A fleet of nodes: agents as they are (`remora_kube::node`), each under its own token, with machines and backup jobs that
//! are played (`kubevirt.rs`) and a worker that asks the cluster what a backup asks and reads no disk (`worker.rs`). The
//! controller and the API server are real ones, and somebody else's.
//!
//! Orders are lines of standard input: `run FIRST COUNT` makes a `BackupRun` for each of so many machines, `release COUNT`
//! lets so many runs that are held go on. Each line of standard output is a JSON object: `{"ready": …}`, `{"begun": RUN}`,
//! `{"works": RUN}` once its job runs, `{"ended": RUN, "reason": …}`. It ends with its standard input.

mod cluster;
mod kubevirt;
mod nodes;
mod worker;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use kube::config::AuthInfo;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Semaphore;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Plays a fleet in the cluster of an API server, in which remora is deployed and has a Repository that is ready.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// The API server
    #[arg(long)]
    server: String,
    /// The way of the agents to it, if that is another
    #[arg(long)]
    agents: Option<String>,
    /// The certificate of the API server's CA
    #[arg(long)]
    ca: PathBuf,
    /// The token of who may do anything
    #[arg(long)]
    token: String,
    /// The controller's key service
    #[arg(long)]
    keys: String,
    /// The name of the Repository in remora's namespace
    #[arg(long)]
    repository: String,
    /// Where tokens are kept
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    nodes: usize,
    #[arg(long)]
    machines: usize,
    #[arg(long)]
    namespaces: usize,
    /// Runs wait for `release` before their end
    #[arg(long)]
    hold: bool,
}

impl Args {
    /// A client of the API server with the token of a file, or the owner's.
    pub(crate) fn client(&self, url: &str, token: Option<PathBuf>) -> Result<Client> {
        let mut config = Config::new(url.parse()?);
        config.root_cert_file = Some(self.ca.clone());
        let file = token.map(|path| path.display().to_string());
        let owner = file.is_none().then(|| self.token.clone().into());
        config.auth_info = AuthInfo { token: owner, token_file: file, ..AuthInfo::default() };
        Ok(Client::try_from(config)?)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // The one of this process; nobody was first.
    rustls::crypto::ring::default_provider().install_default().ok();
    let filter = std::env::var("REMORA_LOG").unwrap_or_else(|_| "warn".into());
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_env_filter(filter).init();
    let args = Args::parse();
    let owner = args.client(&args.server, None)?;
    let cluster = cluster::Cluster::make(owner.clone(), &args).await?;
    let plays = [tokio::spawn(kubevirt::jobs(owner.clone())), tokio::spawn(kubevirt::claims(owner.clone()))];
    let told = tokio::spawn(cluster::ends(owner.clone()));
    let held = Arc::new(Semaphore::new(if args.hold { 0 } else { Semaphore::MAX_PERMITS }));
    let agents = nodes::start(&args, &cluster, &held).await?;
    tell(&json!({"ready": args.nodes}));
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        match order.split(' ').collect::<Vec<_>>()[..] {
            ["run", first, count] => cluster.run(first.parse()?, count.parse()?).await?,
            ["release", count] => held.add_permits(count.parse()?),
            _ => return Err(format!("an unknown order: {order}").into()),
        }
    }
    for task in agents.into_iter().chain(plays).chain([told]) {
        task.abort();
    }
    Ok(())
}

/// Says it on standard output.
pub(crate) fn tell(what: &Value) {
    println!("{what}");
}
