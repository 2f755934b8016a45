//! Who is at work in a schedule. Each goes on after errors, as the next run of a command would.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use remora_core::point::{Decision, Point};
use remora_core::ports::{DiskIndex, DiskReads, LineageBreak, Mover, NewPoint, NoProgress, PointWriter};
use remora_core::retention::Rules;
use remora_core::testing::{new_disk, new_point};
use remora_core::{Error, ErrorKind, PointId, Result};

use super::guest::{self, Image};
use super::model::{self, Attempt, Model};
use super::store::{EPOCH, SimStore};
use super::switches::CONTENT;
use crate::Vault;
use crate::collect::Mode;
use crate::sample::Depth;
use crate::upkeep::Kept;

/// What an actor does, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Backs a VM up.
    Writer(usize),
    Collector,
    /// Keeps the newest points.
    Pruner,
    /// Drops all points.
    Dropper,
    /// Opens a point and reads it, however long that takes.
    Reader,
    Verifier,
    /// Holds points, and gives them free.
    Holder,
    /// Restores over disks of the first VM.
    Breaker,
}

/// What actors and the schedule share.
#[derive(Clone)]
pub(super) struct World(pub(super) Arc<Mutex<Shared>>);

pub(super) struct Shared {
    pub(super) random: fastrand::Rng,
    pub(super) model: Model,
    /// What is on the VMs' disks.
    pub(super) guests: Vec<Image>,
    pub(super) wrong: Vec<String>,
}

/// One actor's process.
pub(super) struct Process {
    pub(super) world: World,
    pub(super) vault: Vault,
    pub(super) store: SimStore,
}

impl World {
    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, checked: model::Checked) {
        if let Err(wrong) = checked {
            self.lock().wrong.push(wrong);
        }
    }
}

impl Process {
    pub(super) async fn run(self, role: Role, rounds: usize) {
        for _ in 0..rounds {
            let done = match role {
                Role::Writer(vm) => self.back_up(vm).await,
                Role::Collector => self.collect().await,
                Role::Pruner | Role::Dropper => self.prune(role).await,
                Role::Reader => self.read().await,
                Role::Verifier => self.verify().await,
                Role::Holder => self.hold().await,
                Role::Breaker => self.break_lineage().await,
            };
            // What else goes wrong was judged where it did.
            if let Err(error) = done
                && matches!(error.kind(), ErrorKind::Failed | ErrorKind::Invalid | ErrorKind::NoSpace)
            {
                self.world.lock().wrong.push(format!("{role:?}: {}", error.chain()));
            }
        }
    }

    fn now(&self) -> std::time::Duration {
        self.store.lock().objects.now
    }

    async fn back_up(&self, vm: usize) -> Result<()> {
        let history = self.vault.history(&model::vm(vm)).await?;
        let parent = history.newest.map(|point| point.id);
        let (attempt, before, decision, time) = self.attempt(vm, parent.as_ref(), history.breaks.is_empty());
        let image = self.world.lock().model.attempts[attempt].image;
        let content = {
            let mut hasher = DefaultHasher::new();
            (vm, parent.as_ref().map(PointId::sequence), format!("{decision}"), image).hash(&mut hasher);
            hasher.finish()
        };
        let new = begun(vm, attempt, parent, decision, time);
        let told = CONTENT.scope(content, self.store_point(new, decision, before, image)).await;
        let checked = self.world.lock().model.told(attempt, &told);
        self.world.check(checked);
        told.map(drop)
    }

    /// What to try to store: what the guest has now, or has written since.
    fn attempt(&self, vm: usize, parent: Option<&PointId>, whole: bool) -> (usize, Image, Decision, Timestamp) {
        let now = self.now();
        let mut shared = self.world.lock();
        let Shared { random, model, guests, .. } = &mut *shared;
        if random.bool() {
            guest::write(random, &mut guests[vm]);
        }
        let before = parent.and_then(|parent| model.image(parent));
        let decision = match (before, random.u8(0..10)) {
            (None, _) | (_, 0..2) => Decision::Full,
            (_, 2..5) => Decision::Reread,
            _ if whole => Decision::Incremental,
            _ => Decision::Reread,
        };
        // The hosts' clocks are wrong.
        let seconds = (EPOCH + now).as_secs().cast_signed() + random.i64(-400_000..400_000);
        let time = Timestamp::from_second(seconds).expect("it is a time");
        let before = before.unwrap_or_default();
        model.attempts.push(Attempt { image: guests[vm], refused: false, committed: None });
        (model.attempts.len() - 1, before, decision, time)
    }

    async fn store_point(&self, new: NewPoint, decision: Decision, before: Image, image: Image) -> Result<Point> {
        let disks = new.disks.len();
        let writer = self.vault.begin(new).await?;
        match write(writer.as_ref(), decision, before, image).await {
            Ok(()) => writer.commit(&vec![DiskReads::default(); disks]).await,
            Err(error) => {
                writer.abandon().await;
                // Nothing was committed, whatever it was.
                Err(Error::new(ErrorKind::Cancelled, "abandoned").because(error))
            }
        }
    }

    async fn collect(&self) -> Result<()> {
        // A collection that others overtook may find what it meant to read gone: it then removes nothing.
        self.vault.collect(None, Mode::Run, &[]).await.map(drop)
    }

    async fn prune(&self, role: Role) -> Result<()> {
        let rules = match role {
            Role::Dropper => Rules { min_count: 0, ..Rules::default() },
            _ => Rules { last: self.world.lock().random.u32(1..3), ..Rules::default() },
        };
        self.vault.prune(None, &rules, Mode::Run).await.map(drop)
    }

    /// A point that is listed.
    async fn any_point(&self) -> Result<Option<Point>> {
        let listing = self.vault.list(None).await?;
        let shared = &mut *self.world.lock();
        for (point, error) in listing.unreadable {
            if !shared.model.is_dropped(&point) {
                shared.wrong.push(format!("{point} is listed as damaged: {}", error.chain()));
            }
        }
        let chosen = (!listing.points.is_empty()).then(|| shared.random.usize(0..listing.points.len()));
        Ok(chosen.map(|n| listing.points[n].clone()))
    }

    async fn read(&self) -> Result<()> {
        let Some(point) = self.any_point().await? else { return Ok(()) };
        let reader = self.vault.open(&point.id).await;
        let reader = match reader {
            Err(error) if error.kind() == ErrorKind::NotFound && self.world.lock().model.is_dropped(&point.id) => {
                return Ok(());
            }
            reader => reader.map_err(|error| self.judge(&point.id, error))?,
        };
        for disk in 0..guest::DISKS.len() {
            let bytes = model::read(reader.as_ref(), disk).await.map_err(|error| self.judge(&point.id, error))?;
            let shared = &mut *self.world.lock();
            if shared.model.image(&point.id).is_none_or(|image| guest::bytes(image, disk) != bytes) {
                shared.wrong.push(format!("a reader got other bytes of {} than were written", point.id));
            }
        }
        Ok(())
    }

    /// Only what the store did not answer may be unreadable while a point is promised.
    fn judge(&self, point: &PointId, error: Error) -> Error {
        let now = self.now();
        let shared = &mut *self.world.lock();
        if error.kind() != ErrorKind::Unavailable && shared.model.promised(point, now).is_some() {
            shared.wrong.push(format!("point {point} cannot be read: {}", error.chain()));
        }
        error
    }

    async fn verify(&self) -> Result<()> {
        let Some(point) = self.any_point().await? else { return Ok(()) };
        let verified = self.vault.verifier(Depth::All).point(&point.id, &NoProgress).await;
        let dropped = self.world.lock().model.is_dropped(&point.id);
        match verified {
            Err(error) if error.kind() == ErrorKind::NotFound && dropped => Ok(()),
            Err(error) => Err(self.judge(&point.id, error)),
            Ok(report) => {
                let now = self.now();
                let shared = &mut *self.world.lock();
                if !report.damage.is_empty() && shared.model.promised(&point.id, now).is_some() {
                    shared.wrong.push(format!("{} is found damaged: {:?}", point.id, report.damage));
                }
                Ok(())
            }
        }
    }

    async fn hold(&self) -> Result<()> {
        let Some(point) = self.any_point().await? else { return Ok(()) };
        let hours = self.world.lock().random.i64(0..150);
        let until = Timestamp::from_second((EPOCH + self.now()).as_secs().cast_signed()).expect("it is a time")
            + SignedDuration::from_hours(hours);
        let kept = if hours < 20 { Kept::AsRulesSay } else { Kept::Until(until) };
        self.vault.hold(&point.id, kept).await
    }

    async fn break_lineage(&self) -> Result<()> {
        let time = Timestamp::UNIX_EPOCH;
        let broken = LineageBreak { time, path: "/d".into(), reason: "it was restored over".into() };
        self.vault.record_break(&model::vm(0), broken).await
    }
}

fn begun(vm: usize, attempt: usize, parent: Option<PointId>, decision: Decision, time: Timestamp) -> NewPoint {
    let disk = |n: usize| new_disk(["vda", "vdb", "vdc"][n], guest::size(n), decision);
    let disks = (0..guest::DISKS.len()).map(disk).collect();
    NewPoint { time, definition: attempt.to_string(), ..new_point(&model::vm(vm), parent, disks) }
}

async fn write(writer: &dyn PointWriter, decision: Decision, before: Image, image: Image) -> Result<()> {
    for n in 0..guest::DISKS.len() {
        let disk = DiskIndex(n);
        if decision != Decision::Incremental {
            writer.write(disk, 0, guest::bytes(image, n).into()).await?;
            continue;
        }
        let bytes = Bytes::from(guest::bytes(image, n));
        for (at, len, place) in guest::blocks(n) {
            let range = remora_core::ByteRange::at(at, len);
            match (before[place] == image[place], image[place]) {
                (true, _) => writer.unchanged(disk, range).await?,
                (false, 0) => writer.zero(disk, range).await?,
                _ => writer.write(disk, at, bytes.slice(at as usize..(at + len) as usize)).await?,
            }
        }
    }
    Ok(())
}
