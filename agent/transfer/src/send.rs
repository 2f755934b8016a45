//! The agent's side: reads disks of a point, and sends them to the worker of a restore.

use std::io;
use std::net::SocketAddr;

use futures::TryStreamExt;
use remora_core::ports::{DiskIndex, PointReader, Progress};
use remora_core::{ByteRange, Error, ErrorKind, ExtentState};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::connect::{Worker, connect};
use crate::digest::Digest;
use crate::frame::{DATA, Fault};
use crate::order::{Answer, Order};

/// One disk to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The disk in the point.
    pub disk: DiskIndex,
    /// The worker's number of what it goes to.
    pub to: u32,
}

/// Why a restore's disks were not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The point cannot be read, or it was cancelled.
    #[error(transparent)]
    Point(#[from] Error),
    /// The worker is not there any more, or is no worker.
    #[error("the restore's worker at {0} is lost")]
    Lost(SocketAddr, #[source] io::Error),
    /// The worker says no.
    #[error("the worker cannot write disk {disk}: {why}")]
    Refused {
        /// The disk's name.
        disk: String,
        /// Whether it lacks room.
        no_space: bool,
        /// In the worker's words.
        why: String,
    },
    /// What the worker read back is not what was sent.
    #[error("what was read back of disk {0} is not what was written")]
    Differs(String),
}

/// Sends disks, one after another, and has each read back. Ends with the kind `Cancelled` soon after `cancel`.
///
/// `reader` bounds what is in memory: beside its own fetches there is one piece of a disk.
pub async fn send(
    worker: &Worker,
    reader: &dyn PointReader,
    parcels: &[Parcel],
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<(), SendError> {
    let sent = async {
        let mut line = Line::connect(worker).await?;
        for parcel in parcels {
            line.disk(reader, *parcel, progress).await?;
        }
        // Whether the worker hears that it is over changes nothing: all is read back.
        line.output.shutdown().await.ok();
        Ok(())
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "the restore was cancelled").into()),
        sent = sent => sent,
    }
}

/// A connection.
struct Line {
    address: SocketAddr,
    output: WriteHalf<TlsStream<TcpStream>>,
    answers: mpsc::Receiver<io::Result<Answer>>,
    _listening: AbortOnDropHandle<()>,
}

/// Reads answers, on a task of its own: one that is read half-way must not be lost when something is said meanwhile.
async fn listen(mut input: ReadHalf<TlsStream<TcpStream>>, answers: mpsc::Sender<io::Result<Answer>>) {
    loop {
        let answer = Answer::read(&mut input).await;
        let last = answer.is_err();
        if answers.send(answer).await.is_err() || last {
            return;
        }
    }
}

impl Line {
    async fn connect(worker: &Worker) -> Result<Self, SendError> {
        let address = worker.address;
        let stream = connect(worker).await?.map_err(|error| SendError::Lost(address, error))?;
        let (input, output) = tokio::io::split(stream);
        let (sender, answers) = mpsc::channel(1);
        let listening = AbortOnDropHandle::new(tokio::spawn(listen(input, sender)));
        Ok(Self { address, output, answers, _listening: listening })
    }

    async fn disk(
        &mut self,
        reader: &dyn PointReader,
        parcel: Parcel,
        progress: &dyn Progress,
    ) -> Result<(), SendError> {
        let Some(disk) = reader.point().disks.get(parcel.disk.0) else {
            let what = format!("point {} has no disk number {}", reader.point().id, parcel.disk.0);
            return Err(Error::new(ErrorKind::Invalid, what).into());
        };
        let (named, size) = (disk.name.to_string(), disk.size);
        let data = data_of(reader, parcel.disk, size).await?;
        progress.expect(size);
        self.say(&named, Order::Begin { disk: parcel.to, size, data }.encode()).await?;
        match self.hear(&named).await? {
            Answer::Ready => {}
            _ => return Err(self.nonsense()),
        }
        let digest = self.pieces(reader, parcel.disk, &named, size, progress).await?;
        self.say(&named, Order::End.encode()).await?;
        match self.hear(&named).await? {
            Answer::Digest(theirs) if theirs == digest => Ok(()),
            Answer::Digest(_) => Err(SendError::Differs(named)),
            _ => Err(self.nonsense()),
        }
    }

    async fn pieces(
        &mut self,
        reader: &dyn PointReader,
        disk: DiskIndex,
        named: &str,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<[u8; 32], SendError> {
        let (mut digest, mut at) = (Digest::new(size), 0);
        let mut pieces = reader.pieces(disk, ByteRange::new(0, size));
        while let Some(piece) = pieces.try_next().await? {
            let range = ByteRange::at(piece.at, piece.data.len() as u64);
            if range.start < at || range.end > size {
                let what = format!("the repository gave {range} where byte {at} was due");
                return Err(Error::new(ErrorKind::Failed, what).into());
            }
            for (number, part) in piece.data.chunks(DATA).enumerate() {
                let begin = piece.at + (number * DATA) as u64;
                digest.data(begin, part);
                self.say(named, Order::data(begin, part)).await?;
            }
            progress.advance(range.end - at);
            at = range.end;
        }
        progress.advance(size - at);
        Ok(digest.finish())
    }

    /// Says it. A worker that refuses meanwhile does not read on.
    async fn say(&mut self, disk: &str, frame: Vec<u8>) -> Result<(), SendError> {
        let said = async {
            self.output.write_all(&frame).await?;
            self.output.flush().await
        };
        let failed = tokio::select! {
            said = said => match said {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            heard = self.answers.recv() => return Err(self.early(disk, heard)),
        };
        // What it said last is more than that it is gone.
        match self.answers.recv().await {
            Some(Ok(Answer::Refused(fault, why))) => Err(refused(disk, fault, why)),
            _ => Err(SendError::Lost(self.address, failed)),
        }
    }

    async fn hear(&mut self, disk: &str) -> Result<Answer, SendError> {
        match self.answers.recv().await {
            Some(Ok(answer @ (Answer::Ready | Answer::Digest(_)))) => Ok(answer),
            other => Err(self.early(disk, other)),
        }
    }

    /// What a worker said that has nothing more to say.
    fn early(&self, disk: &str, heard: Option<io::Result<Answer>>) -> SendError {
        match heard {
            Some(Ok(Answer::Refused(fault, why))) => refused(disk, fault, why),
            Some(Ok(_)) => self.nonsense(),
            Some(Err(error)) => SendError::Lost(self.address, error),
            None => SendError::Lost(self.address, io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn nonsense(&self) -> SendError {
        SendError::Lost(self.address, unasked())
    }
}

fn unasked() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it answers what was not asked")
}

fn refused(disk: &str, fault: Fault, why: String) -> SendError {
    SendError::Refused { disk: disk.into(), no_space: fault == Fault::NoSpace, why }
}

/// The bytes of a disk that are not zeros, for the worker to know what room it needs.
async fn data_of(reader: &dyn PointReader, disk: DiskIndex, size: u64) -> Result<u64, Error> {
    let mut extents = reader.extents(disk, ByteRange::new(0, size));
    let mut data = 0;
    while let Some(extent) = extents.try_next().await? {
        if extent.state != ExtentState::Zero {
            data += extent.range.len();
        }
    }
    Ok(data)
}
