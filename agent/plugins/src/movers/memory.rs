//! The memory of all children of this process together: half of what the process may have, so that no component takes it from the
//! backup, however many repositories of plugins are open.
//!
//! A child's limit is set once, when it starts. So each gets a share of what is free then, and gives it back when it has ended.

use std::fs;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use remora_core::{Error, ErrorKind, Result};

/// The memory that one child gets at most; each of its instances has a limit of its own.
const MOST: u64 = 4 << 30;

/// With less, a component is not even compiled for certain.
const LEAST: u64 = 96 << 20;

/// Of a child's share, what an instance of a small component takes, with its thread.
const INSTANCE: u64 = 6 << 20;

/// Instances of a component at once. A thread of the child each.
const INSTANCES: u64 = 64;

/// Where a pod's limit of memory stands, in this process's view of its own group.
const POD: &str = "/sys/fs/cgroup/memory.max";

static OF_THIS_PROCESS: LazyLock<Ledger> = LazyLock::new(|| {
    Ledger::new(half(fs::read_to_string(POD).ok().as_deref(), fs::read_to_string("/proc/meminfo").ok().as_deref()))
});

/// What is there, and what is free of it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    total: u64,
    free: Arc<Mutex<u64>>,
}

/// A child's share, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    ledger: Ledger,
    bytes: u64,
}

impl Ledger {
    fn new(total: u64) -> Self {
        Self { total, free: Arc::new(Mutex::new(total)) }
    }

    /// That of this process.
    pub(super) fn of_this_process() -> &'static Self {
        &OF_THIS_PROCESS
    }

    /// A quarter of what is free, so that there is something for whoever comes next.
    pub(super) fn take(&self) -> Result<Share> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if *free < LEAST {
            let what = format!(
                "there is no memory for one more mover: of {} MiB that all of them may take, {} MiB are free, and each needs {} MiB",
                self.total >> 20,
                *free >> 20,
                LEAST >> 20
            );
            return Err(Error::new(ErrorKind::Busy, what).advise(
                "A mover has its share as long as its repository is open. Have fewer of them open at once, or raise the pod's limit \
                 of memory: movers get half of it.",
            ));
        }
        let bytes = (*free / 4).clamp(LEAST, MOST);
        *free -= bytes;
        Ok(Share { ledger: self.clone(), bytes })
    }

    /// How many instances a child may have at once, whatever its share will be.
    pub(super) fn instances(&self) -> usize {
        (self.total / 4).max(LEAST).div_euclid(INSTANCE).min(INSTANCES) as usize
    }
}

impl Share {
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.ledger.free.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
    }
}

/// Half of a pod's limit, or of the machine's memory.
fn half(pod: Option<&str>, machine: Option<&str>) -> u64 {
    let pod = pod.and_then(|text| text.trim().parse::<u64>().ok());
    let machine = machine.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    });
    pod.into_iter().chain(machine).min().map_or(MOST, |all| all / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "MemTotal:       16384000 kB\nMemFree:         1000 kB\n";

    #[test]
    fn half_of_what_there_is_stays_with_the_host() {
        assert_eq!(half(Some("1610612736\n"), Some(MACHINE)), 768 << 20);
        for none in [None, Some("max\n"), Some(""), Some("68719476736\n")] {
            assert_eq!(half(none, Some(MACHINE)), 16_384_000 * 512, "{none:?}");
        }
        assert_eq!(half(None, Some("nonsense")), MOST);
    }

    #[test]
    fn all_shares_together_are_never_more_than_there_is() {
        let ledger = Ledger::new(384 << 20);
        let mut shares: Vec<_> = (0..4).map(|_| ledger.take().unwrap()).collect();
        assert!(shares.iter().map(Share::bytes).sum::<u64>() <= 384 << 20);
        assert!(shares.iter().all(|share| share.bytes() >= LEAST));
        let error = ledger.take().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.advice().is_some_and(|advice| advice.contains("raise the pod's limit")), "{error:?}");
        shares.pop();
        let again = ledger.take().unwrap();
        drop((shares, again));
        assert_eq!(*ledger.free.lock().unwrap(), 384 << 20);
    }

    /// Two backups, two restores and a verification, each of its own repository.
    #[test]
    fn in_an_agent_s_pod_as_it_is_deployed_there_is_room_for_all_that_it_does_at_once() {
        let ledger = Ledger::new(768 << 20);
        let shares: Vec<_> = (0..6).map(|_| ledger.take()).collect();
        assert!(shares.iter().all(Result::is_ok), "{shares:?}");
        assert!(ledger.take().is_err());
    }

    #[test]
    fn one_share_is_not_all_of_it_and_no_larger_than_any_needs() {
        assert_eq!(Ledger::new(1 << 40).take().unwrap().bytes(), MOST);
        assert_eq!(Ledger::new(8 << 30).take().unwrap().bytes(), 2 << 30);
        assert_eq!((Ledger::new(8 << 30).instances(), Ledger::new(384 << 20).instances()), (64, 16));
    }
}
