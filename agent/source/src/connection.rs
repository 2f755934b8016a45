//! A connection to libvirt that cannot hang its user: every call runs in a thread of its own, with a deadline, and a
//! connection that was lost (libvirtd restarted) is made again where repeating the call is safe.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use remora_core::{Error, ErrorKind, VmName};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{ErrorDomain, ErrorNumber};

/// How long most calls may take. libvirt itself gives up after 30 s when another job holds the domain.
pub(crate) const USUAL: Duration = Duration::from_secs(45);

/// How long a lost connection is tried again: a restart of libvirtd takes a few seconds.
const RECONNECT: Duration = Duration::from_secs(20);

/// The pause between two tries.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// Whether a call may be made again after its connection was lost in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It only looks, or does nothing the second time.
    Safe,
    /// Its first try may have had an effect.
    Never,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CallError {
    message: String,
    cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// libvirt said so.
    Said(Option<ErrorNumber>),
    /// There is no connection, or it broke.
    Lost,
    /// No answer within the deadline.
    Late,
}

impl CallError {
    /// libvirt's own number, if it answered.
    pub(crate) fn number(&self) -> Option<ErrorNumber> {
        match self.cause {
            Cause::Said(number) => number,
            Cause::Lost | Cause::Late => None,
        }
    }

    /// Whether libvirt answered at all: if not, the call may have had its effect.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self.cause, Cause::Said(_))
    }

    /// libvirt's words.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The error that users see; `what` says what was tried on what.
    pub(crate) fn while_doing(self, what: impl fmt::Display) -> Error {
        let (kind, advice) = match self.cause {
            Cause::Lost => (
                ErrorKind::Unavailable,
                Some("Check that libvirtd (or virtqemud) runs and that this user may use it: `virsh list` must work."),
            ),
            Cause::Late => (
                ErrorKind::Unavailable,
                Some("libvirt does not answer: look at its log (`journalctl -u libvirtd`), restart it, and try again."),
            ),
            Cause::Said(Some(ErrorNumber::NoDomain)) => (ErrorKind::NotFound, None),
            Cause::Said(Some(ErrorNumber::OperationTimeout | ErrorNumber::BlockCopyActive)) => (
                ErrorKind::Busy,
                Some("Another job holds the VM (`virsh domjobinfo`): wait until it ends, or use --wait."),
            ),
            Cause::Said(Some(ErrorNumber::ConfigUnsupported | ErrorNumber::NoSupport)) => {
                (ErrorKind::Unsupported, None)
            }
            Cause::Said(Some(ErrorNumber::AuthFailed | ErrorNumber::AccessDenied | ErrorNumber::OperationDenied)) => (
                ErrorKind::Unavailable,
                Some("libvirt refused this user: run as root, or allow it the VM's backup and checkpoint operations."),
            ),
            Cause::Said(_) => (ErrorKind::Failed, None),
        };
        let error = Error::new(kind, what.to_string()).because(self);
        match advice {
            Some(advice) => error.advise(advice),
            None => error,
        }
    }

    fn of(error: &virt::error::Error, connection: Option<&Connect>) -> Self {
        let alive = connection.is_some_and(|c| c.is_alive().unwrap_or(false));
        let broke = error.domain() == ErrorDomain::Rpc && error.code() != ErrorNumber::NoSupport;
        let cause = if alive && !broke {
            Cause::Said(Some(error.code()).filter(|number| *number != ErrorNumber::Last))
        } else {
            Cause::Lost
        };
        Self { message: error.message().to_owned(), cause }
    }
}

/// A reference to a connection, given back when it is dropped: virt 0.4 counts references and leaves that to its user.
#[derive(Clone, Debug)]
struct Counted(Connect);

impl Drop for Counted {
    fn drop(&mut self) {
        if let Err(error) = self.0.close() {
            tracing::debug!(%error, "giving a connection back");
        }
    }
}

/// A libvirt, and our connection to it once one is needed.
#[derive(Debug)]
pub(crate) struct Libvirt {
    uri: String,
    /// Shared with the threads that calls run in; empty until first used and after a loss.
    slot: Arc<Mutex<Option<Counted>>>,
    /// After the first success a refused connection means a restart, and is worth trying again.
    was_connected: AtomicBool,
}

impl Libvirt {
    /// Connects when first used.
    pub(crate) fn new(uri: String) -> Self {
        virt::error::clear_error_callback();
        Self { uri, slot: Arc::default(), was_connected: AtomicBool::new(false) }
    }

    /// Which libvirt.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// Runs `work` with a connection, in a thread of its own, for at most `limit`. A thread that hangs longer is left
    /// to itself with its connection.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        repeat: Repeat,
        work: impl Fn(&Connect) -> Result<T, virt::error::Error> + Send + Sync + 'static,
    ) -> Result<T, CallError> {
        let (start, work) = (Instant::now(), Arc::new(work));
        loop {
            let (send, receive) = oneshot::channel();
            let (slot, uri, work) = (Arc::clone(&self.slot), self.uri.clone(), Arc::clone(&work));
            std::thread::spawn(move || {
                let result = with_connection(&slot, &uri, work.as_ref());
                drop((slot, work));
                // Nobody listens any more after the deadline.
                send.send(result).ok();
            });
            let Ok(answer) = timeout_at(start + limit, receive).await else {
                self.forget();
                return Err(CallError { message: format!("no answer within {limit:?}"), cause: Cause::Late });
            };
            match answer
                .unwrap_or_else(|_| Err(CallError { message: "the call's thread ended".into(), cause: Cause::Lost }))
            {
                Err(error) if error.cause == Cause::Lost => {
                    self.forget();
                    if !self.comes_back(repeat) || start.elapsed() > RECONNECT.min(limit) {
                        return Err(error);
                    }
                    sleep(RETRY_EVERY).await;
                }
                result => {
                    self.was_connected.store(true, Ordering::Relaxed);
                    return result;
                }
            }
        }
    }

    /// Whether a connection that is lost is waited for, and the work done again. Not one that there never was.
    fn comes_back(&self, repeat: Repeat) -> bool {
        repeat == Repeat::Safe && self.was_connected.load(Ordering::Relaxed)
    }

    /// Gives the connection up; closing it may block, so that happens elsewhere.
    fn forget(&self) {
        let connection = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        if connection.is_some() {
            std::thread::spawn(move || drop(connection));
        }
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        self.forget();
    }
}

fn with_connection<T>(
    slot: &Mutex<Option<Counted>>,
    uri: &str,
    work: &(impl Fn(&Connect) -> Result<T, virt::error::Error> + ?Sized),
) -> Result<T, CallError> {
    let ready = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let connection = if let Some(connection) = ready {
        connection
    } else {
        let new = Connect::open(Some(uri)).map_err(|error| CallError::of(&error, None))?;
        let new = Counted(new);
        slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(new).clone()
    };
    work(&connection.0).map_err(|error| CallError::of(&error, Some(&connection.0)))
}

/// One domain of a libvirt.
#[derive(Clone, Debug)]
pub(crate) struct DomainHandle {
    pub(crate) libvirt: Arc<Libvirt>,
    pub(crate) vm: VmName,
    pub(crate) uuid: String,
}

impl DomainHandle {
    /// [`Libvirt::call`] with the domain looked up.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        repeat: Repeat,
        work: impl Fn(&Domain) -> Result<T, virt::error::Error> + Send + Sync + 'static,
    ) -> Result<T, CallError> {
        let uuid = self.uuid.clone();
        let work = move |connection: &Connect| work(&Domain::lookup_by_uuid_string(connection, &uuid)?);
        self.libvirt.call(limit, repeat, work).await
    }

    /// Whether the domain runs (or is paused).
    pub(crate) async fn is_active(&self) -> Result<bool, CallError> {
        self.call(USUAL, Repeat::Safe, Domain::is_active).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_ends_at_its_deadline() {
        let libvirt = Libvirt::new("test:///default".into());
        let ends = Arc::new(Barrier::new(2));
        let hangs = Arc::clone(&ends);
        let call = libvirt.call(Duration::from_millis(50), Repeat::Never, move |_| {
            hangs.wait();
            Ok(())
        });
        let error = call.await.unwrap_err();
        assert!(!error.is_answer());
        assert_eq!(error.while_doing("waiting").kind(), ErrorKind::Unavailable);
        libvirt.call(USUAL, Repeat::Never, Connect::get_lib_version).await.expect("a new connection is made");
        ends.wait();
    }

    #[test]
    fn every_reference_to_a_connection_is_given_back() {
        let slot = Mutex::default();
        let with =
            |work: &dyn Fn(&Connect) -> Result<(), virt::error::Error>| with_connection(&slot, "test:///default", work);
        let ours = Mutex::default();
        with(&|connection| {
            *ours.lock().unwrap() = Some(connection.clone());
            Ok(())
        })
        .unwrap();
        with(&|connection| Domain::lookup_by_name(connection, "test")?.get_xml_desc(0).map(drop)).unwrap();
        with(&|connection| connection.list_all_domains(0).map(drop)).unwrap();
        with(&|connection| Domain::lookup_by_name(connection, "no such").map(drop)).unwrap_err();
        drop(slot.lock().unwrap().take());
        // libvirt says how it is with the connection: 0 if this was the last reference, 1 if there are more.
        assert_eq!(ours.lock().unwrap().take().unwrap().close(), Ok(0));
    }

    #[tokio::test]
    async fn a_libvirt_that_is_not_there_is_unavailable_at_once() {
        let libvirt = Libvirt::new("qemu+unix:///system?socket=/nonexistent/libvirt-sock".into());
        let error = libvirt.call(USUAL, Repeat::Safe, Connect::get_lib_version).await.unwrap_err();
        assert!(!libvirt.comes_back(Repeat::Safe), "it is tried once");
        let error = error.while_doing("connecting");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.chain().contains("/nonexistent/libvirt-sock"), "{}", error.chain());
    }

    #[tokio::test]
    async fn what_libvirt_says_keeps_its_number() {
        let libvirt = Libvirt::new("test:///default".into());
        let error = libvirt.call(USUAL, Repeat::Safe, |c| Domain::lookup_by_name(c, "no such")).await.unwrap_err();
        assert_eq!(error.number(), Some(ErrorNumber::NoDomain));
        assert_eq!(error.while_doing("looking").kind(), ErrorKind::NotFound);
    }
}
