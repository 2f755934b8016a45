//! On a real S3 server with Object Lock: what a thief cannot do, what is kept for longer, and what goes in the end.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::SignedDuration;
use remora_core::point::Decision;
use remora_core::ports::{Mover, NoProgress};
use remora_core::retention::Rules;
use remora_tests::S3;

use super::*;
use crate::collect::{Collected, Mode, collect};
use crate::location::Location;
use crate::manifest::HoldsName;
use crate::settings::Immutable;
use crate::store::{Access, Store};
use crate::testing::{back_up, image, read};
use crate::tests::secret;
use crate::tombstone::Numbers;
use crate::undelete::undelete_in;
use crate::upkeep::Kept;
use crate::{Status, VaultOptions};

const DAY: SignedDuration = SignedDuration::from_hours(24);

struct Bench {
    s3: S3,
    vault: Vault,
}

fn vm() -> VmName {
    VmName::new("a VM").unwrap()
}

impl Bench {
    async fn new(seconds: i64) -> Self {
        let s3 = S3::start();
        s3.locking_bucket("locking");
        Vault::init_immutable(&store(&s3), &secret(), Some(Immutable::for_seconds(seconds))).await.unwrap();
        let vault = open(&s3).await.unwrap();
        Self { s3, vault }
    }

    fn store(&self) -> &Store {
        &self.vault.0.store
    }

    fn folder(&self) -> Folder {
        self.vault.0.folder(&vm())
    }

    /// A full point and an increment that needs a part of it.
    async fn two_points(&self) -> [(PointId, Vec<u8>); 2] {
        let (full, next) = (image(0..40), image((0..3).chain(43..80)));
        let first = back_up(&self.vault, &vm(), Decision::Full, &full, &[]).await.unwrap();
        let changed: Vec<u64> = (3..40).collect();
        let second = back_up(&self.vault, &vm(), Decision::Incremental, &next, &changed).await.unwrap();
        [(first.id, full), (second.id, next)]
    }

    async fn versions(&self) -> Vec<Version> {
        self.store().versions(&Path::default()).await.unwrap()
    }

    /// The segments of the VM that are there, hidden or not, with the times until which they are kept.
    async fn segments(&self) -> BTreeMap<SegmentId, Timestamp> {
        let mut segments = BTreeMap::new();
        for version in self.store().versions(&names::segments(self.vault.0.tenant, self.folder())).await.unwrap() {
            if version.what != What::DeleteMarker {
                let id = names::segment_of(version.name.as_ref()).unwrap();
                segments.insert(id, self.store().kept_until(&version).await.unwrap().expect("it is kept"));
            }
        }
        segments
    }

    /// The segment that a point named as its own and that holds this.
    async fn own(&self, point: &PointId, holds: HoldsName) -> SegmentId {
        let entry = self.vault.0.manifest(self.folder(), point.sequence()).await.unwrap().unwrap();
        let entry = entry.manifest.into_point().unwrap();
        let own: Vec<_> = entry.segments.iter().filter(|segment| segment.holds == holds).collect();
        assert_eq!(own.len(), 1);
        SegmentId(own[0].id)
    }

    async fn now(&self) -> Timestamp {
        self.vault.0.now().await.unwrap()
    }

    /// A collection after so much time, as it sees it.
    async fn collect_after(&self, time: SignedDuration) -> Collected {
        let now = self.now().await + time;
        collect(&self.vault.0, self.folder(), Mode::Run, now, &Numbers::default()).await.unwrap().0
    }

    /// Waits until nothing of the VM is locked any more.
    async fn locks_end(&self) {
        let until = self.segments().await.into_values().max();
        while Some(self.now().await) < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Drops all points but the newest.
    async fn prune(&self) {
        self.vault.prune(None, &Rules { last: 1, ..Rules::default() }, Mode::Run).await.unwrap();
    }
}

fn store(s3: &S3) -> Store {
    let access = Access { credentials: Some(s3.credentials()), ..Access::default() };
    // A prefix that is spelled otherwise in a URL.
    let url = s3.url("locking").replace("/a/repository", "/a%20b+c/repository");
    Store::open(&url.parse::<Location>().unwrap().reached_by(access)).unwrap()
}

async fn open(s3: &S3) -> Result<Vault> {
    Vault::open_in(store(s3), &secret(), VaultOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_thief_deletes_is_still_there_and_comes_back() {
    let bench = Bench::new(86_400).await;
    let points = bench.two_points().await;
    let locks = bench.store().locks().unwrap();
    let lasting =
        bench.versions().await.into_iter().filter(|v| names::standing(v.name.as_ref()).is_some()).collect::<Vec<_>>();
    let kinds: BTreeSet<_> = lasting.iter().map(|v| v.name.parts().next().unwrap().as_ref().to_owned()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["keys", "remora.json", "settings", "t"]);
    assert!(lasting.len() >= 4 + 2 + 4, "{lasting:?}");
    // The thief has the credentials of the server's owner.
    for version in &lasting {
        locks.remove_version(&version.name, &version.id).await.unwrap_err();
        let soon = Timestamp::now() + SignedDuration::from_secs(2);
        locks.keep_until(&version.name, &version.id, soon).await.unwrap_err();
        bench.store().remove(&version.name).await.unwrap();
    }
    // Somebody else's bytes in the place of one segment.
    let segment = lasting.iter().find(|v| names::segment_of(v.name.as_ref()).is_some()).unwrap();
    bench.store().replace(&segment.name, vec![7; 100].into()).await.unwrap();
    assert_eq!(open(&bench.s3).await.err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    let told = undelete_in(bench.store(), Mode::DryRun).await.unwrap();
    assert_eq!(open(&bench.s3).await.err().map(|e| e.kind()), Some(ErrorKind::NotFound), "a dry run");
    assert_eq!(undelete_in(bench.store(), Mode::Run).await.unwrap(), told);
    assert_eq!((told.deleted.len(), told.replaced), (lasting.len() - 1, vec![segment.name.to_string()]));
    let vault = open(&bench.s3).await.unwrap();
    assert_eq!(vault.tampered().await.unwrap(), Vec::<String>::new());
    for (point, image) in &points {
        assert!(read(&vault, point).await.unwrap() == *image);
        assert_eq!(vault.verify(point, std::sync::Arc::new(NoProgress)).await.unwrap().damage, []);
    }
    assert_eq!(undelete_in(bench.store(), Mode::Run).await.unwrap(), crate::Undeleted::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_told_apart_from_what_is_gone() {
    let bench = Bench::new(86_400).await;
    let [(first, _), (second, _)] = bench.two_points().await;
    let base = bench.own(&first, HoldsName::Chunks).await;
    let name = bench.vault.0.segments(bench.folder()).generation_name(base, 0);
    bench.store().remove(&name).await.unwrap();
    let report = open(&bench.s3).await.unwrap().verify(&first, std::sync::Arc::new(NoProgress)).await.unwrap();
    assert!(!report.damage.is_empty());
    for damage in &report.damage {
        assert_eq!(damage.object, name.to_string());
        assert!(damage.why.contains("still has it"), "{}", damage.why);
    }
    assert_eq!(bench.vault.tampered().await.unwrap(), Vec::<String>::new(), "the points tell of segments");
    // A newest point that is hidden: as if there were none.
    let entry = names::manifest(bench.vault.0.tenant, bench.folder(), second.sequence());
    bench.store().remove(&entry).await.unwrap();
    assert_eq!(bench.vault.list(None).await.unwrap().points.len(), 1);
    assert_eq!(bench.vault.tampered().await.unwrap(), [entry.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn base_segments_are_kept_for_longer_while_a_point_needs_them() {
    let bench = Bench::new(1000).await;
    let [(first, _), (second, image)] = bench.two_points().await;
    let before = bench.segments().await;
    let locked = bench.vault.renew(&vm()).await.unwrap().unwrap();
    assert_eq!(bench.segments().await, before, "all of it is young");
    assert!(before.values().all(|until| *until >= locked.until));
    bench.prune().await;
    let puts = |bench: &Bench| bench.s3.requests("s3_PutObjectRetention");
    let (start, none) = (bench.now().await, puts(&bench));
    // Not yet due: half of the time is left.
    let later =
        renew(&bench.vault.0, bench.folder(), start + SignedDuration::from_secs(300), None).await.unwrap().unwrap();
    assert_eq!((later.extended, puts(&bench)), (0, none));
    let now = start + SignedDuration::from_secs(600);
    let renewed = renew(&bench.vault.0, bench.folder(), now, None).await.unwrap().unwrap();
    assert_eq!(renewed.extended as usize, puts(&bench) - none, "one request an object");
    let (extended, after) = (puts(&bench) - none, bench.segments().await);
    let target = now + SignedDuration::from_secs(1000);
    let mut kept = BTreeSet::new();
    for (point, holds) in [(&first, HoldsName::Chunks), (&second, HoldsName::Chunks), (&second, HoldsName::Nodes)] {
        let segment = bench.own(point, holds).await;
        assert!(after[&segment] >= target && before[&segment] < target, "{holds:?} of {point}");
        kept.insert(segment);
    }
    // What only the dropped point needed is left to itself.
    let left: Vec<_> = after.iter().filter(|(segment, _)| !kept.contains(*segment)).collect();
    assert_eq!(
        left,
        [(&bench.own(&first, HoldsName::Nodes).await, &before[&bench.own(&first, HoldsName::Nodes).await])]
    );
    // What opens the repository, and the entries that count: descriptor, slot, data key, settings, a point, a tombstone.
    assert_eq!(extended, kept.len() + 4 + 2);
    for version in bench.versions().await.iter().filter(|v| names::standing(v.name.as_ref()).is_some()) {
        let old = names::segment_of(version.name.as_ref()).is_some()
            || version.name == names::manifest(bench.vault.0.tenant, bench.folder(), first.sequence());
        assert!(old || bench.store().kept_until(version).await.unwrap() >= Some(target), "{}", version.name);
    }
    let again = renew(&bench.vault.0, bench.folder(), now, None).await.unwrap().unwrap();
    assert_eq!((again.until, again.extended, puts(&bench)), (renewed.until, 0, none + extended));
    assert!(read(&bench.vault, &second).await.unwrap() == image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_renews_reads_the_maps_once() {
    let bench = Bench::new(1000).await;
    bench.two_points().await;
    bench.vault.renew(&vm()).await.unwrap();
    bench.prune().await;
    let start = bench.now().await;
    let mut asked = Vec::new();
    for (seconds, extends) in [(300, false), (600, true)] {
        let before = bench.s3.requests("s3_GetObject");
        let now = start + SignedDuration::from_secs(seconds);
        let none = Numbers::default();
        let (_, reached) = collect(&bench.vault.0, bench.folder(), Mode::Run, now, &none).await.unwrap();
        let renewed = renew(&bench.vault.0, bench.folder(), now, Some(reached)).await.unwrap().unwrap();
        assert_eq!(renewed.extended > 0, extends);
        asked.push(bench.s3.requests("s3_GetObject") - before);
    }
    // The point and the tombstone.
    assert_eq!(asked[1] - asked[0], 2, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_asks_little_of_the_store_while_nothing_is_due() {
    let bench = Bench::new(86_400).await;
    let mut image = image(0..40);
    back_up(&bench.vault, &vm(), Decision::Full, &image, &[]).await.unwrap();
    bench.vault.renew(&vm()).await.unwrap();
    let count = |bench: &Bench| bench.s3.requests("s3_GetObject") + bench.s3.requests("s3_ListObjectsV2");
    let all = |bench: &Bench| {
        let about_locks = ["s3_PutObjectRetention", "s3_GetObjectRetention", "s3_ListObjectVersions"];
        about_locks.map(|operation| bench.s3.requests(operation)).iter().sum::<usize>()
    };
    for n in 0..5 {
        image[0] ^= 1;
        back_up(&bench.vault, &vm(), Decision::Incremental, &image, &[0]).await.unwrap();
        let (before, locks) = (count(&bench), all(&bench));
        assert_eq!(bench.vault.renew(&vm()).await.unwrap().unwrap().extended, 0, "{n}");
        assert_eq!((count(&bench) - before, all(&bench) - locks), (3, 0), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_locked_waits_and_then_goes_for_good() {
    let bench = Bench::new(5 * 86_400).await;
    let [(first, _), (second, image)] = bench.two_points().await;
    let nodes = bench.own(&first, HoldsName::Nodes).await;
    bench.prune().await;
    let later = bench.collect_after(DAY * 2).await;
    assert_eq!((later.later.segments, later.locked.segments, later.removed.segments), (1, 0, 0), "{later:?}");
    // Dropped long enough ago, and locked for another day.
    for _ in 0..2 {
        let locked = bench.collect_after(DAY * 4).await;
        assert_eq!((locked.locked.segments, locked.removed.segments), (1, 0), "{locked:?}");
        assert!(locked.locked.bytes > 0 && locked.locked_until > Some(bench.now().await + DAY * 4), "{locked:?}");
        assert!(bench.segments().await.contains_key(&nodes));
    }
    assert!(bench.versions().await.iter().all(|v| v.what != What::DeleteMarker || !v.name.as_ref().contains("/s/")));
    // The first full was rewritten, for most of it is not needed; the one before stays as long as it is locked.
    let names: Vec<_> = bench.versions().await.into_iter().map(|v| v.name.to_string()).collect();
    let base = bench.vault.0.segments(bench.folder()).generation_name(bench.own(&second, HoldsName::Nodes).await, 0);
    assert!(names.contains(&base.to_string()));
    assert!(read(&open(&bench.s3).await.unwrap(), &second).await.unwrap() == image);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_locked_any_more_is_removed_with_all_its_versions() {
    // The server takes no lock that is over when it hears of it, which on a busy machine is some seconds later.
    let bench = Bench::new(20).await;
    let [(first, _), (second, image)] = bench.two_points().await;
    let (base, nodes) = (bench.own(&first, HoldsName::Chunks).await, bench.own(&first, HoldsName::Nodes).await);
    bench.prune().await;
    // The first one stores the base again with what is needed of it, the second removes the one before.
    for _ in 0..2 {
        bench.locks_end().await;
        bench.collect_after(DAY * 4).await;
    }
    let names: Vec<_> = bench.versions().await.into_iter().map(|v| v.name).collect();
    for gone in [base, nodes] {
        let name = bench.vault.0.segments(bench.folder()).generation_name(gone, 0);
        assert!(!names.contains(&name), "{name}");
    }
    // Nothing of the sessions either, not even a mark; and one version of what is stored again and again.
    assert!(!names.iter().any(|name| name.as_ref().contains("/w/")), "{names:?}");
    assert!(read(&open(&bench.s3).await.unwrap(), &second).await.unwrap() == image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_point_is_kept_until_its_time_and_giving_it_free_does_not_shorten_that() {
    let bench = Bench::new(1000).await;
    let [(first, _), (second, _)] = bench.two_points().await;
    let before = bench.segments().await;
    let until: Timestamp = "2033-01-01T00:00:00Z".parse().unwrap();
    bench.vault.hold(&first, Kept::Until(until)).await.unwrap();
    let after = bench.segments().await;
    for holds in [HoldsName::Chunks, HoldsName::Nodes] {
        assert_eq!(after[&bench.own(&first, holds).await], until);
        let other = bench.own(&second, holds).await;
        assert_eq!(after[&other], before[&other]);
    }
    bench.vault.hold(&first, Kept::AsRulesSay).await.unwrap();
    assert_eq!(bench.segments().await, after);
    // A renewal that comes later does not stumble over the longer time.
    let now = bench.now().await + SignedDuration::from_secs(900);
    assert!(renew(&bench.vault.0, bench.folder(), now, None).await.unwrap().unwrap().extended > 0);
    assert_eq!(bench.segments().await[&bench.own(&first, HoldsName::Chunks).await], until);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_setting_can_be_raised_and_lowered_for_what_comes() {
    let bench = Bench::new(86_400).await;
    bench.two_points().await;
    bench.vault.renew(&vm()).await.unwrap();
    let days = |status: Status| status.immutable_days;
    assert_eq!(days(bench.vault.status().await.unwrap()), Some(1));
    let old = bench.segments().await;
    bench.vault.set_immutable(Some("10d".parse().unwrap())).await.unwrap();
    let vault = open(&bench.s3).await.unwrap();
    assert_eq!(days(vault.status().await.unwrap()), Some(10));
    // The process that knows the old setting is told before it writes what is kept for too short a time.
    back_up(&vault, &vm(), Decision::Reread, &image(0..1), &[]).await.unwrap();
    let told = back_up(&bench.vault, &vm(), Decision::Reread, &image(0..2), &[]).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Busy, "{}", told.chain());
    assert!(vault.renew(&vm()).await.unwrap().unwrap().extended > 0, "all is kept for as long as is set now");
    let now = bench.now().await;
    let raised = bench.segments().await;
    for segment in old.keys() {
        assert!(raised[segment] >= now + DAY * 9, "{segment:?}");
    }
    vault.set_immutable(Some("2d".parse().unwrap())).await.unwrap();
    let vault = open(&bench.s3).await.unwrap();
    back_up(&vault, &vm(), Decision::Reread, &image(0..3), &[]).await.unwrap();
    vault.renew(&vm()).await.unwrap();
    let lowered = bench.segments().await;
    assert!(raised.iter().all(|(segment, until)| lowered[segment] == *until));
    assert!(lowered.iter().any(|(segment, until)| !raised.contains_key(segment) && *until < now + DAY * 3));
    vault.set_immutable(None).await.unwrap();
    let vault = open(&bench.s3).await.unwrap();
    assert_eq!((days(vault.status().await.unwrap()), vault.renew(&vm()).await.unwrap()), (None, None));
    back_up(&vault, &vm(), Decision::Reread, &image(0..4), &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_hidden_is_missed_before_anything_is_written() {
    let bench = Bench::new(86_400).await;
    let [(first, image), _] = bench.two_points().await;
    let id = bench.vault.0.descriptor.id;
    bench.store().remove(&names::setting(id, 1)).await.unwrap();
    let vault = open(&bench.s3).await.unwrap();
    assert!(read(&vault, &first).await.unwrap() == image, "it restores");
    for told in [
        back_up(&vault, &vm(), Decision::Reread, &image, &[]).await.map(drop),
        vault.hold(&first, Kept::Until(Timestamp::MAX)).await,
        vault.prune(None, &Rules { last: 1, ..Rules::default() }, Mode::Run).await.map(drop),
    ] {
        let told = told.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Damaged, "{}", told.chain());
        assert!(told.advice().unwrap().contains("repo undelete"));
    }
    // It is said again, above what the entries name.
    vault.set_immutable(Some("3d".parse().unwrap())).await.unwrap();
    let vault = open(&bench.s3).await.unwrap();
    assert_eq!(vault.0.settings.number, 2);
    back_up(&vault, &vm(), Decision::Reread, &image, &[]).await.unwrap();
    // Bytes of somebody else's in its place are no settings.
    let forged = names::setting(id, 3);
    bench.store().replace(&forged, vec![1; 100].into()).await.unwrap();
    let vault = open(&bench.s3).await.unwrap();
    assert_eq!(vault.0.settings.immutable.map(Immutable::days), Some(3));
    assert_eq!(back_up(&vault, &vm(), Decision::Reread, &image, &[]).await.unwrap_err().kind(), ErrorKind::Damaged);
    vault.set_immutable(Some("4d".parse().unwrap())).await.unwrap();
    let vault = open(&bench.s3).await.unwrap();
    assert_eq!((vault.0.settings.number, vault.0.settings.immutable.map(Immutable::days)), (4, Some(4)));
    back_up(&vault, &vm(), Decision::Reread, &image, &[]).await.unwrap();
}
