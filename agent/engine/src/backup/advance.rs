//! States `commit` and `advance`: the point becomes visible, and only then the older checkpoints go.

use std::collections::BTreeSet;

use remora_core::point::Point;
use remora_core::ports::{DiskReads, Outcome, PointWriter};
use remora_core::{ErrorKind, Result};

use super::{BackupReport, Run};
use crate::cancel::{self, or_cancelled};

impl Run<'_> {
    /// Not interrupted once it began: a commit that is broken off leaves everybody guessing.
    pub(super) async fn commit(&mut self, writer: Box<dyn PointWriter>, reads: &[DiskReads]) -> Result<Point> {
        if let Err(error) = self.make_ready(writer.as_ref()).await {
            writer.abandon().await;
            return Err(error);
        }
        let committed = writer.commit(reads).await;
        if let Err(error) = &committed
            && error.kind() == ErrorKind::Unavailable
        {
            tracing::warn!("whether the point was committed is unknown: both checkpoints stay until the next run");
            self.on_failure = Outcome::Stored;
        }
        committed
    }

    /// All that can be done before the commit.
    async fn make_ready(&self, writer: &dyn PointWriter) -> Result<()> {
        or_cancelled(&self.cancel, writer.settle()).await?;
        or_cancelled(&self.cancel, self.opened()?.confirm()).await?;
        cancel::check(&self.cancel)
    }

    /// The point is safe: what fails here is told, and left for the next run to clean up.
    pub(super) async fn advance(&mut self, point: Point) -> BackupReport {
        let left = self.close_and_retire(&point).await.err().map(|error| error.chain());
        if let Some(why) = &left {
            self.note(format!("the point is stored, but cleaning up after it failed (the next run does it): {why}"));
        }
        BackupReport {
            point,
            seconds: self.began.elapsed().as_secs_f64(),
            notes: std::mem::take(&mut self.notes),
            left,
        }
    }

    async fn close_and_retire(&mut self, point: &Point) -> Result<()> {
        if let Some(opened) = self.opened.take() {
            opened.close(Outcome::Stored).await?;
        }
        let keep: BTreeSet<_> = point.disks.iter().filter_map(|disk| disk.checkpoint.clone()).collect();
        self.claimed()?.retire(self.mover.repository(), &keep).await
    }
}
