//! The agent's side of a loan: disks that are read through a worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use remora_core::ports::DiskView;
use remora_core::{ByteRange, DiskName, Error, ErrorKind, Extent, ExtentState, Result};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::connect::{Worker, connect};
use crate::question::{Look, Question, Reply};

/// How many questions are on their way at once.
const IN_FLIGHT: usize = 8;

/// How long one reply may take.
const ANSWER: Duration = Duration::from_mins(2);

/// A connection to a worker that lends. Ends with its last disk.
#[derive(Debug)]
pub struct Loan {
    address: SocketAddr,
    questions: mpsc::Sender<Asked>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

type Asked = (Question, oneshot::Sender<Reply>);

/// A disk of a loan.
#[derive(Debug)]
pub struct BorrowedDisk {
    loan: Arc<Loan>,
    name: DiskName,
    number: u32,
    look: Look,
}

impl Loan {
    /// Connects.
    pub async fn connect(worker: &Worker) -> Result<Arc<Self>> {
        let stream = connect(worker).await?.map_err(|error| lost(worker.address).because(error))?;
        let (input, output) = tokio::io::split(stream);
        let (questions, asked) = mpsc::channel(1);
        let (waiting, answers) = mpsc::channel(IN_FLIGHT);
        let asking = AbortOnDropHandle::new(tokio::spawn(ask(output, asked, waiting)));
        let listening = AbortOnDropHandle::new(tokio::spawn(listen(input, answers).in_current_span()));
        Ok(Arc::new(Self { address: worker.address, questions, _tasks: [asking, listening] }))
    }

    /// Opens a disk, by the worker's number of it. Its size is what the worker says.
    pub async fn open(self: &Arc<Self>, name: DiskName, number: u32) -> Result<BorrowedDisk> {
        let look = self.look(number).await.map_err(|error| error.within(format_args!("opening disk {name}")))?;
        Ok(BorrowedDisk { loan: Arc::clone(self), name, number, look })
    }

    async fn look(&self, disk: u32) -> Result<Look> {
        match self.ask(Question::Look { disk }).await? {
            Reply::Is(look) => Ok(look),
            other => Err(self.refused(other)),
        }
    }

    async fn ask(&self, question: Question) -> Result<Reply> {
        let asking = async {
            let (sender, reply) = oneshot::channel();
            self.questions.send((question, sender)).await.ok()?;
            reply.await.ok()
        };
        let late = |_| lost(self.address).because(format!("it has not answered for {} s", ANSWER.as_secs()));
        timeout(ANSWER, asking).await.map_err(late)?.ok_or_else(|| lost(self.address))
    }

    fn refused(&self, reply: Reply) -> Error {
        match reply {
            Reply::Refused(_, why) => {
                Error::new(ErrorKind::Unavailable, "the pod that has the claims cannot read").because(why)
            }
            _ => lost(self.address).because("it replies to what was not asked"),
        }
    }
}

impl BorrowedDisk {
    /// Whether nobody has written to it since it was opened, as far as its file tells; a device does not.
    pub async fn is_unchanged(&self) -> Result<bool> {
        Ok(self.loan.look(self.number).await? == self.look)
    }

    async fn map(&self, from: u64) -> Result<Vec<Extent>> {
        let stretches = match self.loan.ask(Question::Map { disk: self.number, from }).await? {
            Reply::Map(stretches) => stretches,
            other => return Err(self.loan.refused(other)),
        };
        let (mut at, mut extents) = (from, Vec::new());
        for stretch in stretches {
            if stretch.end <= at || stretch.end > self.look.size {
                return Err(lost(self.loan.address).because("its map of the disk makes no sense"));
            }
            let state = if stretch.data { ExtentState::Data } else { ExtentState::Zero };
            extents.push(Extent { range: ByteRange::new(at, stretch.end), state });
            at = stretch.end;
        }
        Ok(extents)
    }
}

#[async_trait]
impl DiskView for BorrowedDisk {
    fn name(&self) -> &DiskName {
        &self.name
    }

    fn size(&self) -> u64 {
        self.look.size
    }

    fn checkpointed(&self) -> bool {
        false
    }

    fn extents(&self) -> BoxStream<'_, Result<Extent>> {
        let parts = stream::try_unfold(0, move |at| async move {
            if at >= self.look.size {
                return Ok(None);
            }
            let extents = self.map(at).await?;
            let end = extents.last().map_or(self.look.size, |last| last.range.end);
            Ok::<_, Error>(Some((stream::iter(extents.into_iter().map(Ok)), end)))
        });
        futures::TryStreamExt::try_flatten(parts).boxed()
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes> {
        let length = u32::try_from(range.len()).map_err(|_| Error::new(ErrorKind::Invalid, "that is no piece"))?;
        match self.loan.ask(Question::Read { disk: self.number, at: range.start, length }).await? {
            Reply::Bytes(bytes) if bytes.len() as u64 == range.len() => Ok(bytes),
            other => Err(self.loan.refused(other)),
        }
    }
}

/// Asks what is asked, while there is room for replies.
async fn ask(
    mut output: WriteHalf<TlsStream<TcpStream>>,
    mut asked: mpsc::Receiver<Asked>,
    waiting: mpsc::Sender<(Question, oneshot::Sender<Reply>)>,
) {
    while let Some((question, reply)) = asked.recv().await {
        let sent = async {
            output.write_all(&question.encode()).await?;
            output.flush().await
        };
        if waiting.send((question, reply)).await.is_err() || sent.await.is_err() {
            return;
        }
    }
    output.shutdown().await.ok();
}

/// Hands replies on, in the order of the questions. At the first that makes no sense all others get none.
async fn listen(
    mut input: ReadHalf<TlsStream<TcpStream>>,
    mut answers: mpsc::Receiver<(Question, oneshot::Sender<Reply>)>,
) {
    while let Some((question, waits)) = answers.recv().await {
        match Reply::read(&mut input).await {
            // Whoever asked may not want to know any more.
            Ok(reply) => _ = waits.send(reply),
            Err(error) => {
                tracing::warn!(?question, %error, "the pod that has the claims is lost");
                return;
            }
        }
    }
}

fn lost(address: SocketAddr) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the pod at {address} that has the claims is lost"))
        .advise("It ends when the VM is started. Create another BackupRun.")
}
