//! A VM as KubeVirt makes it (raw images below overlays), its launcher pod's folder, the source, and a vault.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use remora_core::plan::Asked;
use remora_core::point::{Decision, Point, Quiesce};
use remora_core::ports::{DiskIndex, Mover, NoProgress, Patience, Progress};
use remora_core::{ByteRange, DiskName, MemoryBudget, Result, VmName};
use remora_engine::{BackupReport, BackupRequest, SPOT_CHECKS, backup};
use remora_source::kubevirt::{KubevirtOptions, KubevirtSource};
use remora_tests::{DiskSpec, Domain, DomainBuilder, Lab, MIB};
use remora_vault::{KeyFile, Secret, Vault, VaultOptions};
use tokio_util::sync::CancellationToken;

use crate::cluster::{FakeCluster, Hypervisor};
use crate::launcher::Node;

/// The disks: the volume's name, the target of the domain, the bytes.
pub(crate) const DISKS: [(&str, &str, u64); 2] = [("root-disk", "vda", 64 * MIB), ("data", "vdb", 8 * MIB)];

/// See above.
pub(crate) struct Bench {
    pub(crate) node: Arc<Node>,
    pub(crate) domain: Arc<Domain<'static>>,
    pub(crate) cluster: Arc<FakeCluster>,
    pub(crate) vault: Vault,
    pub(crate) options: KubevirtOptions,
    pub(crate) vm: VmName,
    _repository: tempfile::TempDir,
}

/// A domain whose jobs begin as KubeVirt's launcher begins them.
struct LibvirtVm {
    node: Arc<Node>,
    domain: Arc<Domain<'static>>,
    folder: PathBuf,
}

impl Hypervisor for LibvirtVm {
    fn start(&self, checkpoint: &str, since: Option<&str>) {
        let incremental = since.map(|since| format!("<incremental>{since}</incremental>")).unwrap_or_default();
        let (mut backup_disks, mut checkpoint_disks) = (String::new(), String::new());
        for (volume, target, _) in DISKS {
            let scratch = self.folder.join(format!("{checkpoint}-{volume}.qcow2"));
            write!(
                backup_disks,
                "<disk name='{target}' backup='yes' type='file' exportname='{volume}' exportbitmap='{checkpoint}'>\
                 <scratch file='{}'/></disk>",
                scratch.display()
            )
            .unwrap();
            write!(checkpoint_disks, "<disk name='{target}' checkpoint='bitmap'/>").unwrap();
        }
        let socket = self.node.short_path();
        let backup = format!(
            "<domainbackup mode='pull'>{incremental}<server transport='unix' socket='{}'/><disks>{backup_disks}</disks></domainbackup>",
            socket.display()
        );
        let checkpoint =
            format!("<domaincheckpoint><name>{checkpoint}</name><disks>{checkpoint_disks}</disks></domaincheckpoint>");
        let files = [("backup.xml", backup), ("checkpoint.xml", checkpoint)].map(|(name, text)| {
            let file = self.folder.join(name);
            fs::write(&file, text).unwrap();
            file.to_str().unwrap().to_owned()
        });
        self.domain.virsh("backup-begin", &[&files[0], &files[1]]);
        self.node.adopt(self.domain.qemu().as_raw().unsigned_abs());
        self.node.move_in();
    }

    fn stop(&self) {
        self.domain.try_virsh("domjobabort", &[]);
        fs::remove_file(self.node.nbd_socket()).ok();
        for file in fs::read_dir(&self.folder).unwrap() {
            fs::remove_file(file.unwrap().path()).ok();
        }
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (lab, name) = (Lab::shared(), format!("vm{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let disks = DISKS.map(|(_, target, size)| DiskSpec::overlay(target, size));
        let builder = disks.into_iter().fold(lab.domain(&format!("tenant_{name}")), DomainBuilder::disk);
        let domain = Arc::new(builder.paused());
        domain.write_all("vda", &[(1, 0, 3 * MIB), (2, 20 * MIB + 512, MIB)]);
        domain.write("vdb", 3, MIB, MIB);
        let node = Arc::new(Node::new());
        // The launcher's own libvirt: the lab's, under another name.
        let libvirt = node.volume("libvirt-runtime").join("virtqemud-sock");
        fs::hard_link(lab.dir().join("sockets/libvirt-sock"), libvirt).unwrap();
        node.adopt(fs::read_to_string(lab.dir().join("libvirtd.pid")).unwrap().trim().parse().unwrap());
        let hypervisor = LibvirtVm { node: Arc::clone(&node), domain: Arc::clone(&domain), folder: lab.scratch("job") };
        let vm = format!("tenant/{name}");
        let volumes = DISKS.map(|(volume, _, size)| (volume, size));
        let cluster = FakeCluster::new(&vm, &node.pod, &volumes, Box::new(hypervisor));
        let options = KubevirtOptions {
            pods: node.pods(),
            proc: node.proc(),
            start_within: Duration::from_secs(3),
            answer_within: Duration::from_mins(5),
            retirer: crate::retirer(),
        };
        let (vault, repository) = new_vault().await;
        Self { node, domain, cluster, vault, options, vm: VmName::new(vm).unwrap(), _repository: repository }
    }

    pub(crate) fn source(&self) -> KubevirtSource {
        KubevirtSource::new(Arc::clone(&self.cluster) as _, self.options.clone())
    }

    pub(crate) fn request(&self) -> BackupRequest {
        BackupRequest {
            vm: self.vm.clone(),
            disks: None,
            asked: Asked::Auto,
            quiesce: Quiesce::Preferred,
            patience: Patience::None,
            spot_checks: SPOT_CHECKS,
            memory: MemoryBudget::new(16 * MIB),
        }
    }

    pub(crate) async fn try_run(&self, request: BackupRequest, progress: Arc<dyn Progress>) -> Result<BackupReport> {
        let (source, cancel) = (self.source(), CancellationToken::new());
        let run = backup(&source, &self.vault, request, progress, cancel);
        let done = tokio::time::timeout(Duration::from_mins(10), run).await.expect("a run must end");
        assert!(!self.cluster.has_backup(), "a backup is left behind");
        done
    }

    pub(crate) async fn run(&self) -> BackupReport {
        self.try_run(self.request(), Arc::new(NoProgress)).await.unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    /// A run that fails and makes no point: the error with all causes.
    pub(crate) async fn fail(&self, asked: Asked, progress: Arc<dyn Progress>) -> remora_core::Error {
        let before = self.points().await;
        let error = self
            .try_run(BackupRequest { asked, ..self.request() }, progress)
            .await
            .map(|report| report.point.id)
            .unwrap_err();
        assert_eq!(self.points().await, before, "a failed run made a point");
        error
    }

    pub(crate) async fn points(&self) -> Vec<Point> {
        let listing = self.vault.list(None).await.unwrap();
        assert!(listing.unreadable.is_empty(), "{:?}", listing.unreadable);
        listing.points
    }

    /// All disks of the point are what QEMU holds now.
    #[track_caller]
    pub(crate) fn assert_is_now(&self, point: &Point) {
        let truths = self.domain.truths(&DISKS.map(|(_, target, _)| target));
        for ((volume, _, size), truth) in DISKS.into_iter().zip(truths) {
            let stored = self.stored(point, volume);
            assert_eq!(stored.len() as u64, size);
            assert!(stored == fs::read(truth).unwrap(), "{volume} of {} is not what QEMU holds", point.id);
        }
    }

    fn stored(&self, point: &Point, volume: &str) -> Vec<u8> {
        let (index, disk) = point.disk(&DiskName::new(volume).unwrap()).unwrap();
        let read = async {
            let reader = self.vault.open(&point.id).await.unwrap();
            let mut bytes = vec![0; disk.size as usize];
            let mut pieces = reader.pieces(DiskIndex(index), ByteRange::new(0, disk.size));
            while let Some(piece) = pieces.try_next().await.unwrap() {
                bytes[piece.at as usize..][..piece.data.len()].copy_from_slice(&piece.data);
            }
            bytes
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(read))
    }

    /// The checkpoints that the launcher's libvirt knows.
    pub(crate) fn checkpoints(&self) -> BTreeSet<String> {
        let listed = self.domain.virsh("checkpoint-list", &["--name"]);
        listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

pub(crate) fn decisions(report: &BackupReport) -> Vec<Decision> {
    report.point.disks.iter().map(|disk| disk.decision).collect()
}

/// A vault in a folder that lives as long as the second value.
pub(crate) async fn new_vault() -> (Vault, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (location, secret) = (folder.path().to_str().unwrap().parse().unwrap(), Secret::KeyFile(KeyFile::random()));
    Vault::init(&location, &secret, None).await.unwrap();
    (Vault::open(&location, &secret, VaultOptions::default()).await.unwrap(), folder)
}

/// A [`Progress`] that calls something once, when so many bytes were done.
pub(crate) struct After(std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl After {
    pub(crate) fn first_bytes(call: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self(std::sync::Mutex::new(Some(Box::new(call)))))
    }
}

impl Progress for After {
    fn expect(&self, _bytes: u64) {}

    fn advance(&self, _bytes: u64) {
        let call = self.0.lock().unwrap().take();
        if let Some(call) = call {
            tokio::task::block_in_place(call);
        }
    }
}
