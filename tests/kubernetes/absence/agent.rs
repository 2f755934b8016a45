//! The agent of the node: with the engine and the vault, and the keys that the controller gives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kube::config::AuthInfo;
use kube::{Client, Config};
use remora_core::BackupName;
use remora_core::point::Point;
use remora_core::ports::Mover;
use remora_core::testing::FakeHost;
use remora_engine::backup;
use remora_kube::node::{
    Agent, Counts, Desk, Done, Failure, KeyService, Me, Meter, Order, Pace, RestoreOrder, RestoreWorker, Restores,
    Worker,
};
use remora_kube::resources::Capability;
use remora_tests::ApiServer;
use remora_vault::VaultOptions;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::machine::{Gate, Machine};
use crate::node::engine::request;

/// Makes points of machines whose disks are in memory.
#[derive(Clone)]
pub(super) struct Engine {
    pub(super) keys: KeyService,
    /// By the machines' names.
    pub(super) hosts: BTreeMap<String, FakeHost>,
    /// Where backups wait in their middle.
    pub(super) gate: Gate,
    /// The runs that were begun, in order; one that was begun twice is there twice.
    pub(super) begun: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Worker for Engine {
    async fn committed(&self, _: &Order, _: &BackupName) -> Result<Option<Point>, Failure> {
        Ok(None)
    }

    async fn work(&self, order: &Order, desk: &Desk, cancel: CancellationToken) -> Result<Done, Failure> {
        self.begun.lock().unwrap().push(order.name.clone());
        let (keys, folder) = (self.keys.keys(order).await?, TempDir::new().unwrap());
        let location = keys.store.location(&folder.path().join("keys"), None)?;
        let vault = keys.grant()?.open(&location, VaultOptions::default()).await?;
        let source = Machine {
            host: self.hosts[&order.spec.virtual_machine].clone(),
            cluster: desk.cluster(vault.repository()),
            gate: self.gate.clone(),
        };
        let report = backup(&source, &vault, request(order, 32 << 20), desk.meter(), cancel).await?;
        Ok(Done { point: report.point, notes: report.notes, left: report.left })
    }

    async fn capabilities(&self) -> Vec<Capability> {
        Vec::new()
    }
}

/// Writes nothing: what a restore sends goes to its worker, and not through the API server.
pub(super) struct Restorer(pub(super) Gate);

#[async_trait]
impl RestoreWorker for Restorer {
    async fn restore(&self, _: &RestoreOrder, _: Arc<Meter>, _: CancellationToken) -> Result<(), Failure> {
        self.0.pass().await;
        Ok(())
    }
}

/// A client of the API server that reaches it at `url`, with a token.
pub(super) fn client(runtime: &Runtime, api: &ApiServer, url: &str, token: String) -> Client {
    let mut config = Config::new(url.parse().unwrap());
    config.root_cert_file = Some(api.certificate());
    config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
    let _inside = runtime.enter();
    Client::try_from(config).unwrap()
}

/// Starts the agent. It works until the runtime is dropped.
pub(super) fn start(runtime: &Runtime, client: Client, me: Me, engine: Engine, restorer: Restorer) {
    let counts = || Arc::new(Counts::default());
    let loop_of_restores = Restores::new(client.clone(), me.clone(), restorer, Pace::default(), counts());
    runtime.spawn(loop_of_restores.run(CancellationToken::new()));
    let agent = Agent::new(client, me, engine, Pace::default(), counts());
    runtime.spawn(agent.run(CancellationToken::new()));
}
