//! `remora show`

use jiff::Timestamp;
use remora_core::point::{Decision, Point, PointDisk, Quiesced};
use remora_core::{CheckpointName, DiskName, LineageId, PointId, RepositoryId, Result, VmName};
use serde::Serialize;

use crate::context::Context;
use crate::output::{bytes, print, printable, table};

#[derive(Serialize)]
struct Shown {
    point: PointId,
    vm: VmName,
    time: Timestamp,
    decision: Decision,
    reason: String,
    parent: Option<PointId>,
    size: u64,
    stored: u64,
    quiesced: Quiesced,
    repository: RepositoryId,
    copy_of: Option<PointId>,
    tool: String,
    disks: Vec<Disk>,
    definition: String,
}

#[derive(Serialize)]
struct Disk {
    name: DiskName,
    size: u64,
    decision: Decision,
    reason: String,
    read: u64,
    stored: u64,
    rewritten: u64,
    path: String,
    lineage: LineageId,
    checkpoint: Option<CheckpointName>,
    read_in_full: Timestamp,
}

impl From<Point> for Shown {
    fn from(point: Point) -> Self {
        Self {
            size: point.size(),
            point: point.id,
            vm: point.vm,
            time: point.time,
            decision: point.decision,
            reason: point.reason,
            parent: point.parent,
            stored: point.stored,
            quiesced: point.quiesced,
            repository: point.repository,
            copy_of: point.copy_of,
            tool: point.tool,
            disks: point.disks.into_iter().map(Disk::from).collect(),
            definition: point.definition,
        }
    }
}

impl From<PointDisk> for Disk {
    fn from(disk: PointDisk) -> Self {
        Self {
            name: disk.name,
            size: disk.size,
            decision: disk.decision,
            reason: disk.reason,
            read: disk.read,
            stored: disk.stored,
            rewritten: disk.rewritten,
            path: disk.identity.path,
            lineage: disk.lineage,
            checkpoint: disk.checkpoint,
            read_in_full: disk.read_in_full,
        }
    }
}

pub(super) async fn run(context: &Context, point: PointId) -> Result<()> {
    let repository = context.points().await?;
    let reader = repository.port().open(&point).await?;
    print(context.format(), &Shown::from(reader.point().clone()), text)
}

fn text(point: &Shown) -> String {
    let quiesced = match point.quiesced {
        Quiesced::Frozen => "the guest's filesystems were frozen",
        Quiesced::Skipped => "the guest was not asked to freeze: crash-consistent",
        Quiesced::Failed => "the guest could not be frozen: crash-consistent",
    };
    let mut rows = vec![["DISK", "SIZE", "DECISION", "READ", "STORED", "IMAGE", "REASON"].map(String::from)];
    rows.extend(point.disks.iter().map(|disk| {
        [
            disk.name.to_string(),
            bytes(disk.size),
            disk.decision.to_string(),
            bytes(disk.read),
            bytes(disk.stored),
            printable(&disk.path),
            printable(&disk.reason),
        ]
    }));
    format!(
        "point     {}\nVM        {}\ntime      {}\ndecision  {}: {}\nparent    {}\nsize      {}\nstored    {}\nquiesced  {quiesced}\n\
         made by   {}\n\n{}",
        point.point,
        printable(point.vm.as_str()),
        point.time,
        point.decision,
        printable(&point.reason),
        point.parent.as_ref().map_or_else(|| "none".into(), PointId::to_string),
        bytes(point.size),
        bytes(point.stored),
        printable(&point.tool),
        table(&rows)
    )
}
