//! Planning a backup run: a pure function of what the source offers, what the repository holds and what was asked.

use jiff::{SignedDuration, Timestamp};

use crate::name::{CheckpointName, LineageId};
use crate::point::{Decision, PointDisk};
use crate::ports::{Bitmaps, DiskSize, DiskState, History};

/// All of a disk is read again at the latest this long after it was last read in full.
const REREAD_AFTER: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What the caller asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Asked {
    /// The cheapest that is safe.
    #[default]
    Auto,
    /// Read all and compare with the parent.
    Reread,
    /// Read and store all.
    Full,
}

/// How one disk will be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// The decision.
    pub decision: Decision,
    /// Why, as a sentence for people.
    pub reason: String,
    /// The checkpoint to start from; only for `Incremental`.
    pub since: Option<CheckpointName>,
    /// The parent's lineage, or a new one for a `Full`.
    pub lineage: LineageId,
    /// When all of it was last read: now, unless this is an increment.
    pub read_in_full: Timestamp,
}

/// Decides for one disk. Any doubt costs time, never data: whatever is not surely incremental is a reread.
pub fn plan(disk: &DiskState, history: &History, asked: Asked, now: Timestamp) -> DiskPlan {
    let Some(parent) = &history.newest else {
        return full("first point of this VM in this repository".into(), now);
    };
    let Some((_, before)) = parent.disk(&disk.name) else {
        return full(format!("disk {} is not in the newest point", disk.name), now);
    };
    match asked {
        Asked::Full => return full("asked for".into(), now),
        Asked::Reread => return reread("asked for".into(), before, now),
        Asked::Auto => {}
    }
    match doubt(disk, before, history, now) {
        Some(reason) => reread(reason, before, now),
        None => DiskPlan {
            decision: Decision::Incremental,
            reason: "the newest point's checkpoint is present and consistent".into(),
            since: before.checkpoint.clone(),
            lineage: before.lineage,
            read_in_full: before.read_in_full,
        },
    }
}

/// What only the open view tells of a disk.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// Its size in bytes.
    pub size: u64,
    /// The hypervisor process that serves it, where known.
    pub instance: Option<&'a str>,
    /// Why it cannot be an increment.
    pub no_increment: Option<&'a str>,
}

/// After the disk was opened: what was an increment may turn out to be none.
pub fn plan_opened(
    plan: DiskPlan,
    disk: &DiskState,
    history: &History,
    opened: Opened<'_>,
    now: Timestamp,
) -> DiskPlan {
    let before = history.newest.as_ref().and_then(|p| p.disk(&disk.name)).map(|(_, d)| d);
    let Some(before) = before.filter(|_| plan.decision == Decision::Incremental) else { return plan };
    match opened_doubt(disk, before, opened) {
        Some(reason) => reread(reason, before, now),
        None => plan,
    }
}

fn opened_doubt(disk: &DiskState, before: &PointDisk, opened: Opened<'_>) -> Option<String> {
    if let Some(why) = opened.no_increment {
        return Some(why.to_owned());
    }
    // It can be written while no QEMU tracks it, so an increment needs the very process that served its parent.
    if disk.identity.data_file.is_some() && (opened.instance.is_none() || before.instance.as_deref() != opened.instance)
    {
        return Some("its raw data file may have been written while its QEMU was not running".into());
    }
    (before.size != opened.size).then(|| size_changed(before.size, opened.size))
}

fn size_changed(was: u64, is: u64) -> String {
    format!("its size changed from {was} to {is} bytes")
}

/// What a run does with a disk whose spot check found a block that the bitmap calls unchanged but differs.
pub fn plan_lying_bitmap(before: &PointDisk, block: u64, now: Timestamp) -> DiskPlan {
    reread(
        format!(
            "the block at byte {block} differs from the newest point though its bitmap says unchanged: the disk was written behind the hypervisor's back"
        ),
        before,
        now,
    )
}

/// The first reason, if any, why an increment of this disk might be wrong.
fn doubt(disk: &DiskState, before: &PointDisk, history: &History, now: Timestamp) -> Option<String> {
    let Bitmaps::Able { usable, broken } = &disk.bitmaps else {
        let Bitmaps::Unable(why) = &disk.bitmaps else { return None };
        return Some(format!("{why}, so changes are found by comparing"));
    };
    if let Some(reason) = identity_doubt(disk, before) {
        return Some(reason);
    }
    if let Some(broken) = history.breaks.first() {
        return Some(format!(
            "{} was written behind the hypervisor's back at {}: {}",
            broken.path, broken.time, broken.reason
        ));
    }
    if let Some(time) = history.lost {
        return Some(format!("data of the newest point was found lost at {time}"));
    }
    let Some(checkpoint) = &before.checkpoint else {
        return Some("the newest point has no checkpoint of this disk".into());
    };
    if let Some((_, why)) = broken.iter().find(|(name, _)| name == checkpoint) {
        return Some(format!("the bitmap of checkpoint {checkpoint} is unusable: {why}"));
    }
    if !usable.contains(checkpoint) {
        return Some(format!("checkpoint {checkpoint} of the newest point is gone"));
    }
    if now.duration_since(before.read_in_full) >= REREAD_AFTER {
        return Some(format!("all of it was last read at {}; that is due every 30 days", before.read_in_full));
    }
    None
}

fn identity_doubt(disk: &DiskState, before: &PointDisk) -> Option<String> {
    let (was, is) = (&before.identity, &disk.identity);
    if was.vm_uuid != is.vm_uuid {
        return Some(format!("the VM's UUID changed from {} to {}", was.vm_uuid, is.vm_uuid));
    }
    if was.path != is.path {
        return Some(format!("its image moved from {:?} to {:?}", was.path, is.path));
    }
    if was.inode != is.inode || was.inode.is_none() {
        return Some(format!("its image {:?} was replaced by another file", is.path));
    }
    if was.data_file != is.data_file {
        return Some("its raw data file was replaced".into());
    }
    match disk.size {
        DiskSize::Exact(size) if size != before.size => Some(size_changed(before.size, size)),
        DiskSize::Exact(_) | DiskSize::About(_) => None,
    }
}

fn full(reason: String, now: Timestamp) -> DiskPlan {
    DiskPlan { decision: Decision::Full, reason, since: None, lineage: LineageId::random(), read_in_full: now }
}

fn reread(reason: String, before: &PointDisk, now: Timestamp) -> DiskPlan {
    DiskPlan { decision: Decision::Reread, reason, since: None, lineage: before.lineage, read_in_full: now }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{DiskName, PointId, RepositoryId, VmName};
    use crate::point::{DiskIdentity, Point, Quiesced};
    use crate::ports::LineageBreak;

    fn now() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    fn checkpoint(n: u8) -> CheckpointName {
        format!("remora-{}-{}", "00".repeat(16), format!("{n:02x}").repeat(16)).parse().unwrap()
    }

    fn identity() -> DiskIdentity {
        DiskIdentity { vm_uuid: "u".into(), path: "/d/vda".into(), inode: Some("1:2".into()), data_file: None }
    }

    fn disk() -> DiskState {
        let bitmaps = Bitmaps::Able { usable: [checkpoint(1)].into(), broken: Vec::new() };
        DiskState { name: DiskName::new("vda").unwrap(), size: DiskSize::Exact(1 << 20), identity: identity(), bitmaps }
    }

    fn history() -> History {
        let disk = PointDisk {
            name: DiskName::new("vda").unwrap(),
            size: 1 << 20,
            identity: identity(),
            lineage: LineageId::from_bytes([3; 16]),
            checkpoint: Some(checkpoint(1)),
            instance: Some("qemu 1".into()),
            read_in_full: "2026-02-20T00:00:00Z".parse().unwrap(),
            decision: Decision::Full,
            reason: String::new(),
            read: 0,
            stored: 0,
            rewritten: 0,
        };
        let newest = Point {
            id: PointId::new("0011223344556677", 1).unwrap(),
            repository: RepositoryId::from_bytes([0; 16]),
            copy_of: None,
            vm: VmName::new("vm").unwrap(),
            time: now(),
            parent: None,
            decision: Decision::Full,
            reason: String::new(),
            quiesced: Quiesced::Skipped,
            disks: vec![disk],
            stored: 0,
            definition: String::new(),
            tool: String::new(),
        };
        History { newest: Some(newest), ..History::default() }
    }

    /// One change to an otherwise incremental situation, the decision, and a word that the reason must hold.
    type Case = (fn(&mut DiskState, &mut History), Asked, Decision, &'static str);

    #[test]
    fn each_situation_gets_its_decision_and_reason() {
        let cases: &[Case] = &[
            (|_, _| {}, Asked::Auto, Decision::Incremental, "present and consistent"),
            (|_, _| {}, Asked::Full, Decision::Full, "asked"),
            (|_, _| {}, Asked::Reread, Decision::Reread, "asked"),
            (|_, h| h.newest = None, Asked::Auto, Decision::Full, "first point"),
            (|_, h| h.newest = None, Asked::Reread, Decision::Full, "first point"),
            (|d, _| d.name = DiskName::new("vdb").unwrap(), Asked::Auto, Decision::Full, "vdb is not in"),
            (|d, _| d.size = DiskSize::Exact(512), Asked::Auto, Decision::Reread, "size changed"),
            (|d, _| d.size = DiskSize::About(512), Asked::Auto, Decision::Incremental, "present"),
            (|d, _| d.identity.vm_uuid = "other".into(), Asked::Auto, Decision::Reread, "UUID"),
            (|d, _| d.identity.path = "/e".into(), Asked::Auto, Decision::Reread, "moved"),
            (|d, _| d.identity.inode = Some("1:3".into()), Asked::Auto, Decision::Reread, "replaced"),
            (|d, _| d.identity.data_file = Some("/x 1:1".into()), Asked::Auto, Decision::Reread, "data file"),
            (
                |d, h| {
                    d.identity.inode = None;
                    h.newest.as_mut().unwrap().disks[0].identity.inode = None;
                },
                Asked::Auto,
                Decision::Reread,
                "replaced",
            ),
            (
                |d, _| d.bitmaps = Bitmaps::Unable("a raw image holds no bitmaps".into()),
                Asked::Auto,
                Decision::Reread,
                "raw image",
            ),
            (
                |_, h| h.newest.as_mut().unwrap().disks[0].checkpoint = None,
                Asked::Auto,
                Decision::Reread,
                "no checkpoint",
            ),
            (
                |_, h| h.newest.as_mut().unwrap().disks[0].checkpoint = Some(checkpoint(2)),
                Asked::Auto,
                Decision::Reread,
                "gone",
            ),
            (
                |d, _| {
                    d.bitmaps =
                        Bitmaps::Able { usable: [].into(), broken: vec![(checkpoint(1), "inconsistent".into())] }
                },
                Asked::Auto,
                Decision::Reread,
                "inconsistent",
            ),
            (
                |_, h| h.newest.as_mut().unwrap().disks[0].read_in_full = "2026-01-30T00:00:00Z".parse().unwrap(),
                Asked::Auto,
                Decision::Reread,
                "30 days",
            ),
            (
                |_, h| h.breaks.push(LineageBreak { time: now(), path: "/d/vda".into(), reason: "restored".into() }),
                Asked::Auto,
                Decision::Reread,
                "restored",
            ),
        ];
        for (n, (change, asked, decision, word)) in cases.iter().enumerate() {
            let (mut disk, mut history) = (disk(), history());
            change(&mut disk, &mut history);
            let plan = plan(&disk, &history, *asked, now());
            assert_eq!(plan.decision, *decision, "case {n}: {}", plan.reason);
            assert!(plan.reason.contains(word), "case {n}: {:?} lacks {word:?}", plan.reason);
            assert_eq!(plan.since.is_some(), plan.decision == Decision::Incremental, "case {n}");
            assert_eq!(plan.read_in_full == now(), plan.decision != Decision::Incremental, "case {n}");
            assert_eq!(plan.lineage == LineageId::from_bytes([3; 16]), plan.decision != Decision::Full, "case {n}");
        }
    }

    #[test]
    fn a_raw_data_file_needs_the_same_process() {
        for (data_file, instance, decision) in [
            (None, Some("qemu 2"), Decision::Incremental),
            (Some("/raw 1:9"), Some("qemu 1"), Decision::Incremental),
            (Some("/raw 1:9"), Some("qemu 2"), Decision::Reread),
            (Some("/raw 1:9"), None, Decision::Reread),
        ] {
            let (mut disk, mut history) = (disk(), history());
            disk.identity.data_file = data_file.map(Into::into);
            history.newest.as_mut().unwrap().disks[0].identity.data_file = data_file.map(Into::into);
            let planned = plan(&disk, &history, Asked::Auto, now());
            let opened = Opened { size: 1 << 20, instance, no_increment: None };
            assert_eq!(
                plan_opened(planned, &disk, &history, opened, now()).decision,
                decision,
                "{data_file:?} {instance:?}"
            );
        }
    }

    #[test]
    fn what_the_open_view_tells_makes_an_increment_a_reread_and_nothing_else() {
        let same = Opened { size: 1 << 20, instance: None, no_increment: None };
        for (opened, word) in [
            (same, None),
            (Opened { size: 1 << 21, ..same }, Some("size changed from 1048576 to 2097152")),
            (Opened { no_increment: Some("the tracker moved on"), ..same }, Some("moved on")),
        ] {
            let (disk, history) = (disk(), history());
            let planned = plan(&disk, &history, Asked::Auto, now());
            let then = plan_opened(planned.clone(), &disk, &history, opened, now());
            match word {
                None => assert_eq!(then, planned),
                Some(word) => {
                    assert_eq!((then.decision, then.since, then.lineage), (Decision::Reread, None, planned.lineage));
                    assert!(then.reason.contains(word) && then.read_in_full == now(), "{}", then.reason);
                }
            }
            let full = plan(&disk, &history, Asked::Full, now());
            assert_eq!(plan_opened(full.clone(), &disk, &history, opened, now()), full);
        }
    }
}
