//! A restore of 4 GiB to a file, against `qemu-img convert` of an equal zstd-compressed qcow2; both end synced.

use std::fs::{self, File};
use std::process::Command;

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Format, Must, Remora, run};

use crate::measure::{seconds, took};
use crate::report::{Row, Run};
use crate::setting::{REPEATS, Setting, remove};

const WHERE_IT_GOES: &str = "each chunk is authenticated, which qemu-img has no need to do; the rest is writing.";

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let dir = setting.lab.scratch("restore");
    let [compressed, converted, restored] = ["zstd.qcow2", "converted.raw", "restored.raw"].map(|name| dir.join(name));
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", "-W"]);
    run(convert.args([setting.disk(), &compressed])).ok();
    let remora = Remora::init(&setting.lab);
    let point = {
        let domain =
            setting.lab.domain("restore").disk(DiskSpec::holding("vda", Format::Qcow2, setting.disk())).paused();
        remora.json(["backup", domain.name(), "--quiesce", "never"])
    };
    let id = point["point"].as_str().must("read a point's name").to_owned();
    let once = |_| {
        let mut convert = Command::new("sh");
        convert.args(["-c", "qemu-img convert -f qcow2 -O raw \"$0\" \"$1\" && exec sync \"$1\""]);
        let theirs = took(convert.args([&compressed, &converted])).wall;
        fs::remove_file(&converted).must("remove a copy");
        let mut restore = remora.command(["restore", &id, "--quiet", "--disk", "vda", "--to"]);
        let ours = took(restore.arg(&restored)).wall;
        let whole = File::open(&restored).and_then(|file| file.metadata()).must("look at a restored disk").len();
        assert_eq!(whole, crate::setting::DISK);
        assert_same(&restored, setting.disk());
        fs::remove_file(&restored).must("remove a restored disk");
        Run {
            allowed: format!("{} as qemu-img takes", seconds(theirs)),
            measured: seconds(ours),
            share: ours.as_secs_f64() / theirs.as_secs_f64(),
        }
    };
    let runs = (0..REPEATS).map(once).collect();
    remove(&remora);
    fs::remove_dir_all(&dir).must("remove copies of a disk");
    vec![Row::median("Restore of that disk to a file", WHERE_IT_GOES, runs)]
}
