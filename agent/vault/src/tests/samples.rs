//! A verification of a sample reads a part of the data, and one of each day comes by all of it.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::{Depth, Sample, Share};

/// The disk's size in MiB, each of which is a chunk of its own.
const CHUNKS: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn daily_samples_read_a_part_and_come_by_one_damaged_chunk() {
    let bench = Bench::new().await;
    let mut random = Random(3);
    let image: Vec<u8> = (0..CHUNKS * PIECE_SIZE).map(|_| random.below(256) as u8).collect();
    let point = bench.store(Decision::Full, &image, &[], false).await;
    let whole = bench.vault.verifier(Depth::All).point(&point.id, &NoProgress).await.unwrap();
    let structure = bench.vault.verifier(Depth::Structure).point(&point.id, &NoProgress).await.unwrap();
    let (name, object) = bench.objects().await.into_iter().max_by_key(|(_, object)| object.len()).unwrap();
    let mut damaged = object.to_vec();
    damaged[1000] ^= 1;
    bench.store.put(&name, damaged.into()).await.unwrap();
    let vault = bench.reopen().await;

    let share: Share = "5%".parse().unwrap();
    let (mut found, mut read) = (Vec::new(), 0);
    for day in 0..19 {
        let day = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * (20_000 + day));
        let sample = Depth::Sample(Sample::of_day(share, day));
        let report = vault.verifier(sample).point(&point.id, &NoProgress).await.unwrap();
        let data = report.checked - structure.checked;
        assert!(data < (whole.checked - structure.checked) / 4, "{data} of {} on {day}", whole.checked);
        read += data;
        found.extend(report.damage);
    }
    // What is damaged does not count as checked.
    assert_eq!(read + PIECE_SIZE, whole.checked - structure.checked, "19 days come by each chunk, and by each once");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].range.len(), found[0].object.as_str()), (PIECE_SIZE, name.as_ref()));
}
