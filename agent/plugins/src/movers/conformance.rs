//! Trials of movers: what `wit/mover` promises, tried through the process, the broker and the checks of production, with a server
//! behind them that fails on demand. Those of points go through the port of production too, as backups do.

mod faults;
mod injector;
mod objects;
mod parts;
mod plain;
mod points;
mod speed;
mod statics;
mod subject;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use remora_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::wire::World;
use crate::conformance::{Depth, Findings, Report};
use crate::host::Digest;
use injector::{Behind, Injector};
use plain::Plain;
use points::Array;
use subject::{Mover, Subject};

/// In the settings, this stands for the URL of the server.
const ENDPOINT: &str = "{endpoint}";

/// What a call may take, unless a trial is about that.
const DEADLINE: Duration = Duration::from_mins(2);

/// What one may take whose server says nothing: half of it for the server, and half for what the mover makes of that.
const SHORT: Duration = Duration::from_secs(10);

/// How a mover is tried.
#[derive(Clone, Debug)]
pub struct MoverTrial {
    /// Its settings as JSON, with `{endpoint}` where the server's URL belongs.
    pub settings: String,
    /// Its secrets, by name.
    pub secrets: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// A real server of its protocol: an `http://` URL. Else the kit's own server of plain objects; of points there is none.
    pub upstream: Option<String>,
    /// The program that runs it; else the one beside this program.
    pub program: Option<PathBuf>,
    /// What keys and bytes come from.
    pub seed: u64,
}

/// Tries a mover. What it stores has a prefix of its own, and is removed in the end.
pub async fn mover(component: Vec<u8>, trial: MoverTrial, depth: Depth) -> Result<Report> {
    // On a thread of its own: trials wait for many things at once that are theirs alone, and need not move between threads.
    let runtime = Handle::current();
    let tried = tokio::task::spawn_blocking(move || runtime.block_on(try_it(component, trial, depth)));
    tried.await.map_err(|died| Error::new(ErrorKind::Failed, "the trials died").because(died))?
}

async fn try_it(component: Vec<u8>, trial: MoverTrial, depth: Depth) -> Result<Report> {
    let world = world_of(&component);
    let behind = match (&trial.upstream, world) {
        (Some(url), _) => Behind::upstream(url)?,
        (None, World::Volumes) if depth != Depth::Check => {
            return Err(no_upstream("it keeps points in a form of its own: --upstream is to name a server that does"));
        }
        (None, _) => Behind::Plain(Plain::new(trial.secrets.get(plain::TOKEN).cloned())),
    };
    let injector =
        Injector::start(behind).await.map_err(|e| Error::io("starting the server that fails on demand", e))?;
    let digest = Digest::of(&component);
    let mut findings = Findings::default();
    let seed = trial.seed;
    let subject = Subject::new(component, world, trial, injector)?;
    let exports = match world {
        World::Objects => {
            of_objects(&mut findings, &subject, depth).await?;
            "remora:mover/objects@0.1.0"
        }
        World::Volumes => {
            of_points(&mut findings, &subject, depth).await?;
            "remora:mover/volume@0.1.0"
        }
    };
    Ok(findings.report(digest, vec![exports.into()], seed))
}

/// By the names in it. Only a guess: the host looks closer.
fn world_of(component: &[u8]) -> World {
    let names = |what: &[u8]| component.windows(what.len()).any(|bytes| bytes == what);
    if names(b"remora:mover/volume@") && !names(b"remora:mover/objects@") { World::Volumes } else { World::Objects }
}

async fn of_objects(findings: &mut Findings, subject: &Subject, depth: Depth) -> Result<()> {
    let mover = Mover::start(subject, DEADLINE)?;
    statics::try_all(findings, subject, &mover.0, depth).await;
    if findings.sound() && depth == Depth::Test {
        objects::try_all(findings, subject, &mover).await;
        parts::try_all(findings, subject, &mover).await;
        faults::try_all(findings, subject, &mover).await;
        objects::try_failing(findings, subject, &mover).await;
    }
    if findings.sound() && depth == Depth::Bench {
        speed::of_objects(findings, subject, &mover).await;
    }
    if depth != Depth::Check {
        mover.clean_up().await;
    }
    Ok(())
}

async fn of_points(findings: &mut Findings, subject: &Subject, depth: Depth) -> Result<()> {
    let array = Array::start(subject, DEADLINE)?;
    statics::try_all(findings, subject, array.component(), depth).await;
    if findings.sound() && depth == Depth::Test {
        points::try_all(findings, subject, &array).await;
    }
    if findings.sound() && depth == Depth::Bench {
        speed::of_points(findings, subject, &array).await;
    }
    if depth != Depth::Check {
        array.clean_up().await;
    }
    Ok(())
}

fn no_upstream(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why).advise("Write it as http://127.0.0.1:9000: a server for tests, in the clear.")
}
