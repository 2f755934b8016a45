//! The peak of resident memory of a backup and a restore, for a large and for a huge disk, with a folder and with S3.

use std::fs;

use remora_tests::{DiskSpec, Format, GIB, MIB, Must, Remora, S3, content};

use crate::measure::{mib, seconds, took};
use crate::report::{Row, Run};
use crate::setting::{Setting, remove};

pub(crate) const LIMIT: u64 = 256 * MIB;

/// A disk's size, how much data lies on it, spread over all of it, and what its rows are called.
type Disk = (u64, u64, [&'static str; 2]);

const IN_A_FOLDER: [Disk; 2] = [
    (10 * GIB, 5 * GIB, ["Peak memory, backup of 10 GiB (5 GiB of data)", "Peak memory, its restore"]),
    (1024 * GIB, 2 * GIB, ["Peak memory, backup of 1 TiB (2 GiB of data)", "Peak memory, its restore"]),
];

const ON_S3: [Disk; 2] = [
    (10 * GIB, 5 * GIB, ["Peak memory, backup of 10 GiB to S3", "Peak memory, its restore"]),
    (1024 * GIB, 2 * GIB, ["Peak memory, backup of 1 TiB to S3", "Peak memory, its restore"]),
];

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let mut rows = Vec::new();
    for disk in IN_A_FOLDER {
        let remora = Remora::init(&setting.lab);
        rows.extend(of_disk(setting, &remora, disk));
        remove(&remora);
    }
    for disk in ON_S3 {
        let s3 = S3::start_in(&setting.lab.scratch("s3"));
        let remora = s3.owner(Remora::new(&setting.lab, s3.url(&s3.bucket("memory"))));
        remora.ok(["repo", "init"]);
        rows.extend(of_disk(setting, &remora, disk));
    }
    rows
}

fn of_disk(setting: &Setting, remora: &Remora, (size, data, names): Disk) -> [Row; 2] {
    let dir = setting.lab.scratch("memory");
    let [base, restored] = ["base.raw", "restored.raw"].map(|name| dir.join(name));
    content::make_disk(&base, size, data);
    let domain = setting.lab.domain("memory").disk(DiskSpec::holding("vda", Format::Qcow2, &base)).paused();
    fs::remove_file(&base).must("remove a disk");
    let backed_up = took(&mut remora.command(["backup", domain.name(), "--quiesce", "never", "-o", "json"]));
    let report = backed_up.json();
    let read = report["disks"][0]["read"].as_u64().must("read what a backup read");
    assert!(read >= data && read < data + data / 10, "{report:#}");
    drop(domain);
    let point = report["point"].as_str().must("read a point's name");
    let mut restore = remora.command(["restore", point, "--quiet", "--disk", "vda", "--to"]);
    let restore = took(restore.arg(&restored));
    assert_eq!(fs::metadata(&restored).must("look at a restored disk").len(), size);
    fs::remove_dir_all(&dir).must("remove a restored disk");
    let row = |name, took: &crate::measure::Took| {
        let measured = format!("{} (in {})", mib(took.peak), seconds(took.wall));
        Row::once(name, "", Run { allowed: mib(LIMIT), measured, share: took.peak as f64 / LIMIT as f64 })
    };
    [row(names[0], &backed_up), row(names[1], &restore)]
}
