//! Images are judged by QEMU's own `qemu-img`.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use remora_core::{ByteRange, ErrorKind, Extent, ExtentState};
use remora_qcow2::{CLUSTER_SIZE, Layout, Writer};

const TIB: u64 = 1 << 40;

fn qemu_img(args: &[&str]) -> String {
    let output = Command::new("qemu-img").args(args).output().expect("qemu-img is missing: install qemu-utils");
    assert!(
        output.status.success(),
        "qemu-img {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn data(start: u64, end: u64) -> Extent {
    Extent { range: ByteRange::new(start, end), state: ExtentState::Data }
}

/// Writes an image whose ranges hold bytes that tell their place, and a raw file with the same; returns both.
async fn write_both(folder: &Path, size: u64, ranges: &[ByteRange], piece: u64) -> (String, String) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (image, raw) = (path("image.qcow2"), path("image.raw"));
    let layout = Layout::new(size, ranges.iter().map(|r| data(r.start, r.end))).unwrap();
    let file_size = layout.file_size();
    let mut writer = Writer::start(layout, tokio::fs::File::create(&image).await.unwrap()).await.unwrap();
    let truth = File::create(&raw).unwrap();
    truth.set_len(size.next_multiple_of(512)).unwrap();
    for part in ranges.iter().flat_map(|r| r.split(piece)) {
        let bytes: Vec<u8> = (part.start..part.end).map(|at| (at / 512 * 37 + at) as u8 | 1).collect();
        truth.write_all_at(&bytes, part.start).unwrap();
        writer.write(part.start, bytes.into()).await.unwrap();
    }
    writer.finish().await.unwrap().sync_all().await.unwrap();
    assert_eq!(std::fs::metadata(&image).unwrap().len(), file_size);
    (image, raw)
}

fn assert_image_equals(size: u64, ranges: &[ByteRange], piece: u64) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (image, raw) = runtime.block_on(write_both(folder.path(), size, ranges, piece));
    qemu_img(&["check", "-f", "qcow2", &image]);
    qemu_img(&["compare", "-f", "qcow2", "-F", "raw", &image, &raw]);
    let info = qemu_img(&["info", "-f", "qcow2", "--output", "json", &image]);
    assert!(info.contains(&format!("\"virtual-size\": {},", size.next_multiple_of(512))), "{info}");
}

fn disk() -> impl Strategy<Value = (u64, Vec<ByteRange>)> {
    let size = prop_oneof![1..4 * CLUSTER_SIZE, 1..40 * CLUSTER_SIZE, (1_u64 << 29)..(1 << 31)];
    (size, prop::collection::vec((any::<u64>(), 1..6 * CLUSTER_SIZE), 0..12)).prop_map(|(size, wishes)| {
        let mut ranges: Vec<_> = wishes.iter().map(|(at, len)| ByteRange::at(at % size, *len)).collect();
        ranges.sort();
        let mut end = 0;
        let cut = |r: ByteRange| {
            let range = ByteRange::new(r.start.max(end), r.end.min(size));
            end = end.max(range.end);
            range
        };
        (size, ranges.into_iter().map(cut).filter(|r| !r.is_empty()).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_disk_reads_back_as_written((size, ranges) in disk(), piece in prop_oneof![512_u64..70_000, Just(1 << 20)]) {
        assert_image_equals(size, &ranges, piece);
    }
}

#[test]
fn edges_read_back_as_written() {
    assert_image_equals(0, &[], 1);
    assert_image_equals(1, &[ByteRange::new(0, 1)], 1);
    assert_image_equals(CLUSTER_SIZE, &[ByteRange::new(0, CLUSTER_SIZE)], CLUSTER_SIZE);
    // A size that is no multiple of a cluster, nor of a sector, with data up to its end.
    let size = 3 * CLUSTER_SIZE + 700;
    assert_image_equals(size, &[ByteRange::new(0, size)], 1 << 20);
}

#[test]
fn more_data_than_one_refcount_block_covers() {
    // 32768 clusters, 2 GiB, are what one refcount block counts. Sparse files keep this cheap: all zeros but the ends.
    let size = 2200 << 20;
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    let layout = Layout::new(size, [data(0, size)]).unwrap();
    let file = File::create(&image).unwrap();
    let mut at = 0;
    for cluster in layout.metadata() {
        file.write_all_at(&cluster, at).unwrap();
        at += CLUSTER_SIZE;
    }
    file.set_len(layout.file_size()).unwrap();
    assert_eq!(at + size, layout.file_size());
    qemu_img(&["check", "-f", "qcow2", image.to_str().unwrap()]);
}

#[test]
fn a_sparse_tebibyte_is_small() {
    let ranges = [0, TIB / 3, TIB / 2 + 1234, TIB - 5000].map(|at| ByteRange::new(at, at + 5000));
    assert_image_equals(TIB, &ranges, 1 << 20);
    let layout = Layout::new(TIB, ranges.iter().map(|r| data(r.start, r.end))).unwrap();
    assert!(layout.file_size() < 2 << 20, "{} bytes", layout.file_size());
}

#[test]
fn a_full_tebibyte_is_laid_out_in_bounded_memory() {
    // One bit a cluster: nothing but the tables' own bytes, which come out one cluster at a time.
    let layout = Layout::new(TIB, [data(0, TIB)]).unwrap();
    let clusters = layout.metadata().map(|cluster| assert_eq!(cluster.len() as u64, CLUSTER_SIZE)).count() as u64;
    assert_eq!(layout.file_size(), TIB + clusters * CLUSTER_SIZE);
    // Header, refcount table, 513 refcount blocks (they count themselves), one L1 cluster, 2048 L2 tables.
    assert_eq!(clusters, 1 + 1 + 513 + 1 + 2048);
}

#[tokio::test]
async fn pieces_out_of_order_or_out_of_place_are_refused() {
    let layout = Layout::new(10 * CLUSTER_SIZE, [data(0, 100), data(5 * CLUSTER_SIZE, 6 * CLUSTER_SIZE)]).unwrap();
    let mut writer = Writer::start(layout, tokio::io::sink()).await.unwrap();
    writer.write(50, vec![1; 10].into()).await.unwrap();
    for (at, len) in [(59, 1), (CLUSTER_SIZE, 1), (CLUSTER_SIZE - 1, 2), (6 * CLUSTER_SIZE - 1, 2), (u64::MAX, 3)] {
        let error = writer.write(at, vec![1; len].into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{at} {len}: {error}");
    }
    writer.write(6 * CLUSTER_SIZE - 1, vec![1; 1].into()).await.unwrap();
}

#[test]
fn disks_that_qcow2_cannot_hold_are_refused() {
    assert_eq!(Layout::new(u64::MAX, []).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(Layout::new(10, [data(0, 11)]).unwrap_err().kind(), ErrorKind::Invalid);
    let unchanged = Extent { range: ByteRange::new(0, 5), state: ExtentState::Unchanged };
    assert_eq!(Layout::new(10, [unchanged]).unwrap_err().kind(), ErrorKind::Invalid);
}
