//! Movers of points in their own form, used by whole runs: what they store restores, and what they only say they store is found
//! before anybody is told of a point.

use std::fs;
use std::sync::Arc;

use futures::TryStreamExt;
use jiff::Timestamp;
use remora_core::plan::Asked;
use remora_core::point::{Decision, Quiesce};
use remora_core::ports::{DiskIndex, LineageBreak, Mover, NoProgress, Patience};
use remora_core::retention::Rules;
use remora_core::testing::FakeHost;
use remora_core::{BLOCK_SIZE, ByteRange, DiskName, ErrorKind, MemoryBudget, PIECE_SIZE, PointId, Result, VmName};
use remora_engine::{BackupReport, BackupRequest, SPOT_CHECKS, backup};
use remora_plugins::movers::{Dropping, VolumeMover};
use remora_tests::Appliance;
use remora_tests::appliance::{Lie, TOKEN};
use tokio_util::sync::CancellationToken;

use super::{Folder, example};

pub(crate) const VDA: u64 = 6 * BLOCK_SIZE + 512;
pub(crate) const VDB: u64 = 2 * PIECE_SIZE + 9 * BLOCK_SIZE;

pub(crate) fn noise(len: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// A host with a machine, and an appliance behind a mover.
pub(crate) struct Lab {
    pub(crate) host: FakeHost,
    pub(crate) appliance: Appliance,
    pub(crate) folder: Folder,
    pub(crate) mover: VolumeMover,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with("", "volume: {disksInTheClear: ['vm*']}")
    }

    /// Another host with a machine of the same name, and its own mover to the same appliance.
    pub(crate) fn beside(other: &Self) -> Self {
        Self::of(
            other.appliance.clone(),
            &fs::read(example("appliance")).unwrap(),
            "",
            "volume: {disksInTheClear: ['vm*']}",
        )
    }

    fn with(settings: &str, volume: &str) -> Self {
        Self::of(Appliance::start(), &fs::read(example("appliance")).unwrap(), settings, volume)
    }

    /// Behind another component than the example.
    pub(crate) fn of_component(component: &[u8]) -> Self {
        Self::of(Appliance::start(), component, "", "volume: {disksInTheClear: ['vm*']}")
    }

    fn of(appliance: Appliance, component: &[u8], settings: &str, volume: &str) -> Self {
        let host = FakeHost::new("vm 1");
        host.attach("vda", noise(VDA, 1), true);
        let mut vdb = noise(VDB, 2);
        vdb[2 * BLOCK_SIZE as usize..5 * BLOCK_SIZE as usize].fill(0);
        host.attach("vdb", vdb, true);
        let folder = Folder::new();
        fs::write(folder.path().join("token"), TOKEN).unwrap();
        let server = appliance.address();
        let lines = format!(
            "settings: {{endpoint: 'http://{server}'{settings}}}\nsecrets: {{token: token}}\n\
             network: {{allow: ['{server}'], addresses: [127.0.0.1], plainHttp: true}}\n{volume}\n"
        );
        folder.write("array", component, &lines);
        let mover = folder.movers.open_points("array").unwrap_or_else(|e| panic!("{}", e.chain()));
        Self { host, appliance, folder, mover }
    }

    pub(crate) async fn try_backup(&self, asked: Asked) -> Result<BackupReport> {
        self.try_backup_with(asked, SPOT_CHECKS).await
    }

    async fn try_backup_with(&self, asked: Asked, spot_checks: usize) -> Result<BackupReport> {
        self.try_backup_by(&self.mover, asked, spot_checks).await
    }

    /// By something around the mover.
    pub(crate) async fn try_backup_by(
        &self,
        mover: &dyn Mover,
        asked: Asked,
        spot_checks: usize,
    ) -> Result<BackupReport> {
        let request = BackupRequest {
            vm: VmName::new("vm 1").unwrap(),
            disks: None,
            asked,
            quiesce: Quiesce::Preferred,
            patience: Patience::None,
            spot_checks,
            memory: MemoryBudget::new(8 * PIECE_SIZE),
        };
        let cancel = CancellationToken::new();
        backup(&self.host, mover, request, Arc::new(NoProgress), cancel).await
    }

    pub(crate) async fn backup(&self) -> BackupReport {
        self.try_backup(Asked::Auto).await.unwrap_or_else(|e| panic!("{}", e.chain()))
    }

    pub(crate) async fn points(&self) -> Vec<PointId> {
        self.mover.list(None).await.unwrap().points.into_iter().map(|point| point.id).collect()
    }

    pub(crate) fn change_something(&self, seed: u64) {
        self.host.write(0, 3 * BLOCK_SIZE + 100, &noise(1_000, seed));
        self.host.write(1, PIECE_SIZE - 10, &noise(20, seed));
        self.host.write(1, 0, &vec![0; BLOCK_SIZE as usize]);
    }

    pub(crate) fn disks(&self) -> [Arc<Vec<u8>>; 2] {
        [0, 1].map(|n| self.host.bytes(n))
    }
}

/// A disk of a point, read as a restore reads it.
pub(crate) async fn restored(mover: &VolumeMover, point: &PointId, disk: usize) -> Vec<u8> {
    let reader = mover.open(point).await.unwrap();
    let size = reader.point().disks[disk].size;
    let mut bytes = vec![0; size as usize];
    let mut pieces = reader.pieces(DiskIndex(disk), ByteRange::new(0, size));
    while let Some(piece) = pieces.try_next().await.unwrap() {
        bytes[piece.at as usize..piece.at as usize + piece.data.len()].copy_from_slice(&piece.data);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_store_through_a_mover_restores_byte_for_byte() {
    let lab = Lab::new();
    let mut expected = Vec::new();
    for (n, decision) in [Decision::Full, Decision::Incremental, Decision::Incremental].into_iter().enumerate() {
        let report = lab.backup().await;
        assert_eq!(report.point.decision, decision, "{:?}", report.notes);
        assert_eq!(report.point.id.sequence(), n as u64 + 1);
        expected.push((report.point, lab.disks()));
        lab.change_something(10 + n as u64);
    }
    // Another process knows all that one did.
    let again = lab.folder.movers.open_points("array").unwrap();
    let listed = again.list(None).await.unwrap();
    assert_eq!(listed.points, expected.iter().map(|(point, _)| point.clone()).collect::<Vec<_>>());
    assert!(listed.unreadable.is_empty() && listed.sampled.is_empty(), "{listed:?}");
    for (point, disks) in &expected {
        for (n, bytes) in disks.iter().enumerate() {
            assert!(restored(&again, &point.id, n).await == **bytes, "disk {n} of {}", point.id);
        }
    }
    assert!(lab.appliance.seen("unchanged") > 0, "increments were written whole");
    // Zeros crossed no wire.
    let (vda, vdb) = (&expected[0].0.disks[0], &expected[0].0.disks[1]);
    assert_eq!((vda.stored, vdb.stored), (VDA, VDB - 3 * BLOCK_SIZE));
    let differing = again.diff(&expected[0].0.id, &expected[1].0.id, &DiskName::new("vdb").unwrap()).await.unwrap();
    assert_eq!(
        differing,
        [ByteRange::new(0, BLOCK_SIZE), ByteRange::new(PIECE_SIZE - BLOCK_SIZE, PIECE_SIZE + BLOCK_SIZE)]
    );
    let report = again.verify(&expected[2].0.id, Arc::new(NoProgress)).await.unwrap();
    assert!(report.damage.is_empty() && report.checked > VDA, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_makes_no_differences_is_given_whole_points() {
    let lab = Lab::with(", clones: false", "volume: {disksInTheClear: ['vm 1']}");
    lab.backup().await;
    lab.change_something(5);
    let report = lab.backup().await;
    assert_eq!((report.point.decision, lab.appliance.seen("unchanged")), (Decision::Incremental, 0));
    for (n, bytes) in lab.disks().iter().enumerate() {
        assert!(restored(&lab.mover, &report.point.id, n).await == **bytes, "disk {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mover_changed_is_not_copied_into_the_next_point() {
    let lab = Lab::with(", clones: false", "volume: {disksInTheClear: ['vm 1']}");
    let first = lab.backup().await.point.id;
    lab.host.write(1, 0, &noise(1_000, 5));
    lab.appliance.rot(&lab.appliance.disks_of(&first.to_string()), 0, 5);
    let error = lab.try_backup_with(Asked::Auto, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{}", error.chain());
    assert!(error.chain().contains("disk 0") && error.chain().contains("copied from the parent"), "{}", error.chain());
    assert_eq!(lab.points().await, [first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_lies_is_found_before_a_point_is_listed() {
    for (lie, said) in [
        (Lie::ForgetWrites, "other bytes are there"),
        (Lie::ChangeAByte, "other bytes are there"),
        (Lie::ChangeTheEnd, "other bytes are there"),
        (Lie::HidePoints, "does not list it"),
        (Lie::CallItZero, "other bytes are there"),
        (Lie::ForgetZeros, "zeros were stored, and other bytes are there"),
        (Lie::ChangeDescriptions, "does not give it back"),
    ] {
        let lab = Lab::new();
        lab.appliance.lie(lie);
        let error = lab.try_backup(Asked::Auto).await.expect_err(&format!("{lie:?}"));
        assert_eq!(error.kind(), ErrorKind::Damaged, "{lie:?}: {}", error.chain());
        assert!(error.chain().contains(said), "{lie:?}: {}", error.chain());
        lab.appliance.lie(Lie::None);
        assert_eq!(lab.points().await, [], "{lie:?}");
        // Neither is the next run spoiled by it.
        let report = lab.backup().await;
        assert_eq!(report.point.decision, Decision::Full, "{lie:?}");
        assert!(restored(&lab.mover, &report.point.id, 1).await == *lab.host.bytes(1), "{lie:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_without_what_did_not_change_is_found() {
    let lab = Lab::new();
    let full = lab.backup().await.point.id;
    lab.change_something(3);
    lab.appliance.lie(Lie::ForgetParents);
    let error = lab.try_backup(Asked::Auto).await.unwrap_err();
    assert!(error.chain().contains("to be as in the parent, and are not"), "{}", error.chain());
    assert_eq!(lab.points().await, [full]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_back_in_part_is_listed_as_sampled() {
    let lab = Lab::with("", "volume: {disksInTheClear: [vm 1], readBack: 50%}");
    let point = lab.backup().await.point.id;
    assert_eq!(lab.mover.list(None).await.unwrap().sampled, [point]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_point_has_from_a_sampled_one_makes_it_a_sampled_one_until_all_is_stored_again() {
    for settings in ["", ", clones: false"] {
        let mut lab = Lab::with(settings, "volume: {disksInTheClear: [vm 1], readBack: 50%}");
        let sampled = lab.backup().await.point.id;
        // From now on all that is stored is read back.
        let document = lab.folder.path().join("array.yaml");
        let text = fs::read_to_string(&document).unwrap().replace("readBack: 50%", "readBack: full");
        fs::write(&document, text).unwrap();
        lab.mover = lab.folder.movers.open_points("array").unwrap();
        lab.change_something(1);
        let child = lab.backup().await.point;
        assert_eq!(child.decision, Decision::Incremental);
        lab.change_something(2);
        let grandchild = lab.backup().await.point.id;
        assert_eq!(lab.mover.list(None).await.unwrap().sampled, [sampled, child.id, grandchild], "{settings}");
        let reread = lab.try_backup(Asked::Reread).await.unwrap().point.id;
        lab.change_something(3);
        let after = lab.backup().await.point.id;
        let listed = lab.mover.list(None).await.unwrap();
        assert!(!listed.sampled.contains(&reread) && !listed.sampled.contains(&after), "{settings}: {listed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_sees_no_disk_that_it_was_not_granted() {
    let lab = Lab::with("", "volume: {disksInTheClear: [vm, 'other*']}");
    let error = lab.try_backup(Asked::Auto).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
    assert!(error.advice().unwrap().contains("disksInTheClear"), "{:?}", error.advice());
    assert_eq!((lab.appliance.points(), lab.appliance.seen("write")), (Vec::new(), 0));
    let error = lab.mover.list(Some(&VmName::new("vm 1").unwrap())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_says_which_kind_it_is_and_the_component_must_be_that() {
    let folder = Folder::new();
    fs::write(folder.path().join("token"), TOKEN).unwrap();
    let appliance = fs::read(example("appliance")).unwrap();
    folder.write("ungranted", &appliance, "secrets: {token: token}\n");
    let error = folder.movers.open_points("ungranted").unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.advice().unwrap().contains("disksInTheClear"), "{error:?}");
    let error = folder.movers.open("ungranted", "").unwrap().probe().await.unwrap_err();
    assert!(error.chain().contains("does not export remora:mover/objects@0.1.0"), "{}", error.chain());
    folder.write("plain", &fs::read(example("plain")).unwrap(), "volume: {disksInTheClear: ['*']}\n");
    let error = folder.movers.open("plain", "").unwrap_err();
    assert!(error.chain().contains("no objects"), "{}", error.chain());
    let error = folder.movers.open_points("plain").unwrap().list(None).await.unwrap_err();
    assert!(error.chain().contains("does not export remora:mover/volume@0.1.0"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_whose_disks_are_gone_is_told_and_hides_no_other_one() {
    let lab = Lab::new();
    let first = lab.backup().await.point;
    lab.backup().await;
    lab.appliance.remove(&lab.appliance.disks_of(&first.id.to_string()));
    let listed = lab.mover.list(None).await.unwrap();
    assert_eq!(listed.points.len(), 1);
    assert!(listed.unreadable[0].0 == first.id && listed.unreadable[0].1.kind() == ErrorKind::Damaged, "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_of_lineage_is_kept_by_the_mover_and_makes_the_next_run_reread() {
    let lab = Lab::new();
    let vm = VmName::new("vm 1").unwrap();
    lab.backup().await;
    let broken = LineageBreak { time: Timestamp::now(), path: "/fake/vda".into(), reason: "a restore".into() };
    lab.mover.record_break(&vm, broken.clone()).await.unwrap();
    assert_eq!(lab.folder.movers.open_points("array").unwrap().history(&vm).await.unwrap().breaks, [broken]);
    let report = lab.backup().await;
    assert_eq!(report.point.decision, Decision::Reread, "{}", report.point.reason);
    assert_eq!(lab.mover.history(&vm).await.unwrap().breaks, []);
    assert_eq!(lab.backup().await.point.decision, Decision::Incremental);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_later_is_noticed_by_a_restore_and_stored_again_by_a_reread() {
    let lab = Lab::new();
    let first = lab.backup().await.point.id;
    // One disk stays as it is, so that the next point has it from this one.
    lab.host.write(1, 0, &noise(1_000, 9));
    let second = lab.backup().await.point.id;
    for point in [&first, &second] {
        lab.appliance.rot(&lab.appliance.disks_of(&point.to_string()), 0, 5);
        let reader = lab.mover.open(point).await.unwrap();
        let read = reader.pieces(DiskIndex(0), ByteRange::new(0, VDA)).try_collect::<Vec<_>>().await;
        let error = read.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{}", error.chain());
        assert!(error.chain().contains("disk vda") && error.chain().contains("than were stored"), "{}", error.chain());
        let report = lab.mover.verify(point, Arc::new(NoProgress)).await.unwrap();
        assert_eq!((report.damage.len(), report.damage[0].disk.as_str()), (1, "vda"), "{report:?}");
        assert!(restored(&lab.mover, point, 1).await.len() as u64 == VDB);
    }
    let third = lab.try_backup(Asked::Reread).await.unwrap().point.id;
    assert!(restored(&lab.mover, &third, 0).await == *lab.host.bytes(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_points_is_verified_by_one_listing_and_one_that_is_dropped_meanwhile_is_not_damaged() {
    let lab = Lab::new();
    for seed in 1..=4 {
        lab.backup().await;
        lab.change_something(seed);
    }
    let before = lab.appliance.seen("listing");
    let verifier = lab.mover.verifier(None).await.unwrap();
    let points: Vec<_> = verifier.listing().points.into_iter().map(|point| point.id).collect();
    assert_eq!(points.len(), 4);
    for point in &points {
        assert_eq!(verifier.find(point).unwrap().id, *point);
        assert!(verifier.point(point, &NoProgress).await.unwrap().damage.is_empty(), "{point}");
    }
    assert_eq!(lab.appliance.seen("listing"), before + 1);
    // The array changes one, and then another host drops it.
    lab.appliance.rot(&lab.appliance.disks_of(&points[0].to_string()), 0, 5);
    assert_eq!(verifier.point(&points[0], &NoProgress).await.unwrap().damage.len(), 1);
    let rules = Rules { last: 3, ..Rules::default() };
    lab.folder.movers.open_points("array").unwrap().prune(None, &rules, Dropping::Run).await.unwrap();
    let error = verifier.point(&points[0], &NoProgress).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
    assert!(verifier.point(&points[3], &NoProgress).await.unwrap().damage.is_empty());
}
