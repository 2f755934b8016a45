//! A VM's sequence: its entries by number, of which the newest tombstone says which still count.
//!
//! Numbers are used from 1 on without gaps, each once and for ever: an entry is stored by a create-only write at the
//! first free number, and what no longer counts is emptied and never removed. So whoever gets a number knows all that
//! comes before it, however long ago it looked, and a gap is damage.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use bytes::Bytes;
use jiff::Timestamp;
use remora_core::ports::History;
use remora_core::{Error, ErrorKind, Result, VmName};

use crate::manifest::{self, Entry, Manifest};
use crate::names::{self, Folder, SegmentId, SessionId};
use crate::repository::{Repository, Stored};
use crate::store::{Created, Listed, Missing, PutBack};
use crate::tombstone::Tombstone;

/// How often an entry is tried at the next number. Each time somebody else got one, so this many mean that the store
/// does not list what it holds.
const TRIES: usize = 32;

/// A VM's sequence at the time of a listing.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// All entries, by number.
    pub(crate) listed: BTreeMap<u64, Listed>,
    /// The newest tombstone's number; 0 if there is none.
    pub(crate) tombstone_number: u64,
    /// What it says.
    pub(crate) tombstone: Tombstone,
    /// The number of the settings that the writer of the newest entry knew.
    pub(crate) settings: u64,
    /// The highest number that this host ever saw of it.
    seen: u64,
    /// Why the newest tombstone may be another: an entry above it cannot be read.
    doubt: Option<Error>,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is there.
    Yes,
    /// Another entry has that number.
    NumberTaken,
}

impl Sequence {
    /// The first free number.
    pub(crate) fn next(&self) -> u64 {
        self.listed.last_key_value().map_or(1, |(last, _)| last + 1)
    }

    /// Whether a number's entry still counts.
    pub(crate) fn counts(&self, number: u64) -> bool {
        !self.tombstone.dropped.contains(number)
    }

    /// The numbers of the entries that count, ascending.
    pub(crate) fn counting(&self) -> Vec<u64> {
        self.listed.keys().copied().filter(|number| self.counts(*number)).collect()
    }

    /// The numbers that an entry is missing of; none without damage. They may be very many: a hostile store can list an
    /// entry of any number.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = u64> {
        (1..=self.seen).filter(|number| self.lacks(*number))
    }

    /// Whether a number is such a gap.
    pub(crate) fn lacks(&self, number: u64) -> bool {
        (1..=self.seen).contains(&number) && !self.listed.contains_key(&number)
    }

    /// An error unless it is known which tombstone is the newest.
    pub(crate) fn certain(&self) -> Result<()> {
        let Some(doubt) = &self.doubt else { return Ok(()) };
        Err(Error::new(doubt.kind(), format!("which points of a VM are dropped is uncertain: {}", doubt.chain()))
            .advise("Nothing is removed while that is so. Run `remora verify` to learn what else is affected."))
    }

    /// The next tombstone: it says what the newest one says.
    pub(crate) fn next_tombstone(&self) -> Tombstone {
        let mut next = self.tombstone.clone();
        next.ended.clear();
        if self.tombstone_number > 0 {
            next.dropped.insert(self.tombstone_number);
        }
        next
    }
}

impl Repository {
    /// A VM's sequence.
    pub(crate) async fn sequence(&self, vm: Folder) -> Result<Sequence> {
        // Before the listing: what another process stores meanwhile, and remembers, is not missing in it.
        let before = self.seen.highest(vm, 0).await;
        let objects = self.store.listed(&names::manifests(self.tenant, vm)).await?;
        let numbered = objects.into_iter().filter_map(|object| Some((names::sequence(&object.name)?, object)));
        let listed: BTreeMap<u64, Listed> = numbered.collect();
        let last = listed.last_key_value().map_or(0, |(last, _)| *last);
        self.seen.highest(vm, last).await;
        let seen = before.max(last);
        let mut sequence =
            Sequence { listed, tombstone_number: 0, tombstone: Tombstone::default(), settings: 0, seen, doubt: None };
        let mut below = u64::MAX;
        while let Some(number) = sequence.listed.range(..below).next_back().map(|(number, _)| *number) {
            below = number;
            match self.tombstone_by(vm, number).await {
                Ok((number, tombstone, settings)) => {
                    (sequence.tombstone_number, sequence.tombstone) = (number, tombstone);
                    sequence.settings = settings;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(error = error.chain(), "an entry of the VM's sequence is unreadable");
                    sequence.doubt.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sequence)
    }

    /// What is wrong at a gap of a VM's sequence.
    pub(crate) fn gap(&self, vm: Folder, sequence: &Sequence, number: u64) -> Error {
        let name = names::manifest(self.tenant, vm, number);
        match self.seen.file(vm).filter(|_| number >= sequence.next()) {
            None => self.store.damaged(&name, Missing),
            Some(file) => {
                let advice = format!(
                    "Bring back what the store has lost. If the repository was put back to an earlier state on purpose, \
                     remove {}: what came after is lost then.",
                    file.display()
                );
                self.store.damaged(&name, PutBack(file)).advise(advice)
            }
        }
    }

    /// The newest tombstone that the entry at `number` knows of: itself, or the one that it names; and the settings that
    /// its writer knew.
    async fn tombstone_by(&self, vm: Folder, number: u64) -> Result<(u64, Tombstone, u64)> {
        let missing = |number| self.store.damaged(&names::manifest(self.tenant, vm, number), "it is missing");
        let top = self.manifest(vm, number).await?.ok_or_else(|| missing(number))?.manifest;
        let settings = top.settings;
        let at = match top.entry {
            Entry::Tombstone(tombstone) => return Ok((number, *tombstone, settings)),
            _ if top.tombstone == 0 => return Ok((0, Tombstone::default(), settings)),
            _ => top.tombstone,
        };
        match self.manifest(vm, at).await?.ok_or_else(|| missing(at))?.manifest.entry {
            Entry::Tombstone(tombstone) => Ok((at, *tombstone, settings)),
            _ => Err(self.store.damaged(&names::manifest(self.tenant, vm, at), "it is no tombstone")),
        }
    }

    /// The newest point that counts and can be read, and the breaks after it. Unreadable entries are passed over,
    /// loudly: the next point then follows an older one, whose checkpoint is gone, and rereads.
    pub(crate) async fn newest(&self, vm: Folder, sequence: &Sequence) -> Result<History> {
        #[cfg(test)]
        if crate::simulation::has(crate::simulation::Bug::NewestByTime) {
            return crate::simulation::newest_by_time(self, vm, sequence).await;
        }
        if sequence.seen >= sequence.next() {
            let error = self.gap(vm, sequence, sequence.seen);
            tracing::warn!(error = error.chain(), "the backup goes on from an earlier point");
        }
        let mut history = History::default();
        for number in sequence.counting().into_iter().rev() {
            match self.manifest(vm, number).await {
                Ok(Some(Stored { manifest, .. })) => match manifest.entry {
                    Entry::Point(point) => return Ok(History { newest: Some(point.point), ..history }),
                    Entry::Break(broken) => history.breaks.push(broken),
                    Entry::Lost(lost) => history.lost = Some(lost.time),
                    Entry::Tombstone(_) => {}
                },
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(error = error.chain(), "an entry of the VM's sequence is unreadable");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(history)
    }

    /// Stores an entry at a number of a VM's sequence. An unknown outcome is cleared up by looking; if that fails too,
    /// it stays unknown: `Unavailable`.
    pub(crate) async fn append(&self, vm: Folder, number: u64, manifest: &Manifest) -> Result<Appended> {
        let appended = self.create_entry(vm, number, manifest).await?;
        if appended == Appended::Yes {
            self.seen.highest(vm, number).await;
        }
        Ok(appended)
    }

    async fn create_entry(&self, vm: Folder, number: u64, manifest: &Manifest) -> Result<Appended> {
        let name = names::manifest(self.tenant, vm, number);
        let place = manifest::place(self.descriptor.id, self.tenant, vm, number);
        let object = Bytes::from(manifest.seal(&self.keys.manifests, &place)?);
        let mut tries = 2;
        loop {
            let outcome = self.store.create(&name, object.clone().into()).await;
            if matches!(outcome, Ok(Created::Yes)) {
                return Ok(Appended::Yes);
            }
            tries -= 1;
            // Also what was in the way of the second try may be our own first one, come late.
            match self.store.get(&name, manifest::LIMIT).await? {
                Some(there) if there == object => return Ok(Appended::Yes),
                Some(_) => return Ok(Appended::NumberTaken),
                None if tries == 0 => return outcome.map(|_| Appended::NumberTaken),
                None => {}
            }
        }
    }

    /// The segments of which something was found lost, by the entries between two numbers.
    pub(crate) async fn lost_between(&self, vm: Folder, numbers: Range<u64>) -> Result<HashSet<SegmentId>> {
        let mut segments = HashSet::new();
        for number in numbers {
            match self.manifest(vm, number).await {
                Ok(Some(Stored { manifest: Manifest { entry: Entry::Lost(lost), .. }, .. })) => {
                    segments.extend(lost.segments);
                }
                Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
                _ => {}
            }
        }
        Ok(segments)
    }

    /// Stores an entry that may follow any other at the first free number.
    pub(crate) async fn append_next(&self, vm: &VmName, entry: &Entry) -> Result<()> {
        let folder = self.folder(vm);
        let mut tries = Tries::new();
        loop {
            let sequence = self.sequence(folder).await?;
            let manifest = self.without_session(vm, sequence.tombstone_number, entry.clone());
            if self.append(folder, sequence.next(), &manifest).await? == Appended::Yes {
                return Ok(());
            }
            tries.again(vm)?;
        }
    }

    /// Stores a tombstone right after the sequence that it was decided on: if that has grown, `NumberTaken`, and the
    /// decision is to be made again.
    pub(crate) async fn append_tombstone(
        &self,
        vm: &VmName,
        sequence: &Sequence,
        tombstone: Tombstone,
    ) -> Result<Appended> {
        sequence.certain()?;
        self.trust_settings(self.folder(vm), sequence).await?;
        let entry = Entry::Tombstone(Box::new(tombstone));
        let manifest = self.without_session(vm, sequence.tombstone_number, entry);
        self.append(self.folder(vm), sequence.next(), &manifest).await
    }
}

impl Repository {
    fn without_session(&self, vm: &VmName, tombstone: u64, entry: Entry) -> Manifest {
        let (written, session, settings) = (Timestamp::now(), SessionId::NONE, self.settings.number);
        Manifest { vm: vm.clone(), written, session, tombstone, settings, entry }
    }
}

/// Counts the tries of an entry.
pub(crate) struct Tries(usize);

impl Tries {
    pub(crate) const fn new() -> Self {
        Self(TRIES)
    }

    /// One more try, or an error if there were too many.
    pub(crate) fn again(&mut self, vm: &VmName) -> Result<()> {
        self.0 -= 1;
        if self.0 > 0 {
            return Ok(());
        }
        let what = format!("the sequence of VM {:?} has no free number after {TRIES} tries", vm.as_str());
        Err(Error::new(ErrorKind::Busy, what).advise("Check with `remora doctor` that the store lists what it holds."))
    }
}
