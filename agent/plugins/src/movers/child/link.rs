//! The way from the child's threads to the host.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use super::super::wire::{self, Ask, Done, Fault, LONGEST_STARTED, LONGEST_UP, Up};

/// The socket, for all threads: a message goes out whole.
pub(super) struct Link(Mutex<UnixStream>);

impl Link {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(Mutex::new(socket))
    }

    pub(super) fn say(&self, up: &Up) -> io::Result<()> {
        self.say_at_most(up, LONGEST_UP)
    }

    /// Says that the component can be run, and what was compiled of it now.
    pub(super) fn started(&self, compiled: Option<Vec<u8>>) -> io::Result<()> {
        self.say_at_most(&Up::Started(Ok(compiled)), LONGEST_STARTED)
    }

    fn say_at_most(&self, up: &Up, longest: u32) -> io::Result<()> {
        match wire::frame(up, longest) {
            Some(frame) => wire::write(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), &frame),
            None => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    /// Asks for an instance; whether it was small enough to be said.
    pub(super) fn ask(&self, instance: u32, ask: Ask) -> io::Result<()> {
        self.say(&Up::Ask { instance, ask })
    }

    /// Says what became of a call. A gigantic answer is none.
    pub(super) fn done(&self, instance: u32, outcome: Result<Done, Fault>) -> io::Result<()> {
        match self.say(&Up::Done { instance, outcome }) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                let why = format!("its answer is larger than {} MiB", LONGEST_UP >> 20);
                self.say(&Up::Done { instance, outcome: Err(Fault::Died(why)) })
            }
            said => said,
        }
    }
}
