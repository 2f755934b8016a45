//! Components that take long are compiled beside the loading of policies: an interpreter with a program in it takes 12 s, a hostile
//! component a minute, and no other policy is to wait for that. Whoever loads one is told that it is being compiled, and loads it
//! again when it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_core::{Error, ErrorKind, Result};

use super::module::{Digest, Module, ModuleBytes};
use crate::registry::{WAITING, Wants};

/// What is wanted, what came of it, and whose turn it is.
#[derive(Default)]
pub(super) struct Aside(Mutex<State>);

#[derive(Default)]
struct State {
    now: HashMap<Digest, Standing>,
    /// What was wanted the last time that all policies were looked at.
    before: HashMap<Digest, Standing>,
    turn: Option<Turn>,
}

/// How it stands about a component.
#[derive(Default)]
struct Standing {
    tries: u32,
    outcome: Option<Result<Arc<Module>>>,
}

/// The component that is compiled next. Of the others that are wanted the bytes are not held: whoever loads them brings them
/// again.
struct Turn {
    tries: u32,
    component: ModuleBytes<'static>,
}

impl Aside {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All policies are looked at again: what none of them wants then is forgotten.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.before = std::mem::take(&mut state.now);
        state.turn = None;
    }

    /// Whether somebody wanted a component the last time, or wants it already.
    pub(super) fn knows(&self, digest: &Digest) -> bool {
        let state = self.state();
        state.now.contains_key(digest) || state.before.contains_key(digest)
    }

    /// The component, once it is compiled; why it is not before. Of those that may come to something, the one that was
    /// tried least has the next turn.
    pub(super) fn want(&self, component: ModuleBytes<'static>) -> Result<Arc<Module>> {
        let mut state = self.state();
        let State { now, before, turn } = &mut *state;
        let digest = component.digest;
        let standing = now.entry(digest).or_insert_with(|| before.remove(&digest).unwrap_or_default());
        let told = match &standing.outcome {
            Some(Ok(module)) => return Ok(Arc::clone(module)),
            Some(Err(error)) => told_again(error),
            None => Error::new(ErrorKind::Unavailable, "it is being compiled")
                .named(WAITING)
                .advise("It is in force as soon as that is done. What was compiled once is kept."),
        };
        let tries = standing.tries;
        if told.kind() == ErrorKind::Unavailable && turn.as_ref().is_none_or(|turn| tries < turn.tries) {
            *turn = Some(Turn { tries, component });
        }
        Err(told)
    }

    /// Whether somebody has a turn: who was never tried, or also who failed.
    pub(super) fn wants(&self, what: Wants) -> bool {
        self.state().turn.as_ref().is_some_and(|turn| turn.tries == 0 || what == Wants::All)
    }

    /// Whose turn it is. Whoever takes it says when it is [done](Self::done).
    pub(super) fn take(&self) -> Option<ModuleBytes<'static>> {
        let mut state = self.state();
        let component = state.turn.take()?.component;
        // Before it is done: what a thread dies of is not tried again at once.
        if let Some(standing) = state.now.get_mut(&component.digest) {
            standing.tries += 1;
        }
        Some(component)
    }

    /// What came of a component. Nothing, if nobody wants it any more.
    pub(super) fn done(&self, digest: &Digest, outcome: Result<Arc<Module>>) {
        let mut state = self.state();
        let State { now, before, .. } = &mut *state;
        // All policies may be looked at this very moment.
        if let Some(standing) = now.get_mut(digest).or_else(|| before.get_mut(digest)) {
            standing.outcome = Some(outcome);
        }
    }
}

/// What is wrong with a component stays so until it is another one. What is wrong with the machine may be over another time.
fn told_again(error: &Error) -> Error {
    let kind = match error.kind() {
        kind @ (ErrorKind::Invalid | ErrorKind::Refused | ErrorKind::Unsupported) => kind,
        _ => ErrorKind::Unavailable,
    };
    let told = Error::new(kind, error.chain());
    error.advice().into_iter().fold(told, Error::advise)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(of: u8) -> ModuleBytes<'static> {
        let bytes = vec![of];
        ModuleBytes { digest: Digest::of(&bytes), bytes: bytes.into() }
    }

    /// What is told of a component that is wanted.
    fn told(aside: &Aside, of: u8) -> Error {
        match aside.want(component(of)) {
            Err(error) => error,
            Ok(_) => panic!("nothing was compiled"),
        }
    }

    /// Lets the one whose turn it is fail.
    fn fail(aside: &Aside, kind: ErrorKind) -> u8 {
        let component = aside.take().unwrap();
        aside.done(&component.digest, Err(Error::new(kind, "no").because("so it is").advise("Wait.")));
        component.bytes[0]
    }

    #[test]
    fn what_is_wrong_with_a_component_is_told_and_not_tried_again() {
        let aside = Aside::default();
        aside.begin();
        let waiting = told(&aside, 1);
        assert!(waiting.name() == Some(WAITING) && aside.wants(Wants::New), "{waiting}");
        fail(&aside, ErrorKind::Invalid);
        aside.begin();
        let error = told(&aside, 1);
        let said = (error.kind(), error.chain(), error.advice(), error.name());
        assert_eq!(said, (ErrorKind::Invalid, "no: so it is".to_owned(), Some("Wait."), None));
        assert!(!aside.wants(Wants::All));
        // Nobody wants it in between.
        aside.begin();
        aside.begin();
        assert_eq!(told(&aside, 1).name(), Some(WAITING));
    }

    #[test]
    fn what_failed_for_the_machines_sake_is_tried_again_after_all_others_and_not_at_once() {
        let aside = Aside::default();
        let look = || {
            aside.begin();
            (told(&aside, 1).kind(), told(&aside, 2).kind())
        };
        look();
        assert_eq!(fail(&aside, ErrorKind::NotFound), 1);
        assert_eq!(look(), (ErrorKind::Unavailable, ErrorKind::Unavailable));
        assert!(aside.wants(Wants::New));
        assert_eq!(fail(&aside, ErrorKind::Unavailable), 2);
        look();
        assert!(!aside.wants(Wants::New) && aside.wants(Wants::All));
        assert_eq!(fail(&aside, ErrorKind::Unavailable), 1);
        look();
        assert_eq!(fail(&aside, ErrorKind::Unavailable), 2);
    }

    #[test]
    fn what_is_wanted_no_longer_while_it_is_compiled_leaves_nothing() {
        let aside = Aside::default();
        aside.begin();
        told(&aside, 1);
        let component = aside.take().unwrap();
        aside.begin();
        aside.done(&component.digest, Err(Error::new(ErrorKind::Invalid, "no")));
        aside.begin();
        assert!(!aside.wants(Wants::All));
        assert_eq!(told(&aside, 1).name(), Some(WAITING));
    }
}
