//! The memory that the pods ask for, and may have, by what was measured.

use serde_json::Value;

use super::{built, find, table};
use crate::api;

const MEASURED: &str = include_str!("../../../docs/benchmarks.md");

/// The most of what the rows say that begin so, in MiB. The last figure of each is that of its peak.
#[track_caller]
fn most(begins: &str) -> f64 {
    let rows = table(MEASURED, "# Benchmarks");
    let of = rows.iter().filter(|cells| cells[0].starts_with(begins));
    let peak = |cell: &str| cell.rsplit_once(" MiB")?.0.rsplit(' ').next()?.parse::<f64>().ok();
    let peaks = of.map(|cells| peak(cells[2]).unwrap_or_else(|| panic!("no MiB are told: {cells:?}")));
    peaks.reduce(f64::max).unwrap_or_else(|| panic!("docs/benchmarks.md has no row that begins with {begins:?}"))
}

/// What is deployed, in MiB.
#[track_caller]
fn mib(quantity: &Value) -> f64 {
    let number = quantity.as_str().and_then(|text| text.strip_suffix("Mi")?.parse().ok());
    number.unwrap_or_else(|| panic!("{quantity} is no number of Mi"))
}

#[test]
fn what_the_pods_ask_for_and_may_have_is_enough_by_what_was_measured() {
    let objects = built(api(), "overlays/plain");
    let memory = |kind: &str, name: &str| {
        let resources = &find(&objects, kind, name)["spec"]["template"]["spec"]["containers"][0]["resources"];
        ["requests", "limits"].map(|of| mib(&resources[of]["memory"]))
    };
    let [asked, allowed] = memory("DaemonSet", "remora-agent");
    let (backup, restore) = (most("Peak memory, backup of"), most("Peak memory, its restore"));
    let idle = most("An idle agent with 50 machines on its node: memory");
    assert!(idle.max(backup) <= asked, "{idle} at rest, {backup} for a backup, and {asked} are asked for");
    // Two of each at once, and a verification. The other half is the movers'.
    let all = 2.0 * (backup + restore) + most("Peak memory, verification of");
    assert!(all <= allowed / 2.0, "{all} of {allowed}");

    let [asked, allowed] = memory("Deployment", "remora-controller");
    let controller = most("The same: peak memory of the controller");
    assert!(controller <= asked && asked <= allowed, "{controller}, and {asked} of {allowed} are asked for");
}
