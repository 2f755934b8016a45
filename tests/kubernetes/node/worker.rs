//! What makes points, played.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use remora_core::point::Point;
use remora_core::ports::{Outcome, Progress};
use remora_core::testing::point;
use remora_core::{BackupName, CheckpointName, Error, ErrorKind, RepositoryId, VmName};
use remora_kube::node::{Desk, Done, Failure, Order, Worker};
use remora_kube::resources::{Capability, PolicyState};
use remora_source::kubevirt::{BackupWish, Cluster, Depth, Freeze, QUEUED};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// What is made of a run.
#[derive(Clone, Default)]
pub(super) enum Act {
    /// A point at once.
    #[default]
    Store,
    /// A point once it is told to, by [`Played::release`]; until then an attempt is wanted.
    StoreWhenTold,
    /// A point at once, but of the run of this name: somebody else has its machine.
    StoreAllBut(&'static str),
    /// A point at once, and checkpoints that could not be removed: why.
    StoreAndLeave(&'static str),
    /// Nothing, with this error.
    Fail(ErrorKind, &'static str),
    /// Nothing known, once it is told to: the store is away. Whether there is a point is answered when it is told so again.
    LoseStoreWhenTold,
    /// Nothing: the process dies of it.
    Panic,
}

/// The worker of any number of agents.
#[derive(Clone, Default)]
pub(super) struct Played(Arc<Play>);

struct Play {
    act: Mutex<Act>,
    begun: Mutex<Vec<String>>,
    cancelled: Mutex<Vec<String>>,
    told: Semaphore,
    committed: Mutex<BTreeMap<String, Point>>,
    asked: Mutex<Vec<String>>,
    policies: watch::Sender<Vec<PolicyState>>,
    lacks: Mutex<Option<&'static str>>,
}

impl Default for Play {
    fn default() -> Self {
        Self {
            act: Mutex::default(),
            begun: Mutex::default(),
            cancelled: Mutex::default(),
            told: Semaphore::new(0),
            committed: Mutex::default(),
            asked: Mutex::default(),
            policies: watch::Sender::default(),
            lacks: Mutex::default(),
        }
    }
}

impl Played {
    pub(super) fn new(act: Act) -> Self {
        let played = Self::default();
        played.act(act);
        played
    }

    pub(super) fn act(&self, act: Act) {
        *self.0.act.lock().unwrap() = act;
    }

    /// The runs that were begun, in order; one that was begun twice is there twice.
    pub(super) fn begun(&self) -> Vec<String> {
        self.0.begun.lock().unwrap().clone()
    }

    pub(super) fn begun_once(&self) -> BTreeSet<String> {
        let begun = self.begun();
        let once: BTreeSet<_> = begun.iter().cloned().collect();
        assert_eq!(once.len(), begun.len(), "some were begun twice: {begun:?}");
        once
    }

    pub(super) fn cancelled(&self) -> Vec<String> {
        self.0.cancelled.lock().unwrap().clone()
    }

    /// Lets one run that waits make its point.
    pub(super) fn release(&self) {
        self.0.told.add_permits(1);
    }

    /// These policies are in force from now on.
    pub(super) fn has_policies(&self, policies: Vec<PolicyState>) {
        self.0.policies.send_replace(policies);
    }

    /// What the node lacks from now on, if anything.
    pub(super) fn lacks(&self, what: Option<&'static str>) {
        *self.0.lacks.lock().unwrap() = what;
    }

    /// Notes that an attempt has committed a point.
    pub(super) fn has_committed(&self, attempt: &str, point: Point) {
        self.0.committed.lock().unwrap().insert(attempt.into(), point);
    }

    /// The attempts of which it was asked whether they committed.
    pub(super) fn asked(&self) -> Vec<String> {
        self.0.asked.lock().unwrap().clone()
    }

    async fn wait(&self, order: &Order, desk: &Desk, cancel: &CancellationToken) -> Result<(), Failure> {
        let cluster = desk.cluster(RepositoryId::from_bytes([7; 16]));
        let wish = BackupWish { backup: a_backup(), depth: Depth::Full, freeze: Freeze::Skip };
        cluster.begin(&wish).await?;
        desk.meter().expect(1000);
        desk.meter().advance(400);
        let cancelled = tokio::select! {
            told = self.0.told.acquire() => {
                told.unwrap().forget();
                false
            }
            () = cancel.cancelled() => true,
        };
        if cancelled {
            self.0.cancelled.lock().unwrap().push(order.name.clone());
        }
        let outcome = if cancelled { Outcome::Abandoned } else { Outcome::Stored };
        cluster.end(&wish.backup, outcome).await?;
        if cancelled {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled").into());
        }
        Ok(())
    }
}

#[async_trait]
impl Worker for Played {
    async fn committed(&self, _: &Order, attempt: &BackupName) -> Result<Option<Point>, Failure> {
        self.0.asked.lock().unwrap().push(attempt.to_string());
        let store_is_away = matches!(*self.0.act.lock().unwrap(), Act::LoseStoreWhenTold);
        if store_is_away {
            self.0.told.acquire().await.unwrap().forget();
        }
        Ok(self.0.committed.lock().unwrap().get(&attempt.to_string()).cloned())
    }

    async fn work(&self, order: &Order, desk: &Desk, cancel: CancellationToken) -> Result<Done, Failure> {
        self.0.begun.lock().unwrap().push(order.name.clone());
        let act = self.0.act.lock().unwrap().clone();
        let mut left = None;
        match act {
            Act::StoreAllBut(waits) if order.name == waits => {
                return Err(Error::new(ErrorKind::Busy, "theirs is in flight").named(QUEUED).into());
            }
            Act::Store | Act::StoreAllBut(_) => {}
            Act::StoreAndLeave(why) => left = Some(why.to_owned()),
            Act::StoreWhenTold => self.wait(order, desk, &cancel).await?,
            Act::LoseStoreWhenTold => {
                self.wait(order, desk, &cancel).await?;
                return Err(Error::new(ErrorKind::Unavailable, "the store is away").into());
            }
            Act::Fail(kind, what) => return Err(Error::new(kind, what).advise("Do something.").into()),
            Act::Panic => panic!("as it was told"),
        }
        Ok(Done { point: a_point(order.vm_name()), notes: vec!["played".into()], left })
    }

    async fn capabilities(&self) -> Vec<Capability> {
        let lacks = *self.0.lacks.lock().unwrap();
        vec![Capability { name: "playing".into(), available: lacks.is_none(), message: lacks.unwrap_or("well").into() }]
    }

    fn policies(&self) -> Option<watch::Receiver<Vec<PolicyState>>> {
        Some(self.0.policies.subscribe())
    }
}

/// A name that nothing else has.
pub(super) fn a_backup() -> BackupName {
    CheckpointName::random(RepositoryId::from_bytes([7; 16])).as_backup()
}

/// A point without disks.
pub(super) fn a_point(vm: String) -> Point {
    let first = point(&VmName::new(vm).unwrap(), Vec::new());
    Point { reason: "it is the first".into(), stored: 4096, definition: "{}".into(), ..first }
}
