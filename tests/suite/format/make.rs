//! Makes a small repository with what the format knows, and keeps what each point must restore to. Not in it: settings and
//! locks, which only a bucket has (`stores/locked.rs`), and parts of chunks, which only a repair makes (`hostile/repair.rs`);
//! the second reader reads those there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use remora_core::point::Decision;
use remora_core::ports::{Damage, DiskIndex, DiskReads, Effect, LineageBreak, Mover};
use remora_core::retention::Rules;
use remora_core::testing::{new_disk, new_point};
use remora_core::{BLOCK_SIZE, ByteRange, DiskName, PIECE_SIZE, VmName};
use remora_tests::remora::{KEY_FILE, PASSPHRASE};
use remora_tests::{age, content};
use remora_vault::{Kept, KeyFile, Keyring, Mode, Passphrase, Secret, Tenant, Vault, VaultOptions};

/// For each point and disk (`<point>/<disk>`), the disk's BLAKE3 in hexadecimal.
pub(crate) type Truth = BTreeMap<String, String>;

/// The disks' sizes: one of two leaves with a short last block, one of less than two blocks.
const SIZES: [(&str, usize); 2] = [("vda", 66 * 1024 * 1024 + 1000), ("vdb", 100_000)];

/// Makes the repository in `folder`, which must not exist.
pub(crate) async fn make(folder: &Path) -> Truth {
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    let location = folder.to_str().unwrap().parse().unwrap();
    let passphrase = Secret::Passphrase(Passphrase::new(PASSPHRASE.as_bytes()));
    Vault::init(&location, &passphrase, None).await.unwrap();
    let keyring = Keyring::open(&location, &passphrase).await.unwrap();
    keyring.add(&Secret::KeyFile(KeyFile::new(&KEY_FILE).unwrap())).await.unwrap();
    let removed = keyring.add(&Secret::KeyFile(KeyFile::random())).await.unwrap();
    keyring.remove(removed).await.unwrap();
    let vault = keyring.vault(&Tenant::default(), VaultOptions::default()).await.unwrap();
    let mut truth = Truth::new();
    for name in ["web", "a VM\nwith a name of ünusual bytes"] {
        let mut vm = Vm::new(&vault, name);
        vm.change(0, 40);
        vm.store(Decision::Full, &mut truth).await;
        vm.change(2, 6);
        vm.store(Decision::Incremental, &mut truth).await;
        let broken = LineageBreak { time: Timestamp::UNIX_EPOCH, path: "/d".into(), reason: "a restore".into() };
        vault.record_break(&vm.name, broken).await.unwrap();
        vm.change(3, 5);
        vm.store(Decision::Reread, &mut truth).await;
        vm.hold_the_first_and_drop_the_second(&mut truth).await;
        vm.change(4, 2);
        vm.store(Decision::Incremental, &mut truth).await;
        vm.note_a_segment_as_lost(folder).await;
        vm.change(5, 2);
        vm.store(Decision::Reread, &mut truth).await;
    }
    age(folder);
    let (collected, failed) = vault.collect(None, Mode::Run, &[]).await.unwrap();
    assert!(collected.len() == 2 && failed.is_empty(), "{collected:?}, {failed:?}");
    assert!(collected.iter().all(|vm| vm.rewritten.segments > 0), "{collected:?}");
    truth
}

struct Vm<'a> {
    vault: &'a Vault,
    name: VmName,
    disks: Vec<Vec<u8>>,
    dirty: Vec<Vec<u64>>,
}

impl<'a> Vm<'a> {
    fn new(vault: &'a Vault, name: &str) -> Self {
        let disks: Vec<_> = SIZES.iter().map(|(_, size)| vec![0; *size]).collect();
        Self { vault, name: VmName::new(name).unwrap(), dirty: vec![Vec::new(); disks.len()], disks }
    }

    /// Writes a few runs of blocks on each disk: text, noise, or zeros over what was there.
    fn change(&mut self, round: u64, count: usize) {
        for (number, (disk, dirty)) in self.disks.iter_mut().zip(&mut self.dirty).enumerate() {
            // Two rounds each write the same places: what the first of them stored is soon mostly dead.
            let mut dice = content::Dice::new((round / 2) << 8 | number as u64);
            let blocks = disk.len().div_ceil(BLOCK_SIZE as usize);
            dirty.clear();
            // At both ends and somewhere between, so that the disk's last, short block is there too.
            let between = (0..count).map(|_| dice.below(blocks)).collect::<Vec<_>>();
            for (n, first) in [0, blocks - 1].into_iter().chain(between).enumerate() {
                for block in first..blocks.min(first + 1 + n % 3) {
                    let start = block * BLOCK_SIZE as usize;
                    let end = disk.len().min(start + BLOCK_SIZE as usize);
                    // Little of a block is not zero, so that the repository stays small.
                    let some = content::mixed(round << 32 | n as u64, 2000.min(end - start));
                    disk[start..end].fill(if n % 3 == 2 { 0 } else { n as u8 });
                    if n % 3 != 2 {
                        disk[start..start + some.len()].copy_from_slice(&some);
                    }
                    dirty.push(block as u64);
                }
            }
        }
    }

    async fn hold_the_first_and_drop_the_second(&self, truth: &mut Truth) {
        let points = self.vault.list(Some(&self.name)).await.unwrap().points;
        self.vault.hold(&points[0].id, Kept::Until("2100-01-01T00:00:00Z".parse().unwrap())).await.unwrap();
        self.vault.prune(Some(&self.name), &Rules::default(), Mode::Run).await.unwrap();
        truth.retain(|name, _| !name.starts_with(&format!("{}/", points[1].id)));
    }

    /// One that is sound: the next point keeps off it all the same.
    async fn note_a_segment_as_lost(&self, repository: &Path) {
        let newest = self.vault.history(&self.name).await.unwrap().newest.unwrap().id;
        let tenant = fs::read_dir(repository.join("t")).unwrap().next().unwrap().unwrap().path();
        let segments = fs::read_dir(tenant.join(newest.vm()).join("s")).unwrap();
        let segment = segments.map(|segment| segment.unwrap().path()).min().unwrap();
        let damage = Damage {
            disk: DiskName::new("vda").unwrap(),
            range: ByteRange::new(0, BLOCK_SIZE),
            effect: Effect::Lost,
            object: segment.strip_prefix(repository).unwrap().to_str().unwrap().into(),
            why: "this is a test".into(),
        };
        assert!(self.vault.note_lost(&newest, &[damage]).await.unwrap());
    }

    async fn store(&self, decision: Decision, truth: &mut Truth) {
        let parent = self.vault.history(&self.name).await.unwrap().newest.map(|point| point.id);
        let disks = SIZES.iter().map(|(name, size)| new_disk(name, *size as u64, decision)).collect();
        let point = new_point(&self.name, parent, disks);
        let writer = self.vault.begin(point).await.unwrap();
        let mut reads = Vec::new();
        for (number, disk) in self.disks.iter().enumerate() {
            let piece = if decision == Decision::Incremental { BLOCK_SIZE } else { PIECE_SIZE };
            for range in ByteRange::new(0, disk.len() as u64).split(piece) {
                let bytes = &disk[range.start as usize..range.end as usize];
                let is_dirty = self.dirty[number].contains(&(range.start / BLOCK_SIZE));
                if decision == Decision::Incremental && !is_dirty {
                    writer.unchanged(DiskIndex(number), range).await.unwrap();
                } else {
                    writer.write(DiskIndex(number), range.start, Bytes::copy_from_slice(bytes)).await.unwrap();
                }
            }
            reads.push(DiskReads { read: disk.len() as u64, rewritten: 0 });
        }
        let point = writer.commit(&reads).await.unwrap();
        for ((name, _), disk) in SIZES.iter().zip(&self.disks) {
            truth.insert(format!("{}/{name}", point.id), blake3::hash(disk).to_hex().to_string());
        }
    }
}
