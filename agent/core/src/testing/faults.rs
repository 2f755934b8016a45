//! Which call breaks, and how.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, ErrorKind, Result};

/// Whether a broken call has its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It fails and does nothing.
    Before,
    /// It does everything, and fails then: a lost reply.
    After,
}

/// What happens at a call.
#[derive(Clone)]
pub enum Fault {
    /// It fails with this kind.
    Fail(ErrorKind, When),
    /// This is called, and then the call goes on.
    Call(Arc<dyn Fn() + Send + Sync>),
    /// This is called, and then the call never ends.
    Hang(Arc<dyn Fn() + Send + Sync>),
}

/// Counts calls and breaks one. Cloning shares the count.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: u64,
    fault: Option<(u64, Fault)>,
    hit: Option<&'static str>,
}

impl Faults {
    /// Breaks the call of that number, counted from 0 now on.
    pub fn arm(&self, call: u64, fault: Fault) {
        *self.lock() = State { calls: 0, fault: Some((call, fault)), hit: None };
    }

    /// Breaks nothing any more, and counts from 0.
    pub fn disarm(&self) {
        *self.lock() = State::default();
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The name of the call that was broken, if it came to that.
    pub fn hit(&self) -> Option<&'static str> {
        self.lock().hit
    }

    /// Runs a call, broken or not.
    pub async fn call<T>(&self, name: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.next(name) {
            None => call.await,
            Some(Fault::Fail(kind, When::Before)) => Err(injected(name, kind)),
            Some(Fault::Fail(kind, When::After)) => {
                call.await?;
                Err(injected(name, kind))
            }
            Some(Fault::Call(then)) => {
                then();
                call.await
            }
            Some(Fault::Hang(then)) => {
                then();
                std::future::pending().await
            }
        }
    }

    fn next(&self, name: &'static str) -> Option<Fault> {
        let mut state = self.lock();
        let number = state.calls;
        state.calls += 1;
        let (_, fault) = state.fault.clone().filter(|(call, _)| *call == number)?;
        state.hit = Some(name);
        Some(fault)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn injected(name: &str, kind: ErrorKind) -> Error {
    Error::new(kind, format!("injected into {name}"))
}
