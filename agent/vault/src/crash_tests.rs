//! Each command is broken off at each of its operations on the store, in each way, in memory (as in a bucket) and in a
//! folder. Whatever happens: points that were committed read back byte for byte, the same command then succeeds, and
//! after a later collection the store holds what is needed and nothing else.

mod copy;
mod init;
mod keys;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use remora_core::point::Decision;
use remora_core::ports::{DiskIndex, LineageBreak, Mover};
use remora_core::retention::Rules;
use remora_core::{PointId, Result, VmName};

use crate::testing::{FaultyStore, assert_only_what_is_needed, back_up, begin, image, new_vault_in, over, read};
use crate::upkeep::Kept;
use crate::{Mode, Vault};

const DAY: Duration = Duration::from_hours(24);

/// What is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Full,
    Incremental,
    Reread,
    Break,
    Hold,
    Prune,
    Collect,
}

impl Command {
    const ALL: [Self; 7] =
        [Self::Full, Self::Incremental, Self::Reread, Self::Break, Self::Hold, Self::Prune, Self::Collect];

    /// The image of the point that it makes.
    fn image(self) -> Option<Vec<u8>> {
        match self {
            Self::Full => Some(image(100..140)),
            Self::Incremental | Self::Reread => Some(image((0..3).chain(163..200))),
            _ => None,
        }
    }

    async fn run(self, vault: &Vault, points: &Points) -> Result<()> {
        match self {
            Self::Full => back_up(vault, &vm(), Decision::Full, &image(100..140), &[]).await.map(drop),
            // What it was asked for; an earlier try may have committed, and then nothing changed since.
            Self::Incremental => {
                let newest = vault.history(&vm()).await?.newest.map(|point| point.id);
                let changed: Vec<u64> =
                    if newest.as_ref() == points.keys().next_back() { (3..40).collect() } else { vec![] };
                let image = self.image().unwrap_or_default();
                back_up(vault, &vm(), Decision::Incremental, &image, &changed).await.map(drop)
            }
            Self::Reread => {
                let image = self.image().unwrap_or_default();
                back_up(vault, &vm(), Decision::Reread, &image, &[]).await.map(drop)
            }
            Self::Break => {
                let broken = LineageBreak { time: Timestamp::UNIX_EPOCH, path: "/d".into(), reason: "test".into() };
                vault.record_break(&vm(), broken).await
            }
            Self::Hold => {
                let first = points.keys().next().expect("there are points");
                vault.hold(first, Kept::Until(Timestamp::MAX)).await
            }
            Self::Prune => {
                vault.prune(None, &Rules { last: 1, ..Rules::default() }, Mode::Run).await?;
                collect(vault).await
            }
            Self::Collect => collect(vault).await,
        }
    }
}

async fn collect(vault: &Vault) -> Result<()> {
    let (_, failed) = vault.collect(None, Mode::Run, &[]).await?;
    vault.remove_leftovers(Mode::Run).await?;
    failed.into_iter().next().map_or(Ok(()), Err)
}

fn vm() -> VmName {
    VmName::new("a VM").unwrap()
}

/// What each point shows.
type Points = BTreeMap<PointId, Vec<u8>>;

/// Three points: a full of three chunks, an increment that leaves only the first of them in use, and a small one.
async fn three_points(store: FaultyStore) -> (Vault, FaultyStore, Points) {
    let vault = new_vault_in(&store).await;
    let mut points = Points::new();
    let steps: [(Vec<u64>, Vec<u64>); 3] = [
        ((0..40).collect(), vec![]),
        ((0..3).chain(43..80).collect(), (3..40).collect()),
        ((0..3).chain(43..55).chain([90]).chain(56..80).collect(), vec![15]),
    ];
    for (seeds, changed) in steps {
        let image = image(seeds);
        let point = back_up(&vault, &vm(), Decision::Incremental, &image, &changed).await.unwrap();
        points.insert(point.id, image);
    }
    (vault, store, points)
}

/// What stands before the command: for a collection there is something to collect.
async fn prepared(command: Command, store: FaultyStore) -> (Vault, FaultyStore, Points) {
    let (vault, store, mut points) = three_points(store).await;
    if command == Command::Collect {
        // A killed backup: its session and its segments stay.
        let writer = begin(&vault, &vm(), Decision::Full, 1 << 20, Timestamp::UNIX_EPOCH).await.unwrap();
        writer.write(DiskIndex(0), 0, image(200..216).into()).await.unwrap();
        drop(writer);
        vault.prune(None, &Rules { last: 1, ..Rules::default() }, Mode::Run).await.unwrap();
        let newest = points.pop_last().unwrap();
        points = BTreeMap::from([newest]);
        store.advance(4 * DAY);
    }
    (vault, store, points)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_can_be_broken_off_at_every_operation() {
    for command in Command::ALL {
        every_operation_of(command, FaultyStore::new()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_can_be_broken_off_in_a_folder() {
    for command in Command::ALL {
        every_operation_of(command, FaultyStore::in_a_folder()).await;
    }
}

async fn every_operation_of(command: Command, store: FaultyStore) {
    let (vault, store, points) = prepared(command, store).await;
    let counted = store.fork();
    counted.count();
    command.run(&over(&vault, &counted), &points).await.unwrap();
    let operations = counted.operations();
    assert!(operations > 2, "{command:?} has {operations} operations");
    for n in 0..operations {
        for fault in store.faults() {
            let store = store.fork();
            store.inject(n, *fault);
            break_off(command, &vault, &store, &points, &format!("{command:?}, operation {n}: {fault:?}")).await;
        }
    }
}

async fn break_off(command: Command, vault: &Vault, broken: &FaultyStore, points: &Points, context: &str) {
    let broken_vault = over(vault, broken);
    let ended = broken.until_death(command.run(&broken_vault, points)).await;
    drop(broken_vault);
    let store = broken.fork();
    let vault = over(vault, &store);
    check_points(command, &vault, points, ended.as_ref().is_some_and(Result::is_ok), context).await;
    if let Some(Err(error)) = ended {
        let listed = vault.list(None).await.unwrap().points.len();
        assert!(listed <= points.len(), "{context}: there is a point, but it was told: {}", error.chain());
    }
    let again = command.run(&vault, points).await;
    again.unwrap_or_else(|e| panic!("{context}: the same command again: {}", e.chain()));
    check_points(command, &vault, points, true, context).await;
    // Sessions of the dead end after a day, and what was dropped goes after three.
    for days in [2, 4] {
        store.advance(days * DAY);
        collect(&vault).await.unwrap_or_else(|e| panic!("{context}: {}", e.chain()));
    }
    check_points(command, &vault, points, true, context).await;
    assert_only_what_is_needed(&vault, &store, context).await;
}

/// Every point that is listed is what was stored; all that were committed are listed.
async fn check_points(command: Command, vault: &Vault, points: &Points, done: bool, context: &str) {
    let listing = vault.list(None).await.unwrap_or_else(|e| panic!("{context}: {}", e.chain()));
    assert!(listing.unreadable.is_empty(), "{context}: {:?}", listing.unreadable);
    let listed: Vec<PointId> = listing.points.into_iter().map(|point| point.id).collect();
    let new = command.image();
    for point in &listed {
        let expected = points.get(point).or(new.as_ref()).unwrap_or_else(|| panic!("{context}: {point}"));
        let read = read(vault, point).await.unwrap_or_else(|e| panic!("{context}: {point}: {}", e.chain()));
        assert!(read == *expected, "{context}: a wrong byte in {point}");
    }
    let missing: Vec<_> = points.keys().filter(|point| !listed.contains(point)).collect();
    if command == Command::Prune {
        let pruned: Vec<_> = points.keys().take(points.len() - 1).collect();
        assert!(missing == pruned || missing.is_empty() && !done, "{context}: {missing:?} are missing");
    } else {
        assert!(missing.is_empty(), "{context}: {missing:?} are missing");
    }
    if done && new.is_some() {
        assert!(listed.len() > points.len(), "{context}: the new point is missing");
    }
}
