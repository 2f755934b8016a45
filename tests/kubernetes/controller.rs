//! `remora-controller` beside a real API server, under its own `ServiceAccount` and its own rules. The tests play KubeVirt
//! and the agents.

mod cluster;
mod halted;
mod keys;
mod metrics;
mod policy;
mod refusals;
mod repositories;
mod restores;
mod runs;
mod schedule;
mod worker;

pub(crate) use cluster::Cluster;

/// What the controller does beside a sound backup: tests that take it through all that it has rights for.
pub(crate) fn scenario() {
    refusals::what_keeps_a_run_from_beginning_is_said_and_when_it_is_put_right_the_run_begins();
    repositories::what_is_missing_of_a_repository_is_named();
    restores::a_restore_has_a_claim_and_a_worker_made_and_leaves_the_claim();
    restores::a_restore_that_fails_or_is_cancelled_takes_its_claim_with_it();
    restores::a_machine_is_made_when_its_disks_are_written();
    runs::what_an_attempt_wants_is_made_and_removed_and_the_run_goes_when_it_is_deleted();
    runs::a_tracker_of_an_earlier_machine_is_made_anew();
    runs::a_namespace_that_is_deleted_in_the_middle_of_a_backup_is_kept_by_nothing();
    schedule::remove_old_runs();
}
