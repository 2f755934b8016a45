//! Trials of movers of objects: what `wit/mover` promises, tried through the process, the broker and the checks of production,
//! with a server behind them that fails on demand.

mod faults;
mod injector;
mod objects;
mod parts;
mod plain;
mod speed;
mod statics;
mod subject;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use remora_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::conformance::{Depth, Findings, Report};
use crate::host::Digest;
use injector::{Behind, Injector};
use plain::Plain;
use subject::Subject;

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
    /// A real server of its protocol: an `http://` URL. Else the kit's own server of plain objects.
    pub upstream: Option<String>,
    /// The program that runs it; else the one beside this program.
    pub program: Option<PathBuf>,
    /// What keys and bytes come from.
    pub seed: u64,
}

/// Tries a mover. What it stores lies below a prefix of its own, and is removed in the end.
pub async fn mover(component: Vec<u8>, trial: MoverTrial, depth: Depth) -> Result<Report> {
    let behind = match &trial.upstream {
        Some(url) => Behind::upstream(url)?,
        None => Behind::Plain(Plain::new(trial.secrets.get(plain::TOKEN).cloned())),
    };
    let injector =
        Injector::start(behind).await.map_err(|e| Error::io("starting the server that fails on demand", e))?;
    let digest = Digest::of(&component);
    let mut findings = Findings::default();
    let seed = trial.seed;
    let subject = Subject::new(component, trial, injector)?;
    let mover = subject.start(DEADLINE)?;
    statics::try_all(&mut findings, &subject, &mover, depth).await;
    if findings.sound() && depth == Depth::Test {
        objects::try_all(&mut findings, &subject, &mover).await;
        parts::try_all(&mut findings, &subject, &mover).await;
        faults::try_all(&mut findings, &subject, &mover).await;
    }
    if findings.sound() && depth == Depth::Bench {
        speed::measure(&mut findings, &subject, &mover).await;
    }
    if depth != Depth::Check {
        mover.clean_up().await;
    }
    Ok(findings.report(digest, vec!["remora:mover/objects@0.1.0".into()], seed))
}

fn no_upstream(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why).advise("Write it as http://127.0.0.1:9000: a server for tests, in the clear.")
}
