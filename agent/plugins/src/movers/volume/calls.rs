//! The functions of a store of points, each answer looked at before it is handed on.

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use remora_core::{ByteRange, Error, ErrorKind, Extent, ExtentState, Result};
use tokio::sync::OnceCell;

use super::super::broker::{Payload, Sink};
use super::super::conversation::{Component, Failed, Luggage};
use super::super::failure;
use super::super::retry::Patience;
use super::super::wire::{Call, Done, NewPoint, VolumeCall, VolumeCapabilities, VolumeDone, VolumePoint};
use super::windows::of_blocks;

/// Points in a page.
const PAGE: usize = 1_000;

/// Pages of a listing.
const PAGES: usize = 10_000;

/// Points of a listing: more nobody has.
const POINTS: usize = 100_000;

/// Bytes of all descriptions of a listing.
const DESCRIPTIONS: usize = 256 << 20;

/// Of a disk's map, what is asked about in one call.
pub(super) const MAPPED: u64 = 1 << 30;

/// A disk of a point that is called by its id.
#[derive(Clone, Copy)]
pub(super) struct DiskOf<'a> {
    pub(super) point: &'a str,
    pub(super) disk: u32,
}

/// A point that is written.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pub(super) id: String,
    pub(super) token: String,
}

pub(super) struct Calls {
    pub(super) name: String,
    pub(super) component: Component,
    pub(super) patience: Patience,
    /// What the store can do, once it was asked.
    pub(super) can: OnceCell<VolumeCapabilities>,
}

impl Calls {
    async fn call(&self, doing: &str, call: VolumeCall, data: Bytes, sink: u64) -> Result<(Done, Sink)> {
        let data = Payload::new(if data.is_empty() { Vec::new() } else { vec![data] });
        let make = || (Call::Volume(call.clone()), Luggage { data: data.clone(), sink: Sink::new(sink) });
        let called = self.patience.call(&self.component, None, (&self.name, doing), make).await;
        let (done, luggage) = called.map_err(|failed| failure::plain(&self.name, doing, failed))?;
        Ok((done, luggage.sink))
    }

    async fn plain(&self, doing: &str, call: VolumeCall) -> Result<Done> {
        Ok(self.call(doing, call, Bytes::new(), 0).await?.0)
    }

    fn unexpected<T>(&self, doing: &str) -> Result<T> {
        Err(failure::plain(&self.name, doing, Failed::Fault("another function's answer came".into())))
    }

    /// What the mover says is not so.
    pub(super) fn lie(&self, what: &str) -> Error {
        Error::new(ErrorKind::Damaged, format!("mover {}: {what}", self.name))
            .advise("Do not rely on this mover: ask who made it, and keep the points in another repository.")
    }

    pub(super) async fn capabilities(&self) -> Result<VolumeCapabilities> {
        let ask = async || {
            let can = self.component.volume_capabilities().await;
            can.map_err(|failed| failure::plain(&self.name, "opening it", failed))
        };
        self.can.get_or_try_init(ask).await.copied()
    }

    pub(super) async fn begin(&self, point: NewPoint) -> Result<Begun> {
        let id = point.id.clone();
        match self.plain(&format!("beginning point {id}"), VolumeCall::Begin(point)).await? {
            Done::Begun(token) => Ok(Begun { id, token }),
            _ => self.unexpected("beginning a point"),
        }
    }

    pub(super) async fn write(&self, begun: &Begun, disk: u32, offset: u64, data: Bytes) -> Result<()> {
        let (id, token, len) = (begun.id.clone(), begun.token.clone(), data.len() as u64);
        let call = VolumeCall::Write { id, token, disk, offset, len };
        self.call("storing a part of a point", call, data, 0).await.map(drop)
    }

    pub(super) async fn zero(&self, begun: &Begun, disk: u32, range: ByteRange) -> Result<()> {
        let (id, token) = (begun.id.clone(), begun.token.clone());
        let call = VolumeCall::Zero { id, token, disk, offset: range.start, len: range.len() };
        self.plain("noting zeros of a point", call).await.map(drop)
    }

    pub(super) async fn unchanged(&self, begun: &Begun, disk: u32, range: ByteRange) -> Result<()> {
        let (id, token) = (begun.id.clone(), begun.token.clone());
        let call = VolumeCall::Unchanged { id, token, disk, offset: range.start, len: range.len() };
        self.plain("noting what is unchanged in a point", call).await.map(drop)
    }

    pub(super) async fn commit(&self, begun: &Begun) -> Result<()> {
        let call = VolumeCall::Commit { id: begun.id.clone(), token: begun.token.clone() };
        self.plain(&format!("committing point {}", begun.id), call).await.map(drop)
    }

    pub(super) async fn abort(&self, begun: &Begun) -> Result<()> {
        let call = VolumeCall::Abort { id: begun.id.clone(), token: begun.token.clone() };
        self.plain(&format!("giving up point {}", begun.id), call).await.map(drop)
    }

    pub(super) async fn delete(&self, point: &str) -> Result<()> {
        let call = VolumeCall::Delete { point: point.into() };
        self.plain(&format!("deleting point {point}"), call).await.map(drop)
    }

    /// All points, or those of one machine.
    pub(super) async fn list(&self, vm: Option<&str>) -> Result<Vec<VolumePoint>> {
        let (mut points, mut token, mut descriptions) = (Vec::new(), None, 0);
        for _ in 0..PAGES {
            let call = VolumeCall::List { vm: vm.map(Into::into), token: token.take() };
            let Done::Volume(VolumeDone::Points(page)) = self.plain("listing points", call).await? else {
                return self.unexpected("listing points");
            };
            if page.points.len() > PAGE {
                return Err(
                    self.lie(&format!("a page of its listing has {} points, {PAGE} at most", page.points.len()))
                );
            }
            descriptions += page.points.iter().map(|point| point.description.len()).sum::<usize>();
            points.extend(page.points);
            if points.len() > POINTS || descriptions > DESCRIPTIONS {
                let what = format!("it lists more than {POINTS} points, or {} MiB of descriptions", DESCRIPTIONS >> 20);
                return Err(self.lie(&what));
            }
            token = page.next;
            if token.is_none() {
                return Ok(points);
            }
        }
        Err(self.lie("its listing never ends"))
    }

    /// The extents of a range: in order, without gaps.
    pub(super) async fn extents(&self, of: DiskOf<'_>, range: ByteRange) -> Result<Vec<Extent>> {
        let doing = format!("mapping point {}", of.point);
        let (offset, len) = (range.start, range.len());
        let call = VolumeCall::Extents { point: of.point.into(), disk: of.disk, offset, len };
        let Done::Volume(VolumeDone::Extents(told)) = self.plain(&doing, call).await? else {
            return self.unexpected(&doing);
        };
        let mut at = range.start;
        let mut extents = Vec::with_capacity(told.len());
        for extent in told {
            let end = extent.offset.checked_add(extent.len).filter(|end| *end <= range.end && extent.len > 0);
            let Some(end) = end.filter(|_| extent.offset == at) else {
                return Err(
                    self.lie(&format!("{doing}: its extents of {range} are not in order, or have gaps, at {at}"))
                );
            };
            let state = if extent.zero { ExtentState::Zero } else { ExtentState::Data };
            extents.push(Extent { range: ByteRange::new(at, end), state });
            at = end;
        }
        if at != range.end {
            return Err(self.lie(&format!("{doing}: its extents of {range} end at {at}")));
        }
        Ok(extents)
    }

    /// The extents of a range of whole blocks, in pieces that one call tells of: each rounded to blocks, of a disk of `size`.
    pub(super) fn blocks<'a>(
        &'a self,
        of: DiskOf<'a>,
        range: ByteRange,
        size: u64,
    ) -> impl Stream<Item = Result<Extent>> + Send + use<'a> {
        let extents = stream::iter(range.split(MAPPED)).then(move |window| async move {
            let extents = of_blocks(self.extents(of, window).await?, window, size);
            Ok::<_, Error>(stream::iter(extents.into_iter().map(Ok)))
        });
        extents.try_flatten()
    }

    /// Exactly these bytes, in as many calls as it takes.
    pub(super) async fn read(&self, of: DiskOf<'_>, range: ByteRange) -> Result<Bytes> {
        let doing = format!("reading point {}", of.point);
        let most = self.capabilities().await?.max_transfer.max(512);
        let mut parts = Vec::new();
        for part in range.split(most) {
            let call = VolumeCall::Read { point: of.point.into(), disk: of.disk, offset: part.start, len: part.len() };
            let bytes = self.call(&doing, call, Bytes::new(), part.len()).await?.1.take();
            if bytes.len() as u64 != part.len() {
                return Err(
                    self.lie(&format!("{doing}: it says that it fetched {part}, and gave {} bytes", bytes.len()))
                );
            }
            parts.push(Bytes::from(bytes));
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { parts.concat().into() })
    }
}
