//! In an immutable repository each command is broken off at each of its operations, questions about locks included. The
//! same command then succeeds, nothing that is locked was touched, all that was promised is locked, every point reads
//! back, and once the locks have ended nothing but what is needed is left.

use std::time::Duration;

use remora_core::point::Decision;
use remora_core::ports::{DiskReads, Mover};
use remora_core::retention::Rules;

use super::*;
use crate::collect::Mode;
use crate::settings::Immutable;
use crate::testing::{Fault, LockingStore, assert_only_what_is_needed, back_up, begin, image, read, write};
use crate::tests::secret;
use crate::upkeep::Kept;
use crate::{Vault, VaultOptions};

const DAY: Duration = Duration::from_hours(24);
const DAYS: i64 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Backup,
    Set,
    Hold,
    /// Finds locked segments, and renews the locks of others.
    Collect,
    /// Removes segments whose locks have ended.
    CollectLate,
}

impl Command {
    const ALL: [Self; 5] = [Self::Backup, Self::Set, Self::Hold, Self::Collect, Self::CollectLate];

    async fn run(self, vault: &Vault, kept: &PointId) -> Result<()> {
        match self {
            Self::Backup => {
                back_up(vault, &vm(), Decision::Reread, &newest_image(), &[]).await?;
                vault.renew(&vm()).await.map(drop)
            }
            Self::Set => vault.set_immutable(Some(Immutable::for_seconds(20 * DAYS))).await,
            Self::Hold => vault.hold(kept, Kept::Until("2099-01-01T00:00:00Z".parse().unwrap())).await,
            Self::Collect | Self::CollectLate => collect(vault).await,
        }
    }
}

fn vm() -> VmName {
    VmName::new("a VM").unwrap()
}

fn newest_image() -> Vec<u8> {
    image((0..3).chain(163..176))
}

async fn collect(vault: &Vault) -> Result<()> {
    vault.remove_leftovers(Mode::Run).await?;
    let (_, failed) = vault.collect(None, Mode::Run, &[]).await?;
    failed.into_iter().next().map_or(Ok(()), Err)
}

async fn open(store: &LockingStore) -> Vault {
    Vault::open_in(store.store(), &secret(), VaultOptions::default()).await.unwrap()
}

/// A point that is kept, and one before it that was dropped: of its segments the kept one needs a little.
async fn prepared(command: Command) -> (LockingStore, PointId, Vec<u8>) {
    let store = LockingStore::new();
    Vault::init_immutable(&store.store(), &secret(), Some(Immutable::for_seconds(10 * DAYS))).await.unwrap();
    let vault = open(&store).await;
    back_up(&vault, &vm(), Decision::Full, &image(0..20), &[]).await.unwrap();
    let image = image((0..3).chain(43..60));
    let changed: Vec<u64> = (3..20).collect();
    let point = back_up(&vault, &vm(), Decision::Incremental, &image, &changed).await.unwrap();
    vault.renew(&vm()).await.unwrap();
    match command {
        Command::Collect | Command::CollectLate => {
            vault.prune(None, &Rules { last: 1, ..Rules::default() }, Mode::Run).await.unwrap();
            store.objects.advance(if command == Command::Collect { 4 * DAY } else { 12 * DAY });
        }
        _ => {}
    }
    (store, point.id, image)
}

/// What the record of the VM says is true.
async fn assert_promise(store: &LockingStore, context: &str) {
    let vault = open(store).await;
    let folder = vault.0.folder(&vm());
    let Some(record) = Record::read(&vault.0, folder).await.unwrap() else { return };
    let sequence = vault.0.sequence(folder).await.unwrap();
    if record.settings != vault.0.settings.number || sequence.settings != record.settings {
        return;
    }
    let mut needs = Needs::of(&vault.0, folder, &sequence, sequence.counting()).await.unwrap();
    for version in needs.versions(&vault.0, folder, None).await.unwrap() {
        assert!(store.kept(&version.name) >= Some(record.until), "{context}: {} is not locked", version.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_an_immutable_repository_can_be_broken_off_at_every_operation() {
    for command in Command::ALL {
        let (store, point, image) = prepared(command).await;
        let vault = open(&store).await;
        let counted = store.fork();
        counted.objects.inject(usize::MAX, Fault::Fails);
        command.run(&counted.over(&vault), &point).await.unwrap();
        let operations = counted.objects.operations();
        assert!(operations > 5, "{command:?} has {operations} operations");
        for n in 0..operations {
            for fault in Fault::ALL {
                let context = format!("{command:?}, operation {n}: {fault:?}");
                let broken = store.fork();
                broken.objects.inject(n, fault);
                broken.objects.until_death(command.run(&broken.over(&vault), &point)).await;
                let store = broken.fork();
                check(&store, &point, &image, &context).await;
                let again = command.run(&open(&store).await, &point).await;
                again.unwrap_or_else(|e| panic!("{context}: the same command again: {}", e.chain()));
                check(&store, &point, &image, &context).await;
                for days in [4, 30, 30] {
                    store.objects.advance(days * DAY);
                    collect(&open(&store).await).await.unwrap_or_else(|e| panic!("{context}: {}", e.chain()));
                }
                check(&store, &point, &image, &context).await;
                assert_only_what_is_needed(&open(&store).await, &store.objects, &context).await;
            }
        }
    }
}

async fn check(store: &LockingStore, point: &PointId, image: &[u8], context: &str) {
    store.assert_locks_held(context).await;
    assert_promise(store, context).await;
    let vault = open(store).await;
    for listed in vault.list(None).await.unwrap().points {
        let wanted = match listed.id.sequence().cmp(&point.sequence()) {
            std::cmp::Ordering::Less => crate::testing::image(0..20),
            std::cmp::Ordering::Equal => image.to_vec(),
            std::cmp::Ordering::Greater => newest_image(),
        };
        assert!(read(&vault, &listed.id).await.unwrap() == wanted, "{context}: {}", listed.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_of_an_immutable_repository_can_be_broken_off_at_every_operation() {
    let init = async |store: &LockingStore| {
        Vault::init_immutable(&store.store(), &secret(), Some(Immutable::for_seconds(10 * DAYS))).await
    };
    let counted = LockingStore::new();
    init(&counted).await.unwrap();
    for n in 0..counted.objects.operations() {
        for fault in Fault::ALL {
            let broken = LockingStore::new();
            broken.objects.inject(n, fault);
            broken.objects.until_death(init(&broken)).await;
            let store = broken.fork();
            match init(&store).await {
                Err(error) if error.kind() == ErrorKind::Exists => {}
                again => drop(again.unwrap_or_else(|e| panic!("operation {n}, {fault:?}: {}", e.chain()))),
            }
            let vault = open(&store).await;
            assert_eq!(vault.status().await.unwrap().immutable_days, Some(10), "operation {n}, {fault:?}");
            for version in of_repository(&vault.0).await.unwrap() {
                assert!(store.kept(&version.name).is_some(), "operation {n}, {fault:?}: {}", version.name);
            }
            store.assert_locks_held("init").await;
        }
    }
}

/// It is of no point yet, and was stored before the renewal: so it is kept for less long than what is stored later.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_promises_nothing_of_what_a_running_backup_has_stored() {
    let (store, ..) = prepared(Command::Backup).await;
    let vault = open(&store).await;
    let folder = vault.0.folder(&vm());
    let image = newest_image();
    let writer = begin(&vault, &vm(), Decision::Reread, image.len(), Timestamp::UNIX_EPOCH).await.unwrap();
    write(writer.as_ref(), Decision::Reread, &image, &[]).await.unwrap();
    writer.settle().await.unwrap();
    store.objects.advance(4 * DAY);
    // Its heartbeats.
    for session in vault.0.store.listed(&names::sessions(vault.0.tenant, folder)).await.unwrap() {
        let id = names::SessionId::parse(&session.name).unwrap();
        let session = vault.0.session(folder, id).await.unwrap().unwrap();
        session.store_again(&vault.0, id).await.unwrap();
    }
    let record = async || Record::read(&vault.0, folder).await.unwrap().unwrap().until;
    let before = record().await;
    collect(&open(&store).await).await.unwrap();
    writer.commit(&[DiskReads::default()]).await.unwrap();
    assert_promise(&store, "the backup has ended").await;
    collect(&open(&store).await).await.unwrap();
    assert_promise(&store, "it is renewed").await;
    assert!(record().await > before);
}
