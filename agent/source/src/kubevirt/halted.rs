//! A VM of KubeVirt that is halted: its disks are read where they lie, by whoever has its claims.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use remora_core::point::Quiesced;
use remora_core::ports::{ClaimedVm, DiskView, OpenRequest, OpenVm, Outcome, Patience, Source, VmState};
use remora_core::{CheckpointName, DiskName, Error, ErrorKind, RepositoryId, Result, VmName};

use super::cluster::{Cluster, VmFacts};
use super::facts;

/// Reads the claims of one VM.
#[async_trait]
pub trait ClaimReader: fmt::Debug + Send + Sync {
    /// Opens the disk that lies in a claim.
    async fn open(&self, disk: &DiskName, claim: &str) -> Result<Arc<dyn DiskView>>;

    /// Whether nobody has written to what was opened, as far as it can tell.
    async fn are_unchanged(&self) -> Result<bool>;
}

/// A VM of KubeVirt that is halted, for one run.
///
/// It may be started at any time: [`OpenVm::confirm`] tells that it was not. What is made of it has no checkpoint, so the next
/// point is a reread.
#[derive(Debug)]
pub struct HaltedSource {
    cluster: Arc<dyn Cluster>,
    reader: Arc<dyn ClaimReader>,
}

#[derive(Clone)]
struct Claimed {
    cluster: Arc<dyn Cluster>,
    reader: Arc<dyn ClaimReader>,
    facts: VmFacts,
    state: VmState,
}

struct View {
    claimed: Claimed,
    checkpoint: CheckpointName,
    time: Timestamp,
    disks: Vec<Arc<dyn DiskView>>,
}

impl HaltedSource {
    /// The VM that `cluster` is about, whose claims `reader` reads.
    pub fn new(cluster: Arc<dyn Cluster>, reader: Arc<dyn ClaimReader>) -> Self {
        Self { cluster, reader }
    }
}

#[async_trait]
impl Source for HaltedSource {
    async fn claim(&self, vm: &VmName, _: Patience) -> Result<Box<dyn ClaimedVm>> {
        let within = |error: Error| error.within(format_args!("claiming the VM {:?}", vm.as_str()));
        let facts = self.cluster.look().await.map_err(within)?;
        if facts.instance.is_some() {
            return Err(within(started()));
        }
        let state = facts::halted_state(&facts);
        let (cluster, reader) = (Arc::clone(&self.cluster), Arc::clone(&self.reader));
        Ok(Box::new(Claimed { cluster, reader, facts, state }))
    }
}

#[async_trait]
impl ClaimedVm for Claimed {
    fn state(&self) -> &VmState {
        &self.state
    }

    async fn open(&self, request: &OpenRequest) -> Result<Box<dyn OpenVm>> {
        let mut disks = Vec::new();
        for disk in &request.disks {
            let volume = facts::volume(&self.facts, &disk.name)?;
            let view = self.reader.open(&disk.name, &volume.claim).await?;
            facts::check_size(&disk.name, view.size(), volume.capacity)?;
            disks.push(view);
        }
        let (claimed, checkpoint) = (self.clone(), request.checkpoint.clone());
        Ok(Box::new(View { claimed, checkpoint, time: Timestamp::now(), disks }))
    }

    async fn retire(&self, _: RepositoryId, _: &BTreeSet<CheckpointName>) -> Result<()> {
        // They are the business of the next run that meets the VM running.
        Ok(())
    }
}

#[async_trait]
impl OpenVm for View {
    fn disks(&self) -> &[Arc<dyn DiskView>] {
        &self.disks
    }

    fn checkpoint(&self) -> CheckpointName {
        self.checkpoint.clone()
    }

    fn no_increment(&self) -> Option<&str> {
        None
    }

    fn time(&self) -> Timestamp {
        self.time
    }

    /// A guest that was shut down has nothing to freeze.
    fn quiesced(&self) -> Quiesced {
        Quiesced::Skipped
    }

    fn instance(&self) -> Option<String> {
        None
    }

    async fn confirm(&self) -> Result<()> {
        let now = self.claimed.cluster.look().await?;
        if now.instance.is_some() || (&now.uid, &now.version) != (&self.claimed.facts.uid, &self.claimed.facts.version)
        {
            return Err(started());
        }
        if !self.claimed.reader.are_unchanged().await? {
            return Err(Error::new(ErrorKind::Unavailable, "somebody wrote to the VM's claims while they were read")
                .advise("Find out what uses them, and create another BackupRun."));
        }
        Ok(())
    }

    async fn close(self: Box<Self>, _: Outcome) -> Result<()> {
        Ok(())
    }
}

fn started() -> Error {
    Error::new(ErrorKind::Unavailable, "the VM was started or changed while its disks were read")
        .advise("Create another BackupRun.")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use bytes::Bytes;
    use futures::stream::{self, BoxStream, StreamExt};
    use remora_core::point::Quiesce;
    use remora_core::ports::{Bitmaps, OpenDisk, Tracking};
    use remora_core::{BackupName, ByteRange, Extent};

    use super::*;
    use crate::kubevirt::{
        BackupProgress, BackupWish, ChangedBlockTracking, InstanceFacts, JobFacts, Unattached, VolumeFacts, VolumeMode,
    };

    #[derive(Debug)]
    struct FakeCluster(Mutex<VmFacts>);

    #[async_trait]
    impl Cluster for FakeCluster {
        async fn look(&self) -> Result<VmFacts> {
            Ok(self.0.lock().unwrap().clone())
        }

        async fn begin(&self, _: &BackupWish) -> Result<()> {
            unreachable!("nothing is asked of KubeVirt")
        }

        async fn progress(&self, _: &BackupName, _: Option<&BackupProgress>) -> Result<BackupProgress> {
            unreachable!("nothing is asked of KubeVirt")
        }

        async fn progress_now(&self, _: &BackupName) -> Result<BackupProgress> {
            unreachable!("nothing is asked of KubeVirt")
        }

        async fn why_unattached(&self, _: &BackupName) -> Result<Option<Unattached>> {
            unreachable!("nothing is asked of KubeVirt")
        }

        async fn job(&self) -> Result<JobFacts> {
            unreachable!("nothing is asked of KubeVirt")
        }

        async fn latest_checkpoint(&self) -> Result<Option<String>> {
            unreachable!("nothing is asked of KubeVirt")
        }

        async fn end(&self, _: &BackupName, _: Outcome) -> Result<()> {
            unreachable!("nothing is asked of KubeVirt")
        }
    }

    #[derive(Debug)]
    struct FakeReader {
        opened: Mutex<Vec<String>>,
        size: AtomicU64,
        written: AtomicBool,
    }

    impl Default for FakeReader {
        fn default() -> Self {
            Self { opened: Mutex::default(), size: AtomicU64::new(1000), written: AtomicBool::new(false) }
        }
    }

    #[derive(Debug)]
    struct FakeDisk(DiskName, u64);

    #[async_trait]
    impl ClaimReader for FakeReader {
        async fn open(&self, disk: &DiskName, claim: &str) -> Result<Arc<dyn DiskView>> {
            self.opened.lock().unwrap().push(claim.to_owned());
            Ok(Arc::new(FakeDisk(disk.clone(), self.size.load(Ordering::SeqCst))))
        }

        async fn are_unchanged(&self) -> Result<bool> {
            Ok(!self.written.load(Ordering::SeqCst))
        }
    }

    #[async_trait]
    impl DiskView for FakeDisk {
        fn name(&self) -> &DiskName {
            &self.0
        }

        fn size(&self) -> u64 {
            self.1
        }

        fn checkpointed(&self) -> bool {
            false
        }

        fn extents(&self) -> BoxStream<'_, Result<Extent>> {
            stream::empty().boxed()
        }

        async fn read(&self, _: ByteRange) -> Result<Bytes> {
            unreachable!("nothing is read")
        }
    }

    fn halted() -> VmFacts {
        let volume = |name: &str| VolumeFacts {
            name: name.into(),
            claim: format!("{name}-claim"),
            claim_uid: "c".into(),
            mode: VolumeMode::Filesystem,
            capacity: 1000,
        };
        VmFacts {
            vm: VmName::new("shop/web").unwrap(),
            uid: "u".into(),
            version: "7".into(),
            instance: None,
            tracking: ChangedBlockTracking::Not(String::new()),
            volumes: vec![volume("root"), volume("data")],
            left_out: Vec::new(),
            latest: None,
            definition: "{}".into(),
        }
    }

    fn instance() -> InstanceFacts {
        InstanceFacts { uid: "i".into(), pod: "p".into() }
    }

    async fn claim(cluster: &Arc<FakeCluster>, reader: &Arc<FakeReader>) -> Result<Box<dyn ClaimedVm>> {
        let source = HaltedSource::new(Arc::clone(cluster) as _, Arc::clone(reader) as _);
        source.claim(&VmName::new("shop/web").unwrap(), Patience::None).await
    }

    fn request() -> OpenRequest {
        let disk = |name: &str| OpenDisk { name: DiskName::new(name).unwrap(), since: None };
        OpenRequest {
            disks: vec![disk("data"), disk("root")],
            checkpoint: CheckpointName::random(RepositoryId::random()),
            tracking: Tracking::Begins,
            quiesce: Quiesce::Required,
        }
    }

    #[tokio::test]
    async fn each_disk_is_read_from_its_claim_and_is_no_increment() {
        let (cluster, reader) = (Arc::new(FakeCluster(Mutex::new(halted()))), Arc::default());
        let claimed = claim(&cluster, &reader).await.unwrap();
        assert!(claimed.state().disks.iter().all(|disk| matches!(disk.bitmaps, Bitmaps::Unable(_))));
        let view = claimed.open(&request()).await.unwrap();
        let opened = reader.opened.lock().unwrap().clone();
        assert_eq!(opened, ["data-claim", "root-claim"]);
        assert_eq!((view.disks().len(), view.instance(), view.disks()[0].checkpointed()), (2, None, false));
        view.confirm().await.unwrap();
        reader.size.store(1 << 50, Ordering::SeqCst);
        assert_eq!(claimed.open(&request()).await.err().unwrap().kind(), ErrorKind::Refused);
    }

    #[tokio::test]
    async fn nothing_is_stored_of_a_vm_that_was_started_or_changed_or_written_to() {
        type Change = fn(&FakeCluster, &FakeReader);
        let changes: [Change; 4] = [
            |cluster, _| cluster.0.lock().unwrap().instance = Some(instance()),
            // Started and stopped again.
            |cluster, _| cluster.0.lock().unwrap().version = "9".into(),
            |cluster, _| cluster.0.lock().unwrap().uid = "another".into(),
            |_, reader| reader.written.store(true, Ordering::SeqCst),
        ];
        for (number, change) in changes.iter().enumerate() {
            let (cluster, reader) = (Arc::new(FakeCluster(Mutex::new(halted()))), Arc::default());
            let view = claim(&cluster, &reader).await.unwrap().open(&request()).await.unwrap();
            change(&cluster, &reader);
            assert_eq!(view.confirm().await.unwrap_err().kind(), ErrorKind::Unavailable, "{number}");
        }
        let running = VmFacts { instance: Some(instance()), ..halted() };
        let error = claim(&Arc::new(FakeCluster(Mutex::new(running))), &Arc::default()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
