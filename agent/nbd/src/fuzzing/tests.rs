//! A short run of the fuzz targets on stable: their seeds, and mutations of them that are the same in every run.

use remora_tests::seeds::{committed, drive};

#[test]
fn parsers_hold_on_seeds_and_their_mutations() {
    drive("nbd_reply", 20_000, super::parsers);
}

#[test]
fn conversations_hold_on_seeds_and_their_mutations() {
    drive("nbd_conversation", 3000, |bytes| {
        super::conversation(bytes);
    });
}

/// Otherwise their mutations would reach little of the client.
#[test]
fn seeds_of_conversations_reach_to_the_last_reply() {
    let mut answered: Vec<_> = committed("nbd_conversation").iter().map(|seed| super::conversation(seed)).collect();
    answered.sort_unstable();
    assert_eq!(answered, [0, 2, 3, 4, 4]);
}
