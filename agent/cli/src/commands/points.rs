//! `remora points`

use std::collections::BTreeSet;

use jiff::Timestamp;
use remora_core::point::{Decision, Point};
use remora_core::ports::Listing;
use remora_core::{Error, ErrorKind, PointId, Result, VmName};
use serde::Serialize;

use crate::context::Context;
use crate::output::{bytes, print, printable, table};

/// An entry of the result; the shape is a contract.
#[derive(Serialize)]
struct Listed {
    point: PointId,
    vm: VmName,
    time: Timestamp,
    decision: Decision,
    parent: Option<PointId>,
    size: u64,
    stored: u64,
    /// Whether only a part of it was read back when it was stored; left out if all was.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sampled: bool,
}

impl From<&Point> for Listed {
    fn from(point: &Point) -> Self {
        Self {
            point: point.id.clone(),
            vm: point.vm.clone(),
            time: point.time,
            decision: point.decision,
            parent: point.parent.clone(),
            size: point.size(),
            stored: point.stored,
            sampled: false,
        }
    }
}

pub(super) async fn run(context: &Context, vm: Option<VmName>) -> Result<()> {
    let Listing { points, unreadable, sampled } = context.points().await?.port().list(vm.as_ref()).await?;
    if let (Some(vm), true, true) = (&vm, points.is_empty(), unreadable.is_empty()) {
        return Err(Error::new(ErrorKind::NotFound, format!("the repository has no point of a VM {:?}", vm.as_str()))
            .advise("`remora points` lists what there is."));
    }
    let sampled: BTreeSet<PointId> = sampled.into_iter().collect();
    let mut listed = oldest_first(&points);
    for point in &mut listed {
        point.sampled = sampled.contains(&point.point);
    }
    print(context.format(), &listed, |listed| text(listed))?;
    unreadable_error(&unreadable)
}

/// All VMs' points in one order of time. Within a VM its sequence decides, whatever its clock said.
fn oldest_first(points: &[Point]) -> Vec<Listed> {
    let mut keyed: Vec<(Timestamp, Listed)> = Vec::with_capacity(points.len());
    for point in points {
        // They come by VM and in sequence: never before the one that went before.
        let floor = keyed.last().filter(|(_, last)| last.vm == point.vm).map_or(point.time, |(time, _)| *time);
        keyed.push((point.time.max(floor), Listed::from(point)));
    }
    keyed.sort_by_key(|(time, _)| *time);
    keyed.into_iter().map(|(_, listed)| listed).collect()
}

/// The error that names all points that are there and cannot be read.
fn unreadable_error(unreadable: &[(PointId, Error)]) -> Result<()> {
    let Some((_, first)) = unreadable.first() else { return Ok(()) };
    let kind = first.kind();
    let each = unreadable.iter().map(|(point, error)| {
        let chain = error.chain();
        // Most errors name their point already.
        if chain.contains(&point.to_string()) { chain } else { format!("point {point}: {chain}") }
    });
    let what = format!("{} of the points cannot be read: {}", unreadable.len(), each.collect::<Vec<_>>().join("; "));
    Err(Error::new(kind, what).advise("The other points are not affected."))
}

fn text(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "No points yet.".into();
    }
    let mut rows = vec![["POINT", "VM", "TIME", "DECISION", "SIZE", "STORED"].map(String::from)];
    rows.extend(listed.iter().map(|point| {
        [
            point.point.to_string(),
            printable(point.vm.as_str()),
            format!("{:.0}", point.time),
            point.decision.to_string(),
            bytes(point.size),
            if point.sampled { format!("{}, sampled", bytes(point.stored)) } else { bytes(point.stored) },
        ]
    }));
    table(&rows)
}

#[cfg(test)]
mod tests {
    use remora_core::testing;

    use super::*;

    #[test]
    fn the_shape_is_the_contract() {
        let listed = Listed {
            point: "0011223344556677-1".parse().unwrap(),
            vm: VmName::new("vm").unwrap(),
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
            decision: Decision::Full,
            parent: None,
            size: 2,
            stored: 1,
            sampled: false,
        };
        assert_eq!(
            serde_json::to_string(&[listed]).unwrap(),
            r#"[{"point":"0011223344556677-1","vm":"vm","time":"2026-01-02T03:04:05Z","decision":"full","parent":null,"size":2,"stored":1}]"#
        );
    }

    fn point(vm: &str, sequence: u64, time: &str) -> Point {
        let first = testing::point(&VmName::new(vm).unwrap(), Vec::new());
        Point { id: PointId::new("0011223344556677", sequence).unwrap(), time: time.parse().unwrap(), ..first }
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_change_a_vms_order() {
        let points = [
            point("a", 1, "2026-01-01T00:00:00Z"),
            point("a", 2, "2026-01-03T00:00:00Z"),
            point("a", 3, "2026-01-02T00:00:00Z"),
            point("b", 1, "2026-01-02T12:00:00Z"),
        ];
        let order: Vec<_> = oldest_first(&points).iter().map(|p| (p.vm.to_string(), p.point.sequence())).collect();
        assert_eq!(order, [("a", 1), ("b", 1), ("a", 2), ("a", 3)].map(|(vm, n)| (vm.to_owned(), n)));
    }

    #[test]
    fn unreadable_points_are_named_each_once() {
        let point = |n: u64| PointId::new("0011223344556677", n).unwrap();
        let error = |n, text: &str| (point(n), Error::new(ErrorKind::Damaged, text.to_owned()));
        let named = unreadable_error(&[error(1, "bits flipped"), error(2, "point 0011223344556677-2: gone")]);
        let named = named.unwrap_err();
        assert_eq!(named.kind(), ErrorKind::Damaged);
        for n in 1..3 {
            assert_eq!(named.chain().matches(&point(n).to_string()).count(), 1, "{}", named.chain());
        }
    }
}
