//! Requests that are held up until they may go on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What requests pass through. It is open.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    waiting: usize,
}

impl Gate {
    /// Whoever comes now waits.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    /// All go on.
    pub(crate) fn open(&self) {
        self.state().closed = false;
        self.opened.notify_all();
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// Goes through, once it is open.
    pub(crate) fn pass(&self) {
        let mut state = self.state();
        state.waiting += 1;
        state = self.opened.wait_while(state, |state| state.closed).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
