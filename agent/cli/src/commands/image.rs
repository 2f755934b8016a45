//! Writing a disk of a point as an image: into a target, or in order into anything.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use remora_core::ports::{DiskIndex, Mover, PointReader, Progress};
use remora_core::{ByteRange, Error, ErrorKind, Extent, Result};
use remora_engine::{Existing, Target, or_cancelled, record_breaks, restore};
use remora_qcow2::{Layout, Writer};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::args::ImageFormat;

/// Zeros that are written at once where there can be no holes.
const ZEROS: u64 = 256 * 1024;

/// Extents that may wait to be laid out.
const EXTENTS: usize = 4096;

/// A disk on its way out.
pub(super) struct Image<'a> {
    pub(super) mover: &'a dyn Mover,
    pub(super) reader: Arc<dyn PointReader>,
    pub(super) disk: DiskIndex,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) cancel: CancellationToken,
}

/// A disk that is written, in a target that does not show it yet.
pub(super) struct Written {
    target: Target,
    named: String,
}

impl Written {
    /// Syncs it, and lets a file appear under its name.
    pub(super) async fn finish(self) -> Result<()> {
        let Self { target, named } = self;
        let finished = tokio::task::spawn_blocking(move || target.finish()).await;
        finished.map_err(|e| Error::new(ErrorKind::Failed, &*named).because(e))?.map_err(|e| e.within(&named))
    }
}

/// A disk and where it goes, both checked.
pub(super) struct Prepared {
    target: Target,
    /// For a qcow2 image.
    layout: Option<Layout>,
}

impl Image<'_> {
    fn size(&self) -> u64 {
        self.reader.point().disks[self.disk.0].size
    }

    /// Checks and opens the target; changes nothing yet.
    pub(super) async fn prepare(&self, to: &Path, format: ImageFormat, existing: Existing) -> Result<Prepared> {
        let layout = match format {
            ImageFormat::Raw => None,
            ImageFormat::Qcow2 => Some(self.layout().await?),
        };
        let size = layout.as_ref().map_or(self.size(), Layout::file_size);
        Ok(Prepared { target: Target::prepare(to, existing, size)?, layout })
    }

    /// Writes the image into its target, to be finished.
    pub(super) async fn write(&self, prepared: Prepared) -> Result<Written> {
        let Prepared { target, layout } = prepared;
        let point = self.reader.point();
        let named = format!("writing disk {} of point {}", point.disks[self.disk.0].name, point.id);
        let Some(layout) = layout else {
            let (progress, cancel) = (Arc::clone(&self.progress), self.cancel.clone());
            let target = restore(self.mover, self.reader.as_ref(), self.disk, target, progress, cancel).await?;
            return Ok(Written { target, named });
        };
        let named = format!("{named} as qcow2");
        if target.replaces() {
            let reason = format!("an image of point {} was written there", point.id);
            record_breaks(self.mover, target.path(), &reason).await.map_err(|e| e.within(&named))?;
        }
        let file = target.file().try_clone().map_err(|e| Error::io(&named, e))?;
        let written = self.qcow2(layout, tokio::fs::File::from_std(file)).await;
        written.map_err(|e| match e.kind() {
            ErrorKind::NoSpace => e
                .within(format_args!("{}: {named}", target.path().display()))
                .advise("Free some space there, or choose a target with more."),
            _ => e.within(&named),
        })?;
        Ok(Written { target, named })
    }

    /// Writes the image in order, without seeking.
    pub(super) async fn stream(&self, format: ImageFormat, out: impl AsyncWrite + Unpin + Send) -> Result<()> {
        match format {
            ImageFormat::Raw => self.raw(out).await,
            ImageFormat::Qcow2 => self.qcow2(self.layout().await?, out).await,
        }
    }

    /// Lays the image out: from the map alone, one extent after the other, for a map can be large.
    async fn layout(&self) -> Result<Layout> {
        let size = self.size();
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<Extent>(EXTENTS);
        let laying =
            tokio::task::spawn_blocking(move || Layout::new(size, std::iter::from_fn(|| receiver.blocking_recv())));
        let mut extents = self.reader.extents(self.disk, ByteRange::new(0, size));
        while let Some(extent) = or_cancelled(&self.cancel, extents.try_next()).await? {
            // If nobody takes it any more, the layout has failed and says why.
            if sender.send(extent).await.is_err() {
                break;
            }
        }
        drop(sender);
        laying.await.map_err(|e| Error::new(ErrorKind::Failed, "laying out a qcow2 image").because(e))?
    }

    async fn qcow2(&self, layout: Layout, out: impl AsyncWrite + Unpin + Send) -> Result<()> {
        let size = self.size();
        self.progress.expect(size);
        let mut writer = or_cancelled(&self.cancel, Writer::start(layout, out)).await?;
        let mut pieces = self.reader.pieces(self.disk, ByteRange::new(0, size));
        let mut at = 0;
        while let Some(piece) = or_cancelled(&self.cancel, pieces.try_next()).await? {
            let end = piece.at + piece.data.len() as u64;
            or_cancelled(&self.cancel, writer.write(piece.at, piece.data)).await?;
            self.progress.advance(end - at);
            at = end;
        }
        self.progress.advance(size - at);
        or_cancelled(&self.cancel, writer.finish()).await.map(drop)
    }

    async fn raw(&self, mut out: impl AsyncWrite + Unpin + Send) -> Result<()> {
        let size = self.size();
        self.progress.expect(size);
        let zeros = Bytes::from(vec![0; ZEROS as usize]);
        let mut pieces = self.reader.pieces(self.disk, ByteRange::new(0, size));
        let mut at = 0;
        loop {
            let piece = or_cancelled(&self.cancel, pieces.try_next()).await?;
            for gap in ByteRange::new(at, piece.as_ref().map_or(size, |piece| piece.at)).split(ZEROS) {
                self.put(&mut out, &zeros[..gap.len() as usize]).await?;
            }
            let Some(piece) = piece else { break };
            self.put(&mut out, &piece.data).await?;
            at = piece.at + piece.data.len() as u64;
        }
        or_cancelled(&self.cancel, async { out.flush().await.map_err(written) }).await
    }

    async fn put(&self, out: &mut (impl AsyncWrite + Unpin + Send), data: &[u8]) -> Result<()> {
        or_cancelled(&self.cancel, async { out.write_all(data).await.map_err(written) }).await?;
        self.progress.advance(data.len() as u64);
        Ok(())
    }
}

fn written(error: std::io::Error) -> Error {
    Error::io("writing the image", error)
}
