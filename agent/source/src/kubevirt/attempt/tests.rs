//! How long a job is waited for. Time stands still but where nobody has anything to do.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use remora_core::{RepositoryId, VmName};
use tokio::time::sleep;

use super::*;
use crate::kubevirt::cluster::{ChangedBlockTracking, Cluster, Freeze, InstanceFacts, JobFacts, VmFacts};
use crate::kubevirt::launcher::Launcher;
use crate::kubevirt::options::KubevirtOptions;

const START: Duration = Duration::from_mins(3);

/// What it says of a scratch that is not attached.
type Told = fn() -> Result<Option<Unattached>>;

/// Once one thing was heard, nothing is but what is asked for: after so long each, that.
#[derive(Debug)]
struct Deaf {
    first: fn() -> BackupProgress,
    answers: Mutex<Vec<(Duration, BackupProgress)>>,
    unattached: Told,
}

#[async_trait]
impl Cluster for Deaf {
    async fn look(&self) -> Result<VmFacts> {
        unreachable!("it was looked at before")
    }

    async fn begin(&self, _: &BackupWish) -> Result<()> {
        Ok(())
    }

    async fn progress(&self, _: &BackupName, seen: Option<&BackupProgress>) -> Result<BackupProgress> {
        match seen {
            None => Ok((self.first)()),
            Some(_) => std::future::pending().await,
        }
    }

    async fn progress_now(&self, _: &BackupName) -> Result<BackupProgress> {
        let next = self.answers.lock().unwrap().pop();
        let (after, answer) = next.unwrap_or_else(|| (Duration::ZERO, (self.first)()));
        sleep(after).await;
        Ok(answer)
    }

    async fn why_unattached(&self, _: &BackupName) -> Result<Option<Unattached>> {
        (self.unattached)()
    }

    async fn job(&self) -> Result<JobFacts> {
        unreachable!("only the start is waited for")
    }

    async fn latest_checkpoint(&self) -> Result<Option<String>> {
        unreachable!("only the start is waited for")
    }

    async fn end(&self, _: &BackupName, _: Outcome) -> Result<()> {
        unreachable!("only the start is waited for")
    }
}

fn queued() -> BackupProgress {
    BackupProgress::Queued("the controller has not looked at it yet".into())
}

fn waiting() -> BackupProgress {
    BackupProgress::Waiting("attaching the scratch PVC".into())
}

fn running() -> BackupProgress {
    BackupProgress::Running(RunningBackup {
        checkpoint: "c".into(),
        kind: BackupKind::Incremental,
        volumes: BTreeSet::new(),
        quiesced: QuiesceFacts::Succeeded,
        scratch: None,
    })
}

/// What becomes of a wish whose live answers are these, in this order, and how long that takes.
async fn waited(depth: Depth, answers: Vec<(Duration, BackupProgress)>) -> (Result<Begun>, Duration) {
    waited_for(Deaf { first: waiting, answers: Mutex::new(answers), unattached: || Ok(None) }, depth).await
}

async fn waited_for(cluster: Deaf, depth: Depth) -> (Result<Begun>, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let instance = InstanceFacts { uid: "i".into(), pod: "p".into() };
    let facts = VmFacts {
        vm: VmName::new("shop/web").unwrap(),
        uid: "u".into(),
        version: "1".into(),
        instance: Some(instance.clone()),
        tracking: ChangedBlockTracking::Enabled,
        volumes: Vec::new(),
        left_out: Vec::new(),
        latest: None,
        definition: "{}".into(),
    };
    cluster.answers.lock().unwrap().reverse();
    let vm = Vm {
        cluster: Arc::new(cluster),
        options: KubevirtOptions { start_within: START, ..KubevirtOptions::new(Vec::new()) },
        facts,
        instance,
        launcher: Launcher::open(folder.path(), "p", folder.path()).unwrap(),
        patience: Duration::ZERO,
    };
    let backup = CheckpointName::random(RepositoryId::random()).as_backup();
    let start = Instant::now();
    let begun = wait(&vm, &BackupWish { backup, depth, freeze: Freeze::Skip }).await;
    (begun, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn the_time_in_which_the_api_server_is_away_is_nobody_s() {
    let away = 3 * START;
    for depth in [Depth::SinceLatest, Depth::Full] {
        // It began meanwhile.
        let (begun, _) = waited(depth, vec![(away, running())]).await;
        assert!(matches!(begun, Ok(Begun::Runs(..))), "{depth:?}: {:?}", begun.err());
        // KubeVirt was held up as well: it has its time from there on.
        let here = Duration::ZERO;
        let later = vec![(away, waiting()), (here, waiting()), (away, waiting()), (here, waiting()), (here, running())];
        let (begun, took) = waited(depth, later).await;
        assert!(matches!(begun, Ok(Begun::Runs(..))), "{depth:?}: {:?}", begun.err());
        assert!(took < 2 * away + START, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nor_does_the_controller_lose_it_before_it_has_made_the_backup() {
    let (away, here) = (3 * START, Duration::ZERO);
    let queues = |answers: Vec<(Duration, BackupProgress)>| Deaf {
        first: queued,
        answers: Mutex::new(answers),
        unattached: || Ok(None),
    };
    let made = vec![(away, queued()), (here, queued()), (here, waiting()), (here, running())];
    let (begun, _) = waited_for(queues(made), Depth::SinceLatest).await;
    assert!(matches!(begun, Ok(Begun::Runs(..))), "{:?}", begun.err());
    // One that is not made while the API server answers is given back in time.
    let (begun, took) = waited_for(queues(vec![(away, queued())]), Depth::SinceLatest).await;
    assert_eq!(begun.err().unwrap().name(), Some(QUEUED));
    assert!((away + START..away + START + Duration::from_secs(1)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_start_while_the_api_server_answers_is_given_up_in_time() {
    for (depth, kind) in [(Depth::SinceLatest, ErrorKind::Damaged), (Depth::Full, ErrorKind::Unavailable)] {
        for away in [Duration::ZERO, 3 * START] {
            let (begun, took) = waited(depth, vec![(away, waiting())]).await;
            let error = begun.err().unwrap();
            assert_eq!(error.kind(), kind, "{}", error.chain());
            assert!(error.chain().contains("within 180 s: attaching the scratch PVC"), "{}", error.chain());
            assert!((away + START..away + START + Duration::from_secs(1)).contains(&took), "{took:?} of {away:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_cannot_be_made_is_told_by_the_name_of_what_refuses_it() {
    let refused: fn() -> BackupProgress =
        || BackupProgress::Failed { reason: "TrackerRefused".into(), message: "exceeded quota".into() };
    let cluster = Deaf { first: refused, answers: Mutex::default(), unattached: || Ok(None) };
    let error = waited_for(cluster, Depth::SinceLatest).await.0.err().unwrap();
    assert_eq!((error.kind(), error.name()), (ErrorKind::Unavailable, Some("TrackerRefused")));
    assert!(error.chain().ends_with("(TrackerRefused): exceeded quota"), "{}", error.chain());
}

#[tokio::test(start_paused = true)]
async fn a_scratch_pvc_that_is_not_attached_is_named_and_no_reread_is_tried() {
    for depth in [Depth::SinceLatest, Depth::Full] {
        let unattached: Told = || Ok(Some(Unattached::SoFar("no node has it".into())));
        let cluster = Deaf { first: waiting, answers: Mutex::default(), unattached };
        let (begun, took) = waited_for(cluster, depth).await;
        let error = begun.err().unwrap();
        // Of `Damaged` the engine would make a reread.
        assert_eq!((error.kind(), error.name()), (ErrorKind::Unavailable, Some(SCRATCH_NOT_ATTACHABLE)), "{depth:?}");
        assert!(error.chain().ends_with("within 180 s: no node has it"), "{}", error.chain());
        assert!(error.advice().unwrap().contains("spec.scratch.storageClassName"));
        assert!((START..START + Duration::from_secs(1)).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scratch_pvc_that_never_gets_to_the_node_is_not_waited_for() {
    for depth in [Depth::SinceLatest, Depth::Full] {
        let unattached: Told = || Ok(Some(Unattached::ForGood("it is of another node".into())));
        let (begun, took) = waited_for(Deaf { first: waiting, answers: Mutex::default(), unattached }, depth).await;
        let error = begun.err().unwrap();
        assert_eq!((error.kind(), error.name()), (ErrorKind::Unavailable, Some(SCRATCH_NOT_ATTACHABLE)), "{depth:?}");
        assert!(
            error.chain().ends_with("cannot be attached on the VM's node: it is of another node"),
            "{}",
            error.chain()
        );
        // At the first look.
        assert!(took < START / LOOKS + Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_while_it_is_asked_why_is_no_reason_for_a_reread() {
    let cases: [(Told, ErrorKind); 2] = [
        (|| Err(Error::new(ErrorKind::Cancelled, "the run is to end")), ErrorKind::Cancelled),
        (|| Err(Error::new(ErrorKind::Unavailable, "the API server does not answer")), ErrorKind::Damaged),
    ];
    for (unattached, kind) in cases {
        let (begun, _) =
            waited_for(Deaf { first: waiting, answers: Mutex::default(), unattached }, Depth::SinceLatest).await;
        assert_eq!(begun.err().unwrap().kind(), kind);
    }
}
