//! Which points they keep.

use remora_core::policy::Retention;
use remora_core::retention::{Candidate, Fate};
use remora_core::{PointId, VmName};
use remora_plugins::RetentionPolicy;

use super::{builtin, fields, host, time, vm};

#[tokio::test]
async fn gfs_keeps_what_prune_keeps_and_the_host_keeps_the_rest() {
    let host = host();
    let day = jiff::SignedDuration::from_hours(24);
    let start = time("2026-01-01T02:00:00Z");
    let point = |n: u64| Candidate {
        point: PointId::new("0123456789abcdef", n).unwrap(),
        time: start + day * i32::try_from(n).unwrap(),
        held: (n == 3).then(|| time("2026-06-01T00:00:00Z")),
    };
    let points: Vec<_> = (1..=60).map(point).collect();
    let now = start + day * 61;
    let policy = RetentionPolicy::load(&host, builtin("gfs"), r#"{"daily": 7, "weekly": 4}"#).unwrap();
    let rules = remora_core::retention::Rules { daily: 7, weekly: 4, ..Default::default() };
    let name = VmName::new("vm").unwrap();
    let verdicts = policy.of_vm(vm("vm", &[])).judge(&name, &points, now).await.unwrap();
    assert_eq!(verdicts, remora_core::retention::plan(&points, &rules, now));
    assert!(verdicts[2].reason.starts_with("held"), "{:?}", verdicts[2]);
    // A policy that would drop all: the newest one stays.
    let policy = RetentionPolicy::load(&host, builtin("gfs"), r#"{"hourly": 0, "yearly": 1, "minCount": 0}"#).unwrap();
    let yearly = policy.of_vm(vm("vm", &[])).judge(&name, &points, now).await.unwrap();
    assert_eq!(yearly.iter().filter(|v| v.fate == Fate::Keep).count(), 2);
    assert_eq!(fields(RetentionPolicy::load(&host, builtin("gfs"), "{}")), [""]);
    assert_eq!(fields(RetentionPolicy::load(&host, builtin("gfs"), r#"{"daily": -1}"#)), ["/daily"]);
    assert_eq!(fields(RetentionPolicy::load(&host, builtin("gfs"), r#"{"daily": 1, "minAge": "long"}"#)), ["/minAge"]);
}
