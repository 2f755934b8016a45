//! Streams an image: metadata, then data in the order of the disk.

use bytes::Bytes;
use remora_core::{ByteRange, Error, ErrorKind, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::layout::{CLUSTER_SIZE, Layout};

static ZEROS: [u8; CLUSTER_SIZE as usize] = [0; CLUSTER_SIZE as usize];

/// Writes one image to `out`, which needs no seeking. A file or a pipe should be large-buffered or take large writes
/// well; pieces are passed on as they come.
///
/// ```
/// # use remora_core::{ByteRange, Extent, ExtentState, Result};
/// # use remora_qcow2::{Layout, Writer};
/// # async fn example() -> Result<()> {
/// let extents = [Extent { range: ByteRange::new(512, 1024), state: ExtentState::Data }];
/// let mut writer = Writer::start(Layout::new(1 << 30, extents)?, tokio::io::sink()).await?;
/// writer.write(512, vec![7; 512].into()).await?;
/// writer.finish().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Writer<W> {
    layout: Layout,
    out: W,
    /// Every byte of the disk before this one that is in the file was written.
    next: u64,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes everything that comes before the data.
    pub async fn start(layout: Layout, mut out: W) -> Result<Self> {
        for cluster in layout.metadata() {
            out.write_all(&cluster).await.map_err(failed)?;
        }
        Ok(Self { layout, out, next: 0 })
    }

    /// Writes some data of the disk. Pieces come in order, do not overlap, and lie within the extents that the layout
    /// was made of (rounded outward to clusters); what is left out of those reads as zero.
    ///
    /// # Errors
    /// `Invalid` for a piece that breaks these rules; nothing of it was written then. An I/O error keeps its kind, so a
    /// full disk is `NoSpace`.
    pub async fn write(&mut self, at: u64, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let range = ByteRange::at(at, data.len() as u64);
        if range.start < self.next {
            let what = format!("{range} came after byte {} of the disk was written", self.next);
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let mut clusters = range.start / CLUSTER_SIZE..range.end.div_ceil(CLUSTER_SIZE);
        if range.end > self.layout.virtual_size() || !clusters.all(|cluster| self.layout.data().contains(cluster)) {
            return Err(Error::new(ErrorKind::Invalid, format!("{range} is not within the extents of the image")));
        }
        self.pad(range.start).await?;
        self.out.write_all(&data).await.map_err(failed)?;
        self.next = range.end;
        Ok(())
    }

    /// Completes the last cluster and flushes; returns what was written to, so that a file can be synced.
    pub async fn finish(mut self) -> Result<W> {
        self.pad(self.layout.virtual_size().next_multiple_of(CLUSTER_SIZE)).await?;
        self.out.flush().await.map_err(failed)?;
        Ok(self.out)
    }

    /// Fills what is in the file between the last written byte and `to` with zeros.
    async fn pad(&mut self, to: u64) -> Result<()> {
        while self.next < to {
            let Some(cluster) = self.layout.data().next(self.next / CLUSTER_SIZE) else { break };
            let start = self.next.max(cluster * CLUSTER_SIZE);
            let end = to.min((cluster + 1) * CLUSTER_SIZE);
            if start >= end {
                break;
            }
            self.out.write_all(&ZEROS[..(end - start) as usize]).await.map_err(failed)?;
            self.next = end;
        }
        self.next = self.next.max(to);
        Ok(())
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::io("writing the qcow2 image", source)
}
