//! How long a mover takes.

use std::time::{Duration, Instant};

use super::subject::{Mover, Subject};
use crate::conformance::Findings;

/// As large as a small segment.
const SEGMENT: usize = 4 << 20;

const ROUNDS: usize = 50;

pub(super) async fn measure(findings: &mut Findings, subject: &Subject, mover: &Mover) {
    if let Err(why) = all(findings, subject, mover).await {
        findings.note("can be measured", Err(why));
    }
}

async fn all(findings: &mut Findings, subject: &Subject, mover: &Mover) -> Result<(), String> {
    let told = |failed| super::subject::told(&failed);
    let bytes = subject.bytes("segment", SEGMENT);
    let (mut puts, mut gets, mut heads) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let key = format!("bench/{round}");
        let started = Instant::now();
        mover.put(&key, &bytes).await.map_err(told)?;
        puts.push(started.elapsed());
        let started = Instant::now();
        mover.get(&key, 0, SEGMENT as u64).await.map_err(told)?;
        gets.push(started.elapsed());
        let started = Instant::now();
        mover.head(&key).await.map_err(told)?;
        heads.push(started.elapsed());
    }
    for (name, mut taken) in [("storing 4 MiB", puts), ("reading 4 MiB", gets), ("looking at an object", heads)] {
        taken.sort_unstable();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        findings.figure(format!("{name}, p50"), millis(taken[ROUNDS / 2]), "ms", None);
        findings.figure(format!("{name}, p99"), millis(taken[ROUNDS * 99 / 100]), "ms", None);
    }
    Ok(())
}
