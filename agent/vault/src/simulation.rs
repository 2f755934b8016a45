//! Interleavings in deterministic simulation: writers, collections, prunes, holds, readers and verifiers at work on one
//! repository, over a store that does what it is asked in any order, late, twice, or without telling.
//!
//! A *schedule* follows from its seed alone: each request to the store waits until the schedule lets it go on, time is
//! the schedule's, and so is all randomness. After each change a reference model says what must be in the store. Start
//! at `schedule.rs`; `model.rs` says what must hold, `actors.rs` who is at work, `store.rs` is the store. To see what
//! happened in a schedule that found something: `docs/how-it-works.md`.

mod actors;
mod guest;
mod model;
mod schedule;
mod store;
mod switches;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::memory::InMemory;

use crate::store::Store;
use crate::tests::secret;
use crate::{Vault, VaultOptions};
use schedule::Schedule;
use switches::Simulating;
pub(crate) use switches::{Bug, has, is_running, named_by_content, newest_by_time, random};

/// The schedules that a test run tries, unless it is told others.
const SEEDS: Range<u64> = 0..10_000;

/// The schedules that must find each known bug.
const ENOUGH: Range<u64> = 0..3_000;

/// A repository of which the schedules use the keys.
fn repository() -> Vault {
    let _simulating = Simulating::begin(0, None);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::over(Arc::new(InMemory::new()));
        Vault::init_in(&store, &secret()).await.unwrap();
        Vault::open_in(store, &secret(), VaultOptions::default()).await.unwrap()
    })
}

/// What a schedule found wrong, and what happened in it if `traced`.
fn run(vault: &Vault, seed: u64, bug: Option<Bug>, traced: bool) -> (Result<(), String>, Vec<String>) {
    let _simulating = Simulating::begin(seed, bug);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut schedule = Schedule::new(seed, vault, traced);
    let found = runtime.block_on(schedule.run());
    (found, schedule.take_trace())
}

/// The lowest of the seeds whose schedule finds something wrong.
fn first_wrong(seeds: Range<u64>, bug: Option<Bug>) -> Option<u64> {
    let (next, wrong) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let vault = repository();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || seed > wrong.load(Ordering::Relaxed) {
                return;
            }
            if run(&vault, seed, bug, false).0.is_err() {
                wrong.fetch_min(seed, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(work);
        }
    });
    Some(wrong.into_inner()).filter(|seed| *seed < u64::MAX)
}

/// The seeds in the environment, as `from..to`.
fn chosen_seeds() -> Option<Range<u64>> {
    let seeds = std::env::var("REMORA_SIMULATION_SEEDS").ok()?;
    let (from, to) = seeds.split_once("..").expect("seeds are given as from..to");
    let number = |text: &str| text.parse().expect("a seed is a number");
    Some(number(from)..number(to))
}

#[test]
fn whatever_the_order_every_point_restores_and_nothing_comes_back_or_leaks() {
    let seeds = chosen_seeds().unwrap_or(SEEDS);
    println!("schedules of the seeds {seeds:?}; REMORA_SIMULATION_SEEDS chooses others");
    if let Some(seed) = first_wrong(seeds, None) {
        let (found, trace) = run(&repository(), seed, None, true);
        panic!("{}\nschedule {seed} finds: {}", trace.join("\n"), found.unwrap_err());
    }
}

/// That the schedules find a bug.
fn assert_found(bug: Bug) {
    assert!(first_wrong(ENOUGH, Some(bug)).is_some(), "{bug:?} is not found by the schedules {ENOUGH:?}");
}

#[test]
fn skipping_what_exists_beside_a_collection_is_found() {
    assert_found(Bug::SkipIfExists);
}

#[test]
fn a_sweep_that_does_not_look_at_sessions_again_is_found() {
    assert_found(Bug::SessionsNotLookedAtAgain);
}

#[test]
fn an_ended_writer_that_commits_is_found() {
    assert_found(Bug::EndedWriterCommits);
}

#[test]
fn newest_by_time_is_found() {
    assert_found(Bug::NewestByTime);
}

#[test]
fn a_seed_is_one_schedule() {
    for seed in 0..50 {
        let once = run(&repository(), seed, None, true);
        assert!(once.1.len() > 10);
        assert_eq!(run(&repository(), seed, None, true), once);
    }
}
