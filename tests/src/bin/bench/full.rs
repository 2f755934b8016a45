//! A full backup of 4 GiB, against what reading the disk, the processor's work and writing the result take at least.

use std::fs;
use std::process::Command;
use std::time::Duration;

use remora_tests::{DiskSpec, Domain, Format, Must, Remora};

use crate::measure::{Took, codec_cost, cores, cpu_of, seconds, took, write_cost};
use crate::report::{Row, Run};
use crate::setting::{DISK, REPEATS, Setting, remove};

/// What is allowed over the limit.
const FACTOR: f64 = 1.5;

const WHERE_IT_GOES: &str = "compressing takes about two fifths of the processor time, copying what is stored into the \
                             page cache a quarter, hashing a sixteenth; each segment is synced by itself.";

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let domain = setting.lab.domain("full").disk(DiskSpec::holding("vda", Format::Qcow2, setting.disk())).paused();
    let mut walls = Vec::new();
    let mut once = |_| {
        let codecs = codec_cost(setting.disk());
        let (copied, server) = nbdcopy(&domain);
        let remora = Remora::init(&setting.lab);
        let Backup { wall, cpu, stored, .. } = backup(&remora, &domain);
        remove(&remora);
        let write = write_cost(&setting.lab.scratch("written"), setting.disk(), stored);
        let processors = (copied.cpu + server + codecs) / u32::try_from(cores()).must("count processors");
        let limit = copied.wall.max(processors) + write;
        walls.push(wall);
        Run {
            allowed: format!(
                "{:.2} s = {FACTOR} × ({} + {} to write); nbdcopy took {}, its and its server's processor time {}, \
                 one core's hashing, compressing and sealing {}",
                FACTOR * limit.as_secs_f64(),
                seconds(copied.wall.max(processors)),
                seconds(write),
                seconds(copied.wall),
                seconds(copied.cpu + server),
                seconds(codecs),
            ),
            measured: format!(
                "{}: {:.2} × the limit; processor time {}",
                seconds(wall),
                wall.as_secs_f64() / limit.as_secs_f64(),
                seconds(cpu),
            ),
            share: wall.as_secs_f64() / (FACTOR * limit.as_secs_f64()),
        }
    };
    let runs = (0..REPEATS).map(&mut once).collect();
    walls.sort();
    setting.set_full_rate(DISK as f64 / walls[walls.len() / 2].as_secs_f64());
    vec![Row::median("Full backup of a 4 GiB disk, half text, half noise", WHERE_IT_GOES, runs)]
}

/// Copies the disk's export to nowhere, and tells what QEMU spent on that.
fn nbdcopy(domain: &Domain<'_>) -> (Took, Duration) {
    let socket = domain.dir().join("nbd.sock");
    let definition = domain.dir().join("backup.xml");
    let xml = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks><disk name='vda' backup='yes' \
         type='file' exportname='vda'><scratch file='{}'/></disk></disks></domainbackup>",
        socket.display(),
        domain.dir().join("by-hand.scratch").display(),
    );
    fs::write(&definition, xml).must("write the definition of a backup");
    domain.virsh("backup-begin", &[&definition.to_string_lossy()]);
    let qemu = domain.qemu();
    let before = cpu_of(qemu);
    let uri = format!("nbd+unix:///vda?socket={}", socket.display());
    let copied = took(Command::new("nbdcopy").args([&uri, "null:"]));
    let server = cpu_of(qemu) - before;
    domain.virsh("domjobabort", &[]);
    (copied, server)
}

/// Bytes a second of one full backup.
pub(crate) fn rate(setting: &Setting) -> f64 {
    let domain = setting.lab.domain("rate").disk(DiskSpec::holding("vda", Format::Qcow2, setting.disk())).paused();
    let remora = Remora::init(&setting.lab);
    let wall = backup(&remora, &domain).wall;
    remove(&remora);
    DISK as f64 / wall.as_secs_f64()
}

/// What a full backup took and stored.
pub(crate) struct Backup {
    pub(crate) wall: Duration,
    /// Of remora and of QEMU.
    pub(crate) cpu: Duration,
    pub(crate) stored: u64,
    pub(crate) point: String,
}

/// Backs the disk up in full.
pub(crate) fn backup(remora: &Remora, domain: &Domain<'_>) -> Backup {
    let (qemu, before) = (domain.qemu(), cpu_of(domain.qemu()));
    let backed_up = took(&mut remora.command(["backup", domain.name(), "--quiesce", "never", "-o", "json"]));
    let cpu = backed_up.cpu + cpu_of(qemu) - before;
    let report = backed_up.json();
    assert_eq!((&report["decision"], &report["disks"][0]["read"]), (&"full".into(), &DISK.into()), "{report:#}");
    let stored = remora.json(["points"])[0]["stored"].as_u64().must("read what a point stored");
    let point = report["point"].as_str().must("read a point's name").to_owned();
    Backup { wall: backed_up.wall, cpu, stored, point }
}
