//! A folder as a store that counts what is metadata, and that keeps a hole where the chunks of a segment would lie.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde::Serialize;

/// What a listing of S3 says of an object beside its name, in bytes of XML.
const LISTED: u64 = 300;

/// A segment's header, before its records (docs/format.md).
const HEADER_LEN: u64 = 24;

/// The part of a footer in the clear: salt, two lengths, magic.
const TRAILER_LEN: usize = 48;

/// The details of a segment of nodes: nothing, sealed.
const NO_DETAILS: u64 = 16;

/// Metadata that went through a store: every byte but the records of segments of chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes of objects and listings.
    pub read: u64,
    /// Bytes of objects.
    pub written: u64,
    /// Requests.
    pub requests: u64,
}

/// The store. Clones share it. Nothing is synced.
#[derive(Clone, Debug)]
pub(crate) struct Counted(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: LocalFileSystem,
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    traffic: Traffic,
    /// Where in segments of chunks the records lie.
    records: HashMap<Path, Range<u64>>,
}

impl Counted {
    pub(crate) fn new(root: PathBuf) -> Result<Self> {
        let folder = LocalFileSystem::new_with_prefix(&root)?;
        Ok(Self(Arc::new(Inner { folder, root, state: Mutex::default() })))
    }

    /// What was counted since the last time.
    pub(crate) fn take(&self) -> Traffic {
        std::mem::take(&mut self.lock().traffic)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_read(&self, location: &Path, range: &Range<u64>) {
        let mut state = self.lock();
        let data = state.records.get(location).map_or(0, |records| {
            let (from, to) = (range.start.max(records.start), range.end.min(records.end));
            to.saturating_sub(from)
        });
        state.traffic.requests += 1;
        state.traffic.read += range.end - range.start - data;
    }

    fn count_listed(&self, object: &ObjectMeta) {
        self.lock().traffic.read += LISTED + object.location.as_ref().len() as u64;
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a folder with holes")
    }
}

/// Of a segment of chunks: where its records lie.
fn chunk_records(location: &Path, payload: &PutPayload) -> Option<Range<u64>> {
    location.parts().rev().nth(1).filter(|folder| folder.as_ref() == "s")?;
    let footer = payload.iter().last()?;
    let trailer = footer.last_chunk::<TRAILER_LEN>()?;
    let len_at =
        |at: usize| u64::from(u32::from_le_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]));
    let (details, index) = (len_at(32), len_at(36));
    let end = payload.content_length() as u64 - TRAILER_LEN as u64 - index - details;
    (details > NO_DETAILS).then_some(HEADER_LEN..end)
}

/// Makes the file of a segment of chunks with its records left out.
fn store_with_hole(file: &std::path::Path, payload: &PutPayload, records: &Range<u64>) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::create_new(file)?;
    let mut at = 0;
    for part in payload {
        if at < records.start || at >= records.end {
            file.write_all_at(part, at)?;
        }
        at += part.len() as u64;
    }
    Ok(())
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let whole = payload.content_length() as u64;
        let records = chunk_records(location, &payload).filter(|_| options.mode == PutMode::Create);
        {
            let traffic = &mut self.lock().traffic;
            traffic.requests += 1;
            traffic.written += whole - records.as_ref().map_or(0, |records| records.end - records.start);
        }
        let Some(records) = records else { return self.0.folder.put_opts(location, payload, options).await };
        let file = self.0.root.join(location.as_ref());
        store_with_hole(&file, &payload, &records).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: location.to_string(), source: e.into() },
            _ => Error::Generic { store: "a folder with holes", source: e.into() },
        })?;
        self.lock().records.insert(location.clone(), records);
        Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let wants_bytes = !options.head;
        let found = self.0.folder.get_opts(location, options).await;
        match &found {
            Ok(found) if wants_bytes => self.count_read(location, &found.range),
            _ => self.lock().traffic.requests += 1,
        }
        found
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        for range in ranges {
            self.count_read(location, range);
        }
        self.0.folder.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.lock().traffic.requests += 1;
        self.0.folder.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lock().traffic.requests += 1;
        let this = self.clone();
        self.0
            .folder
            .list(prefix)
            .inspect(move |object| object.iter().for_each(|object| this.count_listed(object)))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listing = self.0.folder.list_with_delimiter(prefix).await?;
        self.lock().traffic.requests += 1;
        listing.objects.iter().for_each(|object| self.count_listed(object));
        Ok(listing)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: self.to_string() })
    }
}
