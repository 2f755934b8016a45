//! The agent of a node: which runs it does, and what it says of them. The controller is played by the tests, and so is what
//! makes points, but for `engine.rs` and `scratch.rs`.

mod agent_node;
mod claims;
mod cluster;
mod ends;
pub(crate) mod engine;
mod logs;
mod outages;
mod restores;
mod scene;
mod scratch;
mod shim;
mod storm;
mod verifications;
mod worker;

/// What an agent does beside backups: tests that take it through all that it has rights for.
pub(crate) fn scenario() {
    restores::a_restore_is_claimed_and_says_how_far_it_is_and_that_all_is_written();
    restores::what_is_cancelled_deleted_or_ended_is_left_alone();
    verifications::a_point_is_read_after_the_end_and_its_run_says_how_far_and_that_it_is_sound();
    claims::a_dead_agent_s_run_is_begun_again_with_the_next_attempt_and_a_live_one_s_is_not();
    ends::what_the_controller_has_ended_or_another_agent_has_claimed_is_let_go();
    ends::a_run_that_the_watch_shows_no_more_is_looked_at();
}
