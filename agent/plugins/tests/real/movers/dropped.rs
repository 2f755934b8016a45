//! Points in a mover's own form that no rule keeps go; what others are made from, and what another run is at, stays.

use remora_core::policy::VmFacts;
use remora_core::retention::{Fate, Rules};
use remora_core::{ErrorKind, VmName};
use remora_plugins::RetentionPolicy;
use remora_plugins::movers::Dropping;

use super::volumes::{Lab, restored};
use crate::components::{host, late};

fn fates(pruned: &[(VmName, Vec<remora_core::retention::Verdict>)]) -> Vec<Fate> {
    pruned.iter().flat_map(|(_, points)| points).map(|point| point.fate).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_rule_keeps_is_dropped_and_what_was_made_from_it_stays_whole() {
    let lab = Lab::new();
    let vm = VmName::new("vm 1").unwrap();
    for seed in 1..=3 {
        lab.backup().await;
        lab.change_something(seed);
    }
    let rules = Rules { last: 2, ..Rules::default() };
    let would = lab.mover.prune(Some(&vm), &rules, Dropping::DryRun).await.unwrap();
    assert_eq!((fates(&would), lab.points().await.len()), (vec![Fate::Drop, Fate::Keep, Fate::Keep], 3));
    let third = lab.backup().await.point.id;
    let points = lab.points().await;
    let pruned = lab.mover.prune(None, &rules, Dropping::Run).await.unwrap();
    assert_eq!(fates(&pruned), [Fate::Drop, Fate::Drop, Fate::Keep, Fate::Keep]);
    assert_eq!(lab.points().await, points[2..]);
    assert_eq!(lab.appliance.points().len(), 4, "two points and their notes: {:?}", lab.appliance.points());
    assert!(restored(&lab.mover, &third, 1).await == *lab.host.bytes(1));
    // No rule at all keeps the newest one from the next increment.
    lab.mover.prune(Some(&vm), &Rules { min_count: 0, ..Rules::default() }, Dropping::Run).await.unwrap();
    assert_eq!(lab.points().await, [third]);
    let next = lab.backup().await.point;
    assert_eq!(next.decision.to_string(), "incremental");
    let nobody = VmName::new("vm 2").unwrap();
    let error = lab.mover.prune(Some(&nobody), &rules, Dropping::Run).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_dropped_by_a_policy_that_hangs_or_traps() {
    let lab = Lab::new();
    let vm = VmName::new("vm 1").unwrap();
    lab.backup().await;
    lab.backup().await;
    let points = lab.points().await;
    for fault in ["(loop $for_ever (br $for_ever)) (i32.const 0)", "unreachable"] {
        let policy = RetentionPolicy::load(&host(), &late("keeper", fault, ""), "{}").unwrap();
        let rules = policy.of_vm(VmFacts::named(vm.clone()));
        let error = lab.mover.prune(Some(&vm), &rules, Dropping::Run).await.unwrap_err();
        assert!(error.chain().contains("`judge` failed"), "{}", error.chain());
        assert_eq!(lab.points().await, points);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_another_run_is_at_is_left_to_it() {
    let lab = Lab::new();
    let first = lab.backup().await.point.id;
    lab.backup().await;
    let name = lab.appliance.disks_of(&first.to_string());
    lab.appliance.keep(&format!("{name}-begun"), "vm 1", Some(b"{}"));
    let rules = Rules { last: 1, ..Rules::default() };
    let pruned = lab.mover.prune(None, &rules, Dropping::Run).await.unwrap();
    assert!(pruned[0].1[0].reason.contains("another run is at it"), "{pruned:?}");
    assert_eq!(lab.points().await.len(), 2);
    lab.appliance.remove(&format!("{name}-begun"));
    lab.mover.prune(None, &rules, Dropping::Run).await.unwrap();
    assert_eq!(lab.points().await.len(), 1);
}
