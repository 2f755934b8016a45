//! The steps of large and of hostile maps.

use async_trait::async_trait;
use bytes::Bytes;
use remora_core::point::Point;
use remora_core::ports::DiskReads;
use remora_core::{BLOCK_SIZE, DiskName, ErrorKind};

use super::*;

const GIB: u64 = 1024 * 1024 * 1024;

struct Map {
    name: DiskName,
    size: u64,
    extents: Vec<Extent>,
}

impl Map {
    /// A map from the ends and states of its extents.
    fn new(size: u64, extents: &[(u64, ExtentState)]) -> Self {
        let starts = std::iter::once(0).chain(extents.iter().map(|(end, _)| *end));
        let extent =
            |(start, &(end, state)): (u64, &(u64, ExtentState))| Extent { range: ByteRange { start, end }, state };
        Self { name: DiskName::new("vda").unwrap(), size, extents: starts.zip(extents).map(extent).collect() }
    }
}

#[async_trait]
impl DiskView for Map {
    fn name(&self) -> &DiskName {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn checkpointed(&self) -> bool {
        true
    }

    fn extents(&self) -> BoxStream<'_, Result<Extent>> {
        stream::iter(self.extents.iter().copied().map(Ok)).boxed()
    }

    async fn read(&self, _range: ByteRange) -> Result<Bytes> {
        Err(broken("steps read nothing"))
    }
}

/// Wants everything between the changed ranges rewritten, as far as the budget goes.
struct Greedy;

#[async_trait]
impl PointWriter for Greedy {
    async fn write(&self, _disk: DiskIndex, _at: u64, _data: Bytes) -> Result<()> {
        Ok(())
    }

    async fn zero(&self, _disk: DiskIndex, _range: ByteRange) -> Result<()> {
        Ok(())
    }

    async fn unchanged(&self, _disk: DiskIndex, _range: ByteRange) -> Result<()> {
        Ok(())
    }

    async fn worth_rewriting(&self, _disk: DiskIndex, changed: &[ByteRange], budget: u64) -> Result<Vec<ByteRange>> {
        assert!(changed.windows(2).all(|pair| pair[0].end <= pair[1].start), "out of order");
        let mut left = budget;
        let between = changed.windows(2).map(|pair| ByteRange::new(pair[0].end, pair[1].start));
        let cut = between.map(|range| {
            let cut = ByteRange::at(range.start, range.len().min(left));
            left -= cut.len();
            cut
        });
        Ok(cut.filter(|range| !range.is_empty()).collect())
    }

    async fn commit(self: Box<Self>, _reads: &[DiskReads]) -> Result<Point> {
        Err(broken("steps commit nothing"))
    }

    async fn abandon(self: Box<Self>) {}
}

async fn steps_of(map: &Map, believed: bool) -> Result<Vec<Step>> {
    steps(Stepping { view: map, writer: &Greedy, disk: DiskIndex(0), believed }).try_collect().await
}

fn range_of(step: Step) -> ByteRange {
    match step {
        Step::Read(range) | Step::Rewrite(range) | Step::Zero(range) | Step::Unchanged(range) => range,
    }
}

fn assert_covers(steps: &[Step], size: u64) {
    let mut at = 0;
    for step in steps {
        let range = range_of(*step);
        assert!(range.start == at && !range.is_empty(), "{step:?} where {at} was due");
        if matches!(step, Step::Read(_) | Step::Rewrite(_)) {
            assert_eq!(range.split(PIECE_SIZE).count(), 1, "{step:?}");
        }
        at = range.end;
    }
    assert_eq!(at, size);
}

#[tokio::test]
async fn windows_cover_a_disk_once_and_rewriting_stays_within_a_quarter() {
    use ExtentState::{Data, Unchanged, Zero};
    let size = 3 * GIB + 100 * BLOCK_SIZE + 512;
    let mut ends = vec![(BLOCK_SIZE, Data), (GIB - BLOCK_SIZE, Unchanged)];
    // Crosses into the second window and beyond it.
    ends.push((2 * GIB + 5 * BLOCK_SIZE, Data));
    for n in 3..40 {
        ends.push((2 * GIB + 2 * n * BLOCK_SIZE, Unchanged));
        ends.push((2 * GIB + (2 * n + 1) * BLOCK_SIZE, if n % 2 == 0 { Data } else { Zero }));
    }
    ends.push((size, Unchanged));
    let map = Map::new(size, &ends);
    let steps = steps_of(&map, true).await.unwrap();
    assert_covers(&steps, size);
    let bytes = |wanted: fn(&Step) -> bool| steps.iter().filter(|s| wanted(s)).map(|s| range_of(*s).len()).sum::<u64>();
    let (dirty, rewritten) = (bytes(|s| matches!(s, Step::Read(_))), bytes(|s| matches!(s, Step::Rewrite(_))));
    assert!(rewritten > 0 && rewritten <= dirty / 4, "{rewritten} of {dirty}");

    // What one window spent, the next one lacks.
    let mut ends = Vec::new();
    for window in 0..2 {
        for n in 0..8 {
            ends.push((window * GIB + (2 * n + 1) * BLOCK_SIZE, Data));
            ends.push((window * GIB + (2 * n + 2) * BLOCK_SIZE, Unchanged));
        }
        ends.push(((window + 1) * GIB, Unchanged));
    }
    let again = steps_of(&Map::new(2 * GIB, &ends), true).await.unwrap();
    assert_eq!(again.iter().filter(|step| matches!(step, Step::Rewrite(_))).count(), 4);

    // Not believed: all but the zeros is read.
    let steps = steps_of(&map, false).await.unwrap();
    assert_covers(&steps, size);
    assert!(steps.iter().all(|step| matches!(step, Step::Read(_) | Step::Zero(_))));
}

#[tokio::test]
async fn a_map_that_is_no_map_is_refused() {
    let extent = |start, end| Extent { range: ByteRange { start, end }, state: ExtentState::Zero };
    for extents in [
        vec![extent(0, 10), extent(20, 100)],
        vec![extent(0, 60), extent(50, 100)],
        vec![extent(0, 60)],
        vec![extent(0, 101)],
        vec![],
    ] {
        let map = Map { name: DiskName::new("vda").unwrap(), size: 100, extents: extents.clone() };
        let error = steps_of(&map, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{extents:?}");
        assert!(error.to_string().contains("vda"), "{error}");
    }
    let empty = Map::new(0, &[]);
    assert!(steps_of(&empty, true).await.unwrap().is_empty());
}
