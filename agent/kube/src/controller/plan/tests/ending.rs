//! The end of a run, and what stays after it.

use super::*;
use crate::resources::Verify;

#[test]
fn keys_are_given_after_the_end_while_a_point_waits_for_its_verification() {
    let ended = |verify, said: Option<(&str, &str)>| {
        let mut run = run("web");
        run.spec.verify = verify;
        let verified =
            said.map(|(status, reason)| Condition { reason: reason.into(), ..condition("Verified", status) });
        let conditions = [condition("Complete", "True")].into_iter().chain(verified).collect();
        run.status = Some(BackupRunStatus { conditions, ..BackupRunStatus::default() });
        run
    };
    let verifying = Some(("Unknown", "Verifying"));
    // Its own deadline, and 72 hours for the others of its node.
    let last = 1000 + 76 * 3600 - 1;
    for (run, time, over) in [
        (ended(Verify::All, None), last, false),
        (ended(Verify::All, None), last + 1, true),
        (ended(Verify::All, verifying), last, false),
        (ended(Verify::Structure, verifying), last + 1, true),
        (ended(Verify::All, Some(("True", "Sound"))), 2000, true),
        (ended(Verify::All, Some(("False", "Damaged"))), 2000, true),
        (ended(Verify::All, Some(("Unknown", "Unavailable"))), 2000, true),
        (ended(Verify::None, None), 2000, true),
    ] {
        assert_eq!(is_over(&run, at(time)), over, "{run:?} at {time}");
    }
}

#[test]
fn after_the_end_everything_goes_and_the_finalizer_last() {
    for kind in ["Complete", "Failed"] {
        let mut observed = claimed();
        status(&mut observed).conditions = vec![condition(kind, "True")];
        observed.made.tokens = vec![thing("t")];
        let first = plan(&observed);
        assert_eq!((steps(&observed), first.finalizer, first.status), (vec!["remove token"], Finalizer::Keep, None));
        observed.made.tokens.clear();
        assert_eq!(plan(&observed).finalizer, Finalizer::Remove);
        observed.run.metadata.finalizers = None;
        assert_eq!(plan(&observed), Plan::default());
    }
}

#[test]
fn a_run_ends_without_a_point_when_nobody_else_can_end_it() {
    let ended = |observed: &Observed| plan(observed).status.and_then(|status| status.ended).map(|ended| ended.reason);
    let deleted = |mut observed: Observed, time: i64| {
        observed.run.metadata.deletion_timestamp = Some(Time(at(time)));
        observed
    };
    let cancelled = |mut observed: Observed| {
        observed.run.spec.cancel = true;
        observed
    };
    let late = |mut observed: Observed, by: i64| {
        observed.now = at(1000 + 4 * 3600 + by);
        observed
    };
    let silent = |mut observed: Observed, seconds: u64| {
        observed.silent = Duration::from_secs(seconds);
        observed
    };
    let succeeded = |mut observed: Observed, is_ready: bool| {
        observed.agents = vec![Agent { is_ready, ..agent("successor") }];
        observed
    };
    for (observed, wanted) in vec![
        (sound(), None),
        (claimed(), None),
        (cancelled(sound()), Some("Cancelled")),
        (deleted(sound(), 1990), Some("Cancelled")),
        (late(sound(), -1), None),
        (late(sound(), 0), Some("DeadlineExceeded")),
        // Whoever holds it ends it, unless that takes too long.
        (cancelled(claimed()), None),
        (deleted(claimed(), 1990), None),
        (deleted(claimed(), 1700), Some("Cancelled")),
        (late(claimed(), 170), None),
        (late(claimed(), 180), Some("DeadlineExceeded")),
        (silent(claimed(), 119), None),
        (silent(claimed(), 120), Some("AgentLost")),
        (silent(succeeded(claimed(), true), 239), None),
        (silent(succeeded(claimed(), true), 240), Some("AgentLost")),
        // It has just been started.
        (silent(succeeded(claimed(), false), 239), None),
        (silent(sound(), 1000), None),
    ] {
        assert_eq!(ended(&observed), wanted, "{:?} at {}", observed.run, observed.now);
    }
    let mut waited = late(sound(), 1);
    status(&mut waited).conditions = vec![condition("Assigned", "False")];
    let message = plan(&waited).status.unwrap().ended.unwrap().message;
    assert!(message.contains("within 4h") && message.contains("the reason of before"), "{message}");
    // Nothing half-made stays, once the end is written: an agent of which only nothing was heard may be reading it.
    let mut lost = silent(claimed(), 500);
    lost.made.backups = vec![thing("b")];
    assert!(steps(&lost).is_empty() && plan(&lost).again.is_some());
    status(&mut lost).conditions = vec![condition("Failed", "True")];
    assert_eq!(steps(&lost), ["remove backup"]);
}

#[test]
fn that_nothing_was_stored_is_said_only_of_a_run_that_no_agent_ever_had() {
    let mut observed = sound();
    observed.run.spec.cancel = true;
    let message = |observed: &Observed| plan(observed).status.unwrap().ended.unwrap().message;
    assert!(message(&observed).ends_with("Nothing was stored by it."), "{}", message(&observed));
    // Given back by one that had to stop, perhaps while it committed.
    status(&mut observed).start_time = Some(Time(at(1500)));
    assert!(message(&observed).ends_with("the repository has it."), "{}", message(&observed));
    // Nor that it was never taken.
    observed.run.spec.cancel = false;
    observed.now = at(1000 + 4 * 3600);
    assert!(message(&observed).contains("gave it back"), "{}", message(&observed));
}
