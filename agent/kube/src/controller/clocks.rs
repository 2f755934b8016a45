//! Who shows signs of life, by this process's own clock: nodes' clocks may be anything.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::resources::Run;

/// A clock that has run for so long is forgotten: a run that is deleted while its point is verified leaves one.
const LONGEST: Duration = Duration::from_hours(24);

/// What was last seen of a run's agent, and when it was seen first.
struct Seen {
    agent: String,
    heartbeat: Option<i64>,
    since: Instant,
}

/// The clocks of all runs that are claimed. A new controller begins them anew: doubt costs time.
#[derive(Default)]
pub(super) struct Clocks(Mutex<HashMap<String, Seen>>);

impl Clocks {
    /// Since when the run's agent has shown no sign of life.
    pub(super) fn silent(&self, run: &impl Run, now: Instant) -> Duration {
        let Some(uid) = run.meta().uid.clone() else { return Duration::ZERO };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(agent) = run.agent() else {
            seen.remove(&uid);
            return Duration::ZERO;
        };
        if !seen.contains_key(&uid) {
            seen.retain(|_, last| now.saturating_duration_since(last.since) < LONGEST);
        }
        let heartbeat = run.heartbeat();
        let fresh = || Seen { agent: agent.to_owned(), heartbeat, since: now };
        let last = seen.entry(uid).or_insert_with(fresh);
        if (last.agent.as_str(), last.heartbeat) != (agent, heartbeat) {
            *last = fresh();
        }
        now.saturating_duration_since(last.since)
    }

    /// Forgets a run: one that is gone, or one that could not be looked at. An API server that was away has taken no heartbeat
    /// either, and a controller that reaches it again before the agent does must not hold the agent for dead.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing::run;

    #[test]
    fn a_clock_runs_until_the_heartbeat_or_the_agent_changes() {
        let (clocks, begin) = (Clocks::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut run = run("web");
        assert_eq!(clocks.silent(&run, at(0)), Duration::ZERO);
        run.status.get_or_insert_default().agent = Some("a".into());
        run.status.get_or_insert_default().heartbeat = Some(7);
        assert_eq!(clocks.silent(&run, at(10)), Duration::ZERO);
        assert_eq!(clocks.silent(&run, at(130)), Duration::from_mins(2));
        // Lower is another one too.
        run.status.get_or_insert_default().heartbeat = Some(6);
        assert_eq!(clocks.silent(&run, at(140)), Duration::ZERO);
        assert_eq!(clocks.silent(&run, at(150)), Duration::from_secs(10));
        run.status.get_or_insert_default().agent = Some("b".into());
        assert_eq!(clocks.silent(&run, at(160)), Duration::ZERO);
        run.status.get_or_insert_default().agent = None;
        clocks.silent(&run, at(170));
        run.status.get_or_insert_default().agent = Some("b".into());
        assert_eq!(clocks.silent(&run, at(180)), Duration::ZERO);
        // Nobody could be asked for ten minutes: the clock begins anew with the next look.
        clocks.forget("run-uid");
        assert_eq!(clocks.silent(&run, at(780)), Duration::ZERO);
        assert_eq!(clocks.silent(&run, at(790)), Duration::from_secs(10));
    }

    #[test]
    fn a_clock_that_nobody_stops_is_forgotten_after_a_day() {
        let (clocks, begin) = (Clocks::default(), Instant::now());
        let ask = |uid: &str, after: Duration| {
            let mut run = run("web");
            run.metadata.uid = Some(uid.into());
            run.status.get_or_insert_default().agent = Some("a".into());
            clocks.silent(&run, begin + after)
        };
        ask("gone", Duration::ZERO);
        ask("works", Duration::from_secs(1));
        ask("new", LONGEST);
        assert_eq!(clocks.0.lock().unwrap().len(), 2);
        assert_eq!(ask("works", LONGEST + Duration::from_secs(1)), LONGEST);
    }
}
