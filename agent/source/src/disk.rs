//! One disk of a running backup job over NBD: its map, its bytes, and the question why they broke off. Shared by all
//! sources whose job is QEMU's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use remora_core::ports::DiskView;
use remora_core::{ByteRange, DiskName, Error, ErrorKind, Extent, Result};
use remora_nbd::{Client, ConnectOptions, NbdError};
use tokio::time::{Instant, sleep};

use crate::backup_xml::Checkpointed;
use crate::extents::{self, ALLOCATION, dirty_context};

/// How long QEMU may take for one answer; a guest that keeps its storage busy makes it slow.
pub(crate) const ANSWER: Duration = Duration::from_mins(2);

/// How many requests a disk's connection takes at once, each of a quarter of a piece at most. More cost QEMU more.
const IN_FLIGHT: usize = 8;

/// The most that one block status request asks for: a multiple of every bitmap granularity, below 4 GiB.
const STATUS_STEP: u64 = 2 << 30;

/// How long after a broken connection the job may still be believed to run.
const END_IS_KNOWN: Duration = Duration::from_secs(30);

/// Asks whether a job still runs.
#[async_trait]
pub(crate) trait JobWatch: fmt::Debug + Send + Sync {
    /// Why the job does not run any more, if so. An error means that nobody could be asked.
    async fn why_broken(&self) -> Result<Option<Error>>;

    /// The pause between two such questions.
    fn ask_every(&self) -> Duration;
}

/// Which export to connect to, and what to ask of it.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    /// The disk's name for us.
    pub(crate) disk: DiskName,
    /// The export's name for QEMU.
    pub(crate) name: String,
    /// The bitmap that tells what changed, for an increment.
    pub(crate) bitmap: Option<String>,
    /// Whether the job's checkpoint covers it.
    pub(crate) checkpointed: Checkpointed,
}

impl Export {
    /// How to connect; no answer may take longer than `answer`.
    pub(crate) fn options(&self, answer: Duration) -> ConnectOptions {
        ConnectOptions {
            export: self.name.clone(),
            contexts: self.contexts(),
            request_timeout: answer,
            max_in_flight: IN_FLIGHT,
        }
    }

    fn contexts(&self) -> Vec<String> {
        [ALLOCATION.to_owned()].into_iter().chain(self.bitmap.as_deref().map(dirty_context)).collect()
    }
}

/// One disk of the job.
#[derive(Debug)]
pub(crate) struct Disk {
    name: DiskName,
    checkpointed: Checkpointed,
    /// The context that tells what changed, for an increment.
    dirty: Option<String>,
    client: Client,
    job: Arc<dyn JobWatch>,
}

impl Disk {
    /// The disk behind a client that was connected with [`Export::options`].
    pub(crate) fn new(export: Export, client: Client, job: Arc<dyn JobWatch>) -> Result<Self> {
        if let Some(missing) = export.contexts().iter().find(|wanted| !client.contexts().contains(wanted)) {
            let what = format!("QEMU does not offer {missing} of disk {}", export.disk);
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let dirty = export.bitmap.as_deref().map(dirty_context);
        Ok(Self { name: export.disk, checkpointed: export.checkpointed, dirty, client, job })
    }

    /// The process that serves it, if it is in a namespace that we see.
    pub(crate) fn server(&self) -> Option<u32> {
        self.client.peer_pid()
    }

    /// Ends the connection.
    pub(crate) async fn disconnect(&self) {
        self.client.disconnect().await;
    }

    /// The extents from `at` on, as many as QEMU tells at once.
    async fn page(&self, at: u64) -> Result<Vec<Extent>> {
        let end = self.size().min(at.saturating_add(STATUS_STEP));
        let what = || format!("asking for the map of disk {} from byte {at} on", self.name);
        let told = match self.client.block_status(at, (end - at) as u32).await {
            Ok(told) => told,
            Err(error) => return Err(self.explain(error, &what()).await),
        };
        let of = |wanted: &str| {
            let found = told.iter().find(|c| c.context == wanted);
            found
                .map(|c| c.extents.as_slice())
                .ok_or_else(|| Error::new(ErrorKind::Unavailable, format!("{}: the answer lacks {wanted}", what())))
        };
        let allocation = of(ALLOCATION)?;
        let dirty = self.dirty.as_deref().map(of).transpose()?;
        extents::join(at, end, allocation, dirty)
    }

    /// A failed request usually follows from the end of the job: says that instead, where it is so.
    async fn explain(&self, error: NbdError, what: &str) -> Error {
        let (start, broke_off) = (Instant::now(), !matches!(error, NbdError::Remote { .. }));
        loop {
            match self.job.why_broken().await {
                Ok(Some(reason)) => return reason.within(what),
                Ok(None) if broke_off && start.elapsed() < END_IS_KNOWN => sleep(self.job.ask_every()).await,
                Ok(None) | Err(_) => return Error::new(ErrorKind::Unavailable, what).because(error),
            }
        }
    }
}

#[async_trait]
impl DiskView for Disk {
    fn name(&self) -> &DiskName {
        &self.name
    }

    fn size(&self) -> u64 {
        self.client.size()
    }

    fn checkpointed(&self) -> bool {
        self.checkpointed == Checkpointed::Yes
    }

    fn extents(&self) -> BoxStream<'_, Result<Extent>> {
        let pages = stream::try_unfold(0, move |at| async move {
            if at >= self.size() {
                return Ok::<_, Error>(None);
            }
            let page = self.page(at).await?;
            let next = page.last().map_or(self.size(), |extent| extent.range.end);
            Ok(Some((stream::iter(page.into_iter().map(Ok)), next)))
        });
        pages.try_flatten().boxed()
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes> {
        if range.end > self.size() || range.len() > remora_core::PIECE_SIZE {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("reading {range} of disk {}: not a piece of it", self.name),
            ));
        }
        match self.client.read(range.start, range.len() as u32).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(self.explain(error, &format!("reading {range} of disk {}", self.name)).await),
        }
    }
}
