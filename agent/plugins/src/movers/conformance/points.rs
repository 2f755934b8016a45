//! What a store of points must do: `points/failing.rs` has what it does when its server fails.

mod array;
mod failing;

use futures::{StreamExt, TryStreamExt, stream};
use remora_core::point::Decision;
use remora_core::ports::DiskIndex;
use remora_core::retention::Rules;
use remora_core::{BLOCK_SIZE, ErrorKind, PIECE_SIZE, PointId, VmName};

use super::subject::{Subject, Within, ensure, note_memory, ready};
use super::{DEADLINE, faults};
use crate::conformance::Findings;
use crate::movers::Dropping;
use array::{Disks, commit, fill};
use failing::{lost, outage};

pub(super) use array::Array;

/// Calls at once.
const AT_ONCE: usize = 16;

/// More than a page of a listing has.
const MANY: i64 = 1_003;

/// A large disk, in bytes.
const LARGE: usize = 64 << 20;

const ROUND: &str = "a point is stored, listed once it is whole, and read";

pub(super) async fn try_all(findings: &mut Findings, subject: &Subject, array: &Array) {
    macro_rules! trial {
        ($name:expr, $trial:ident) => {
            let vm = array.vm(stringify!($trial));
            ready(array.component());
            findings.note($name, $trial(subject, array, &vm).await);
            array.remove(Some(&vm)).await;
        };
    }
    trial!(ROUND, round);
    if !findings.sound() {
        return findings.skip("everything else", "no point can be stored and read");
    }
    trial!("an increment has what changed and what did not, and outlives its parent", increment);
    trial!("a point that is given up leaves nothing", abandoned);
    trial!("of two runs that follow one point one makes the next, and the other is told", conflict);
    trial!("a process that dies in the middle of a run is replaced, and what a run that died left goes", killed);
    trial!("more points than a page has are listed, each once and oldest first", pages);
    trial!("a point of 64 MiB goes through it in bounded memory", large);
    note_memory(findings, array.component());
    faults::try_all(findings, subject, array).await;
    trial!("a run that loses any one answer makes one point", lost);
    trial!("a server that fails at any request of a run leaves nothing wrong", outage);
}

/// A small disk whose last block is short, and one of several pieces; each with data and zeros.
fn disks(subject: &Subject, name: &str) -> Disks {
    let block = BLOCK_SIZE as usize;
    let mut disks = vec![
        subject.bytes(&format!("{name} a"), 6 * block + 512).to_vec(),
        subject.bytes(&format!("{name} b"), 2 * PIECE_SIZE as usize + 3 * block).to_vec(),
    ];
    disks[0][block..3 * block].fill(0);
    disks[1][PIECE_SIZE as usize - block..PIECE_SIZE as usize + 4 * block].fill(0);
    disks
}

/// Whether the machine has these points, all else that was stored of it is gone but a note with each, and the newest reads so.
async fn has(array: &Array, vm: &VmName, points: &[&PointId], newest: &Disks) -> Result<(), String> {
    let listed = array.listed(vm).await?;
    ensure(listed.iter().eq(points.iter().copied()), format!("the points are {points:?}, and {listed:?} are listed"))?;
    let kept: Vec<_> = array.kept(Some(vm)).await.within("`list`")?.into_iter().map(|point| point.id).collect();
    ensure(kept.len() == 2 * points.len(), format!("{} points, with a note each, are kept as {kept:?}", points.len()))?;
    match points.last() {
        Some(point) => array.is(point, newest).await,
        None => Ok(()),
    }
}

async fn round(subject: &Subject, array: &Array, vm: &VmName) -> Result<(), String> {
    let disks = disks(subject, "round");
    let writer = array.begin_run(vm, None, Decision::Full, &disks).await.within("beginning a point")?;
    fill(&*writer, None, &disks).await.within("writing a point")?;
    let before = array.kept(Some(vm)).await.within("`list`")?;
    ensure(before.iter().all(|point| point.disks.is_empty()), "a point is listed before its `commit`")?;
    let point = commit(writer, &disks).await.within("committing a point")?;
    has(array, vm, &[&point], &disks).await
}

async fn increment(subject: &Subject, array: &Array, vm: &VmName) -> Result<(), String> {
    let (before, block) = (disks(subject, "increment"), BLOCK_SIZE as usize);
    let first = array.run(vm, None, None, &before).await.within("making a point")?;
    let mut now = before.clone();
    // Something else in the middle of a block, data where zeros were, and a discard where data was.
    now[0][5 * block + 7] ^= 1;
    now[1][PIECE_SIZE as usize..PIECE_SIZE as usize + block].fill(7);
    now[1][..2 * block].fill(0);
    let second = array.run(vm, Some(&first), Some(&before), &now).await.within("making a point")?;
    array.is(&first, &before).await.map_err(|why| format!("the parent, once there is an increment: {why}"))?;
    has(array, vm, &[&first, &second], &now).await?;
    // No rule keeps any but the newest.
    array.port.prune(Some(vm), &Rules::default(), Dropping::Run).await.within("dropping points")?;
    has(array, vm, &[&second], &now).await.map_err(|why| format!("once the parent is dropped: {why}"))
}

async fn abandoned(subject: &Subject, array: &Array, vm: &VmName) -> Result<(), String> {
    let disks = disks(subject, "abandoned");
    let writer = array.begin_run(vm, None, Decision::Full, &disks).await.within("beginning a point")?;
    fill(&*writer, None, &disks).await.within("writing a point")?;
    writer.abandon().await;
    has(array, vm, &[], &disks).await?;
    let point = array.run(vm, None, None, &disks).await.within("making a point")?;
    has(array, vm, &[&point], &disks).await
}

async fn conflict(subject: &Subject, array: &Array, vm: &VmName) -> Result<(), String> {
    let (one, two) = (disks(subject, "one"), disks(subject, "two"));
    let other = Array::start(subject, DEADLINE).within("starting another process")?;
    let first = array.begin_run(vm, None, Decision::Full, &one).await.within("beginning a point")?;
    let second = other.begin_run(vm, None, Decision::Full, &two).await.within("beginning a point")?;
    // Each has begun before the other writes, and has written before the other commits.
    fill(&*first, None, &one).await.within("writing a point")?;
    fill(&*second, None, &two).await.within("writing a point")?;
    let point = commit(first, &one).await.within("committing a point")?;
    match commit(second, &two).await {
        Err(error) if error.kind() == ErrorKind::Busy => {}
        Err(error) => return Err(format!("the later one is told: {}", error.chain())),
        Ok(point) => return Err(format!("the later one made point {point}, too")),
    }
    has(array, vm, &[&point], &one).await
}

async fn killed(subject: &Subject, array: &Array, vm: &VmName) -> Result<(), String> {
    let disks = disks(subject, "killed");
    let writer = array.begin_run(vm, None, Decision::Full, &disks).await.within("beginning a point")?;
    array.component().kill();
    fill(&*writer, None, &disks).await.within("writing a point")?;
    array.component().kill();
    let first = commit(writer, &disks).await.within("committing a point")?;
    has(array, vm, &[&first], &disks).await?;
    // This run is never heard of again.
    let left = array.begin_run(vm, Some(&first), Decision::Full, &disks).await.within("beginning a point")?;
    left.write(DiskIndex(0), 0, disks[0][..BLOCK_SIZE as usize].to_vec().into()).await.within("writing a point")?;
    drop(left);
    array.component().kill();
    let listed = array.listed(vm).await?;
    ensure(listed.iter().eq([&first]), format!("a run died, and {listed:?} are listed"))?;
    let second = array.run(vm, Some(&first), None, &disks).await.within("making a point")?;
    has(array, vm, &[&first, &second], &disks).await
}

/// Stores a point without disks.
async fn note(array: &Array, vm: &VmName, time: i64, id: &str) -> Result<(), String> {
    let token = array.begin((vm, id), time, 0, None).await.within("`begin`, without disks")?;
    array.commit(id, &token).await.within("`commit`, without disks")
}

async fn pages(_: &Subject, array: &Array, vm: &VmName) -> Result<(), String> {
    let names: Vec<_> = (0..MANY).map(|n| format!("{}-page-{n:04}", array.prefix)).collect();
    let stored = stream::iter((0..).zip(&names)).map(|(time, id)| note(array, vm, time, id));
    stored.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    // As backups list: what a page may have at most is looked at there.
    array.listed(vm).await?;
    let found = array.kept(Some(vm)).await.within("`list`")?;
    ensure(
        found.iter().map(|point| &point.id).eq(&names),
        format!("{MANY} points are there, and {} are listed, or in another order", found.len()),
    )?;
    let same = found.iter().all(|point| point.description == point.id.as_bytes() && point.vm_name == vm.as_str());
    ensure(same, "a point is listed with another description or machine than it was given")?;
    let elsewhere = array.kept(Some(&array.vm("nobody"))).await.within("`list` of a machine without points")?;
    ensure(elsewhere.is_empty(), "`list` of a machine has points of another one")?;
    // One of them twice.
    let deleted = stream::iter(names.iter().chain(&names[..1])).map(|id| array.delete(id));
    deleted.buffered(AT_ONCE).try_collect::<()>().await.within("`delete`")?;
    let left = array.kept(Some(vm)).await.within("`list`")?.len();
    ensure(left == 0, format!("{left} points are listed that were deleted"))
}

async fn large(subject: &Subject, array: &Array, vm: &VmName) -> Result<(), String> {
    let disks = vec![subject.bytes("large", LARGE).to_vec()];
    let point = array.run(vm, None, None, &disks).await.within("making a point")?;
    has(array, vm, &[&point], &disks).await
}
