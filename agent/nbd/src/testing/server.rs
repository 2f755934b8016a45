//! A server over memory that does what a test tells it. With time paused, no test waits for a deadline.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};

use super::wire::{ack, context, greeting, info_export, option_reply};
use crate::client::{Client, ConnectOptions};
use crate::error::NbdError;
use crate::proto::{OPT_GO, OPT_SET_META_CONTEXT, REP_INFO, REP_META_CONTEXT};

/// The export's size.
pub(crate) const SIZE: u64 = 1 << 20;

/// The context that is granted to whoever asks for one, and its id.
pub(crate) const CONTEXT: &str = "base:allocation";
pub(crate) const CONTEXT_ID: u32 = 7;

/// What the connection holds on its way in each direction.
const BUFFER: usize = 64 * 1024;

pub(crate) struct Server(DuplexStream);

impl Server {
    /// Answers each option until the client goes over to requests.
    pub(crate) async fn shake_hands(&mut self, info: &[Vec<u8>]) {
        self.send(&greeting(3)).await;
        self.0.read_u32().await.unwrap();
        loop {
            self.0.read_u64().await.unwrap();
            let option = self.0.read_u32().await.unwrap();
            let mut payload = vec![0; self.0.read_u32().await.unwrap() as usize];
            self.0.read_exact(&mut payload).await.unwrap();
            match option {
                OPT_SET_META_CONTEXT => {
                    self.send(&option_reply(option, REP_META_CONTEXT, &context(CONTEXT_ID, CONTEXT))).await;
                }
                OPT_GO => {
                    for info in info {
                        self.send(&option_reply(option, REP_INFO, info)).await;
                    }
                }
                _ => {}
            }
            self.send(&ack(option)).await;
            if option == OPT_GO {
                return;
            }
        }
    }

    /// Receives a request: its handle.
    pub(crate) async fn request(&mut self) -> u64 {
        let mut request = [0; 28];
        self.0.read_exact(&mut request).await.unwrap();
        u64::from_be_bytes(request[8..16].try_into().unwrap())
    }

    /// Sends what the client takes: it may end the connection meanwhile.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.ok();
    }

    /// Waits until the client goes.
    pub(crate) async fn gone(mut self) {
        self.0.read_to_end(&mut Vec::new()).await.ok();
    }
}

/// A connection that holds `buffer` bytes on their way, to a server that has not yet said anything.
pub(crate) fn wire(buffer: usize) -> (DuplexStream, Server) {
    let (ours, theirs) = duplex(buffer);
    (ours, Server(theirs))
}

pub(crate) async fn open(stream: DuplexStream, options: ConnectOptions) -> Result<Client, NbdError> {
    let (reading, writing) = split(stream);
    Client::open(reading, writing, None, options).await
}

/// A client and its server, after the handshake.
pub(crate) async fn connected(options: ConnectOptions) -> (Client, Server) {
    connected_over(wire(BUFFER), options).await
}

pub(crate) async fn connected_over(
    (stream, mut server): (DuplexStream, Server),
    options: ConnectOptions,
) -> (Client, Server) {
    let options = ConnectOptions { contexts: vec![CONTEXT.into()], ..options };
    let info = [info_export(SIZE)];
    let (client, ()) = tokio::join!(open(stream, options), server.shake_hands(&info));
    (client.unwrap(), server)
}
