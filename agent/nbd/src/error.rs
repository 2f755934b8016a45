//! What can go wrong with a server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// An error of a connection or of one request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NbdError {
    /// The socket takes no connection.
    #[error("connecting to the NBD socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The server refused an option that is needed.
    #[error("the NBD server refused {what}: {message}")]
    Refused {
        /// The option.
        what: &'static str,
        /// What the server said.
        message: String,
    },
    /// The server has no such export.
    #[error("the NBD server has no export {export:?}, but {available:?}")]
    ExportNotFound {
        /// The one that was asked for.
        export: String,
        /// Those that it lists.
        available: Vec<String>,
    },
    /// The server broke the protocol. The connection is ended.
    #[error("the NBD server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server failed a request.
    #[error("the NBD server failed a request at byte {offset} with error {code}{}{message}", if message.is_empty() { "" } else { ": " })]
    Remote {
        /// The protocol's number, which is Linux's errno for the usual ones (5 is EIO).
        code: u32,
        /// Where on the disk.
        offset: u64,
        /// What the server said of it.
        message: String,
    },
    /// The connection broke off.
    #[error("the NBD connection broke off")]
    Disconnected(#[source] Option<Arc<std::io::Error>>),
    /// The server did not answer in time. The connection is ended: a late answer could not be told from another.
    #[error("the NBD server did not answer {what} within {} s", limit.as_secs_f32())]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// The caller asked for something that the export does not have.
    #[error("{len} bytes at {offset} are not within the export of {size} bytes")]
    OutOfRange {
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
        /// The export's size.
        size: u64,
    },
}

impl From<std::io::Error> for NbdError {
    fn from(error: std::io::Error) -> Self {
        Self::Disconnected(Some(Arc::new(error)))
    }
}
