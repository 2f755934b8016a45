//! How long answers take, beside what they should.

use std::time::Instant;

use super::Tried;
use super::questions::Random;
use crate::conformance::{Depth, Findings};
use crate::host::{Kind, Reuse};

/// What a decision on a file should take: somebody waits, and there are many.
const WARM: f64 = 5.0;
const FRESH: f64 = 60.0;
const BATCHED: f64 = 2.0;

/// So many decisions are asked for at once where many are due: on files of a folder, which differ in nothing else.
const BATCH: usize = 64;

pub(super) fn measure<P: Tried>(findings: &mut Findings, policy: &P, seed: u64, depth: Depth) {
    let kind = P::KIND;
    let rounds = if depth == Depth::Bench { 5_000 } else { 500 };
    let mut random = Random::new(seed);
    let questions = P::questions(&mut random, BATCH);
    let large = P::large(&mut random);
    let quick = kind == Kind::Authorize;
    let budget = |micros: f64| quick.then_some(micros);
    let mut note = |what: &str, reuse, asked: &[P::Question], size: usize, rounds: usize, budget| {
        let mut taken = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let from = round % (asked.len() - size + 1);
            let started = Instant::now();
            if policy.ask(reuse, &asked[from..from + size]).is_err() {
                return;
            }
            taken.push(started.elapsed() / u32::try_from(size).unwrap_or(1));
        }
        taken.sort_unstable();
        let micros = |part: usize| taken[(taken.len() * part / 100).min(taken.len() - 1)].as_secs_f64() * 1e6;
        findings.figure(format!("{kind}: {what}, p50"), micros(50), "µs", budget);
        findings.figure(format!("{kind}: {what}, p99"), micros(99), "µs", None);
    };
    note("a question, warm", Reuse::Ready, &questions, 1, rounds, budget(WARM));
    note("a question, fresh", Reuse::Never, &questions, 1, rounds / 5, budget(FRESH));
    if kind != Kind::Retention {
        note("each of 64 questions, warm", Reuse::Ready, &large, BATCH, rounds / 10, budget(BATCHED));
    }
    let deadline = if quick { super::super::QUICK } else { super::super::DEADLINE };
    let half = deadline.as_secs_f64() * 1e3 / 2.0;
    let started = Instant::now();
    let answered = policy.ask(Reuse::Never, &large).is_ok();
    let taken = started.elapsed().as_secs_f64() * 1e3;
    // One that was broken off took its time, too; one that failed sooner says nothing of how long it takes.
    if answered || taken > half {
        findings.figure(format!("{kind}: a large call"), taken, "ms", Some(half));
    }
}
