//! Sequential restore of a point after 500 increments, against that of a fresh full backup of the same bytes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Format, GIB, MIB, Must, Remora, content, scattered};

use crate::incremental::backup;
use crate::measure::{seconds, took};
use crate::report::{Row, Run};
use crate::setting::{Setting, remove};

const DISK: u64 = GIB / 2;
const INCREMENTS: u64 = 500;

/// The part of the fresh one's speed that must be left.
const LEFT: f64 = 0.7;

const WHERE_IT_GOES: &str = "chunks of one block each are fetched and opened one by one, from many segments.";

/// How often each is restored, in turns.
const REPEATS: usize = 5;

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let dir = setting.lab.scratch("fragments");
    let [base, old_copy, fresh_copy] = ["base.raw", "old.raw", "fresh.raw"].map(|name| dir.join(name));
    content::make_disk(&base, DISK, DISK);
    let domain = setting.lab.domain("fragments").disk(DiskSpec::holding("vda", Format::Qcow2, &base)).paused();
    let [old, fresh] = [(); 2].map(|()| Remora::init(&setting.lab));
    let (mut newest, _) = backup(&old, &domain, "full");
    for round in 1..=INCREMENTS {
        scattered::write(&domain, "vda", round, DISK / 100);
        newest = backup(&old, &domain, "incremental").0;
        if round.is_multiple_of(50) {
            eprintln!("   {round} increments");
        }
    }
    let (only, _) = backup(&fresh, &domain, "full");
    let name = |report: &serde_json::Value| report["point"].as_str().must("read a point's name").to_owned();
    let once = |_| {
        let slow = restore(&old, &name(&newest), &old_copy);
        let fast = restore(&fresh, &name(&only), &fresh_copy);
        assert_same(&old_copy, &fresh_copy);
        let limit = fast.div_f64(LEFT);
        Run {
            allowed: format!("{} = {} of a fresh full / {LEFT}", seconds(limit), seconds(fast)),
            measured: format!(
                "{}: {:.0} % as fast ({:.0} MiB/s)",
                seconds(slow),
                100.0 * fast.as_secs_f64() / slow.as_secs_f64(),
                (DISK / MIB) as f64 / slow.as_secs_f64(),
            ),
            share: slow.as_secs_f64() / limit.as_secs_f64(),
        }
    };
    let runs = (0..REPEATS).map(once).collect();
    remove(&old);
    remove(&fresh);
    fs::remove_dir_all(&dir).must("remove copies of a disk");
    vec![Row::median("Restore after 500 increments of 1 % each (512 MiB disk)", WHERE_IT_GOES, runs)]
}

fn restore(remora: &Remora, point: &str, to: &Path) -> Duration {
    let mut restore = remora.command(["restore", point, "--quiet", "--force", "--disk", "vda", "--to"]);
    took(restore.arg(to)).wall
}
