//! `remora backup`

use remora_core::plan::Asked;
use remora_core::point::Decision;
use remora_core::ports::Patience;
use remora_core::{DiskName, MemoryBudget, PointId, Result, VmName};
use remora_engine::{BackupReport, BackupRequest, PIECES, SPOT_CHECKS, backup};
use remora_vault::Locked;
use serde::Serialize;

use super::renew::renew;
use crate::args;
use crate::context::Context;
use crate::output::{bytes, print, printable, table};

/// The result; the shape is a contract.
#[derive(Serialize)]
struct Made {
    point: PointId,
    vm: VmName,
    decision: Decision,
    reason: String,
    disks: Vec<Disk>,
    seconds: f64,
    /// Until when nothing that the VM's points need can be deleted; left out if the repository is not immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    immutable: Option<Locked>,
}

#[derive(Serialize)]
struct Disk {
    name: DiskName,
    size: u64,
    decision: Decision,
    read: u64,
    stored: u64,
}

pub(super) async fn run(context: &Context, args: args::Backup) -> Result<()> {
    let asked = match (args.full, args.reread) {
        (true, _) => Asked::Full,
        (false, true) => Asked::Reread,
        (false, false) => Asked::Auto,
    };
    let request = BackupRequest {
        vm: args.vm,
        disks: (!args.disks.is_empty()).then_some(args.disks),
        asked,
        quiesce: args.quiesce.into(),
        patience: args.wait.map_or(Patience::None, Patience::Wait),
        spot_checks: SPOT_CHECKS,
        memory: MemoryBudget::new(PIECES),
    };
    let source = context.source()?;
    let repository = context.points().await?;
    let shown = context.progress("backing up");
    let report = backup(&source, repository.port(), request, shown.port(), context.cancel.clone()).await;
    drop(shown);
    let report = report?;
    for note in &report.notes {
        context.note(note);
    }
    let immutable = match repository.vault() {
        Some(vault) => renew(context, vault, &report.point.vm).await,
        None => None,
    };
    print(context.format(), &result(&report, immutable), |result| text(result, &report))
}

fn result(report: &BackupReport, immutable: Option<Locked>) -> Made {
    let point = &report.point;
    let disk = |disk: &remora_core::point::PointDisk| Disk {
        name: disk.name.clone(),
        size: disk.size,
        decision: disk.decision,
        read: disk.read,
        stored: disk.stored,
    };
    Made {
        point: point.id.clone(),
        vm: point.vm.clone(),
        decision: point.decision,
        reason: point.reason.clone(),
        disks: point.disks.iter().map(disk).collect(),
        seconds: (report.seconds * 1000.0).round() / 1000.0,
        immutable,
    }
}

fn text(result: &Made, report: &BackupReport) -> String {
    let mut rows = vec![["DISK", "SIZE", "DECISION", "READ", "STORED", "REASON"].map(String::from)];
    rows.extend(report.point.disks.iter().map(|disk| {
        [
            disk.name.to_string(),
            bytes(disk.size),
            disk.decision.to_string(),
            bytes(disk.read),
            bytes(disk.stored),
            printable(&disk.reason),
        ]
    }));
    format!(
        "Made point {} of VM {} ({}, {:.1} s).\n{}",
        result.point,
        printable(result.vm.as_str()),
        result.decision,
        result.seconds,
        table(&rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_the_contract() {
        let result = Made {
            point: "0011223344556677-1".parse().unwrap(),
            vm: VmName::new("a\nb").unwrap(),
            decision: Decision::Reread,
            reason: "asked for".into(),
            disks: vec![Disk {
                name: DiskName::new("vda").unwrap(),
                size: 3,
                decision: Decision::Reread,
                read: 2,
                stored: 1,
            }],
            seconds: 1.5,
            immutable: None,
        };
        assert_eq!(
            serde_json::to_string(&result).unwrap(),
            r#"{"point":"0011223344556677-1","vm":"a\nb","decision":"reread","reason":"asked for","disks":[{"name":"vda","size":3,"decision":"reread","read":2,"stored":1}],"seconds":1.5}"#
        );
    }
}
