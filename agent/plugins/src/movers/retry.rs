//! Calls that are made again while that makes sense: the host does that for every mover, and no mover for itself.

use std::time::Duration;

use remora_core::outage::Outage;
use tokio::time::{Instant, sleep};

use super::conversation::{Component, Failed, Luggage};
use super::failure;
use super::wire::{Call, Done};

/// The first pause before a call is made again; each is twice the one before, and drawn at random below that.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The same while a store is away: it is to be noticed soon that it is there again.
const LONGEST_WHILE_AWAY: Duration = Duration::from_secs(5);

/// How long a store that fails is tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often a call is made again; not counted while a store of objects is away that was there before.
    pub retries: u32,
    /// After this time it is not made again.
    pub give_up: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { retries: 8, give_up: Duration::from_mins(2) }
    }
}

impl Patience {
    /// Calls a component of the mover `name`. The luggage of the call that went well is given back. If the store has an
    /// [`Outage`], it is waited for: every function may be called again after an unknown outcome (`wit/mover/package.wit`).
    pub(super) async fn call(
        self,
        component: &Component,
        outage: Option<&Outage>,
        (name, doing): (&str, &str),
        make: impl Fn() -> (Call, Luggage),
    ) -> Result<(Done, Luggage), Failed> {
        let once = || {
            let (call, luggage) = make();
            async move { component.call(call, luggage.clone()).await.and_then(whole).map(|done| (done, luggage)) }
        };
        self.again(outage, (name, doing), once).await
    }

    async fn again<T, F: Future<Output = Result<T, Failed>>>(
        self,
        outage: Option<&Outage>,
        (name, doing): (&str, &str),
        once: impl Fn() -> F,
    ) -> Result<T, Failed> {
        let started = Instant::now();
        let (mut pause, mut retries) = (FIRST_PAUSE, self.retries);
        loop {
            let done = once().await;
            if let Some(outage) = outage.filter(|_| done.as_ref().err().is_none_or(failure::is_an_answer)) {
                outage.is_over();
            }
            let failed = match done {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            let begins = || tracing::info!(mover = name, "the store is away, and is waited for");
            let away =
                outage.filter(|_| failure::is_away(&failed)).and_then(|outage| outage.since(Instant::now(), begins));
            let Some(not_before) = failure::again_after(&failed) else { return Err(failed) };
            let longest = if away.is_some() { LONGEST_WHILE_AWAY } else { LONGEST_PAUSE };
            let wait = not_before.max(pause.min(longest).mul_f64(fastrand::f64()));
            let over = |since: Instant| since.elapsed() + wait > self.give_up;
            let waits = retries > 0 || away.is_some_and(|since| !over(since));
            if over(started) || !waits {
                return Err(match away {
                    Some(since) => failure::after_waiting(failed, since.elapsed()),
                    None => failed,
                });
            }
            tracing::debug!(mover = name, "{doing} is tried again: {failed:?}");
            sleep(wait).await;
            retries = retries.saturating_sub(1);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

/// A deletion has an outcome for each key. If one of them may go well the next time, all of them are asked for again: what is gone
/// counts as deleted.
fn whole(done: Done) -> Result<Done, Failed> {
    let Done::Deleted(each) = &done else { return Ok(done) };
    let mut failed = each.iter().filter_map(|one| one.as_ref().err()).map(|error| Failed::Error(error.clone()));
    let again = failed.find(|failed| failure::again_after(failed).is_some());
    again.map_or(Ok(done), Err)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::words::{Class, MoverError};
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn error(class: Class, code: &str) -> MoverError {
        MoverError::new(class, code, "there is no connection to store.example")
    }

    /// What became of a call.
    struct Called {
        failed: Option<Failed>,
        took: Duration,
        tries: u32,
    }

    impl Called {
        /// The words of the error that there must be.
        #[track_caller]
        fn words(&self) -> &str {
            match &self.failed {
                Some(Failed::Error(error)) => &error.message,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Calls a store that fails with this code for so long, and then answers.
    async fn call(outage: Option<&Outage>, code: &str, fails_for: Duration) -> Called {
        let (begun, tries) = (Instant::now(), Cell::new(0));
        let once = || {
            tries.set(tries.get() + 1);
            let fails = begun.elapsed() < fails_for;
            async move { if fails { Err(Failed::Error(error(Class::Retryable, code))) } else { Ok(()) } }
        };
        let failed = Patience::default().again(outage, ("acme", "storing x"), once).await.err();
        Called { failed, took: begun.elapsed(), tries: tries.get() }
    }

    /// Of a store that has answered.
    async fn seen() -> Outage {
        let outage = Outage::default();
        call(Some(&outage), "", Duration::ZERO).await;
        outage
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_for_90_s_costs_a_call_nothing_but_time() {
        for code in ["broker-connect", "broker-broken"] {
            let outage = seen().await;
            for _ in 0..2 {
                let called = call(Some(&outage), code, MINUTE * 3 / 2).await;
                assert!(called.failed.is_none(), "{code}: {:?}", called.failed);
                assert!(called.took <= MINUTE * 3 / 2 + LONGEST_WHILE_AWAY, "{code}: {:?}", called.took);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_for_3_minutes_is_an_error_that_says_how_long_was_waited() {
        let outage = seen().await;
        let called = call(Some(&outage), "broker-connect", MINUTE * 3).await;
        assert!(called.took + LONGEST_WHILE_AWAY > MINUTE * 2 && called.took <= MINUTE * 2, "{:?}", called.took);
        let waited = format!("store.example; the store was waited for in vain for {} s", called.took.as_secs());
        assert!(called.words().ends_with(&waited), "{}", called.words());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_a_store_was_waited_for_in_vain_does_not_wait_again() {
        let outage = seen().await;
        call(Some(&outage), "broker-connect", MINUTE * 10).await;
        // What is left of the two minutes.
        sleep(LONGEST_WHILE_AWAY).await;
        let called = call(Some(&outage), "broker-connect", MINUTE * 10).await;
        assert_eq!(called.tries, 9);
        assert!(called.words().contains("in vain"), "{}", called.words());
        call(Some(&outage), "", Duration::ZERO).await;
        assert!(call(Some(&outage), "broker-connect", MINUTE).await.failed.is_none(), "it was there in between");
    }

    #[tokio::test(start_paused = true)]
    async fn all_else_that_fails_is_tried_nine_times() {
        let (never, there) = (Outage::default(), seen().await);
        for (outage, code) in [
            (Some(&there), "broker-timeout"),
            (Some(&there), "http-503"),
            // Its address may be mistyped.
            (Some(&never), "broker-connect"),
            // Points in a mover's own form.
            (None, "broker-connect"),
        ] {
            let called = call(outage, code, MINUTE * 3).await;
            assert_eq!(called.tries, 9, "{code}");
            assert_eq!(called.words(), "there is no connection to store.example", "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn that_something_is_not_there_shows_that_there_is_a_store() {
        let outage = Outage::default();
        let missing = || async { Err::<(), _>(Failed::Error(error(Class::NotFound, "http-404"))) };
        Patience::default().again(Some(&outage), ("acme", "looking at x"), missing).await.unwrap_err();
        assert!(call(Some(&outage), "broker-connect", MINUTE).await.failed.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_for_a_store_is_given_up_at_once() {
        let (outage, begun) = (seen().await, Instant::now());
        let waiting = call(Some(&outage), "broker-connect", MINUTE * 3);
        tokio::time::timeout(MINUTE, waiting).await.map(drop).unwrap_err();
        assert!(begun.elapsed() < MINUTE + Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_deletion_is_asked_for_again_if_one_of_its_keys_may_go_well_then() {
        let deleted = |class: Class| whole(Done::Deleted(vec![Ok(()), Err(error(class, "code"))]));
        assert!(matches!(deleted(Class::Retryable), Err(Failed::Error(error)) if error.class == Class::Retryable));
        assert!(matches!(deleted(Class::Permission), Ok(Done::Deleted(each)) if each.len() == 2));
    }
}
