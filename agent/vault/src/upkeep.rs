//! Keeping a repository small: holds, pruning by rules, collection.

use futures::TryStreamExt;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use object_store::path::Path;
use remora_core::policy::Retention;
use remora_core::retention::{Candidate, Fate, Verdict};
use remora_core::{Error, ErrorKind, PointId, Result, VmName};
use serde::Serialize;

use crate::collect::{Collected, Mode, collect};
use crate::immutable;
use crate::names::{self, Folder};
use crate::repository::Repository;
use crate::sequence::{Appended, Sequence, Tries};
use crate::tombstone::Numbers;
use crate::vault::{MANIFEST_FETCHES, Vault};

/// What pruning one VM did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The VM.
    pub vm: VmName,
    /// Each point's fate, oldest first.
    pub points: Vec<Verdict>,
}

/// Until when a point is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// No retention drops it before.
    Until(Timestamp),
    /// It is not held any more.
    AsRulesSay,
}

impl Vault {
    /// Holds a point against every retention, or gives it free again. In an immutable repository, nothing of a held
    /// point can be deleted before its time; giving it free does not change that.
    pub async fn hold(&self, point: &PointId, kept: Kept) -> Result<()> {
        self.note_hold(point, kept).await?;
        match kept {
            Kept::Until(time) => immutable::keep_point(&self.0, point, time).await,
            Kept::AsRulesSay => Ok(()),
        }
    }

    async fn note_hold(&self, point: &PointId, kept: Kept) -> Result<()> {
        let vault = &self.0;
        let mut tries = Tries::new();
        loop {
            let (entry, _) = vault.point(point).await?;
            let (vm, number) = (entry.point.vm, point.sequence());
            let sequence = vault.sequence(vault.folder(&vm)).await?;
            let mut tombstone = sequence.next_tombstone();
            match kept {
                Kept::Until(time) => tombstone.holds.insert(number, time),
                Kept::AsRulesSay => tombstone.holds.remove(&number),
            };
            let nothing_new = tombstone.holds == sequence.tombstone.holds;
            let dropped = !sequence.counts(number);
            // If it was dropped since it was read, the next look says so.
            if !dropped && (nothing_new || vault.append_tombstone(&vm, &sequence, tombstone).await? == Appended::Yes) {
                return Ok(());
            }
            tries.again(&vm)?;
        }
    }

    /// Drops the points that no rule keeps, of one VM or of all: a tombstone for each VM. Their bytes go with later
    /// collections. The rules are asked with the store's time, for a host's clock may be wrong.
    pub async fn prune(&self, vm: Option<&VmName>, rules: &dyn Retention, mode: Mode) -> Result<Vec<Pruned>> {
        let vault = &self.0;
        let now = vault.now().await?;
        let mut all = Vec::new();
        for folder in self.folders(vm).await? {
            all.extend(prune_one(vault, folder, rules, mode, now).await?);
        }
        if let (Some(vm), true) = (vm, all.is_empty()) {
            return Err(unknown(vm, "has no point of"));
        }
        all.sort_by(|a, b| a.vm.cmp(&b.vm));
        Ok(all)
    }

    /// Removes what no point needs any more, of one VM or of all. What cannot be collected, for something in it cannot
    /// be read, is told beside the others. A dry run takes what `pruned` drops for dropped.
    pub async fn collect(
        &self,
        vm: Option<&VmName>,
        mode: Mode,
        pruned: &[Pruned],
    ) -> Result<(Vec<Collected>, Vec<Error>)> {
        let now = self.0.now().await?;
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for folder in self.folders(vm).await? {
            let points = pruned.iter().flat_map(|pruned| &pruned.points);
            let mut dropped = Numbers::default();
            for verdict in points.filter(|v| v.fate == Fate::Drop && v.point.vm() == folder.hex()) {
                dropped.insert(verdict.point.sequence());
            }
            match collect_and_renew(&self.0, folder, mode, now, &dropped).await {
                Ok(collected) => done.push(collected),
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    failed.push(error.within(format!("nothing was removed of VM folder {}", folder.hex())));
                }
                Err(error) => return Err(error),
            }
        }
        done.sort_by(|a, b| (&a.vm, &a.folder).cmp(&(&b.vm, &b.folder)));
        Ok((done, failed))
    }

    async fn folders(&self, vm: Option<&VmName>) -> Result<Vec<Folder>> {
        match vm {
            Some(vm) => {
                let folder = self.0.folder(vm);
                if self.0.vms().await?.contains(&folder) { Ok(vec![folder]) } else { Err(unknown(vm, "never had")) }
            }
            None => self.0.vms().await,
        }
    }
}

fn unknown(vm: &VmName, what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the repository {what} a VM {:?}", vm.as_str()))
        .advise("`remora points` lists what there is.")
}

/// Collects one VM, and keeps what is left as long as is set.
async fn collect_and_renew(
    vault: &Repository,
    vm: Folder,
    mode: Mode,
    now: Timestamp,
    as_if_dropped: &Numbers,
) -> Result<Collected> {
    let (mut collected, reached) = collect(vault, vm, mode, now, as_if_dropped).await?;
    if mode == Mode::Run {
        collected.immutable = immutable::renew(vault, vm, now, Some(reached)).await?;
    }
    Ok(collected)
}

impl Repository {
    /// The store's time.
    pub(crate) async fn now(&self) -> Result<Timestamp> {
        self.store.now(&Path::from(names::CLOCK)).await
    }
}

/// Prunes one VM, if it has points. The tombstone stands right behind what was decided on: if a point or a hold came
/// in between, it is decided again.
async fn prune_one(
    vault: &Repository,
    vm: Folder,
    rules: &dyn Retention,
    mode: Mode,
    now: Timestamp,
) -> Result<Option<Pruned>> {
    let mut tries = Tries::new();
    loop {
        let sequence = vault.sequence(vm).await?;
        let Some((name, candidates)) = candidates(vault, vm, &sequence).await? else { return Ok(None) };
        let verdicts = rules.judge(&name, &candidates, now).await?;
        let mut tombstone = sequence.next_tombstone();
        let dropped = verdicts.iter().filter(|verdict| verdict.fate == Fate::Drop);
        let dropped: Vec<u64> = dropped.map(|verdict| verdict.point.sequence()).collect();
        for number in &dropped {
            tombstone.dropped.insert(*number);
        }
        tombstone.holds.retain(|number, until| *until > now && !dropped.contains(number));
        let pruned = Pruned { vm: name, points: verdicts };
        if mode == Mode::DryRun || dropped.is_empty() {
            return Ok(Some(pruned));
        }
        if vault.append_tombstone(&pruned.vm, &sequence, tombstone).await? == Appended::Yes {
            return Ok(Some(pruned));
        }
        tries.again(&pruned.vm)?;
    }
}

/// The points of a VM that count and can be read, oldest first. One that cannot be read is not judged, so it stays.
async fn candidates(vault: &Repository, vm: Folder, sequence: &Sequence) -> Result<Option<(VmName, Vec<Candidate>)>> {
    let read = |number| async move {
        match vault.manifest(vm, number).await {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(error = error.chain(), "an entry cannot be read, so no rule judges it");
                Ok(None)
            }
            stored => stored.map(|stored| stored.and_then(|stored| stored.manifest.into_point())),
        }
    };
    let points = stream::iter(sequence.counting()).map(read).buffered(MANIFEST_FETCHES);
    let points: Vec<_> = points.try_filter_map(|point| async { Ok::<_, Error>(point) }).try_collect().await?;
    let Some(name) = points.first().map(|entry| entry.point.vm.clone()) else { return Ok(None) };
    let candidate = |entry: crate::manifest::PointEntry| Candidate {
        held: sequence.tombstone.holds.get(&entry.point.id.sequence()).copied(),
        point: entry.point.id,
        time: entry.point.time,
    };
    Ok(Some((name, points.into_iter().map(candidate).collect())))
}
