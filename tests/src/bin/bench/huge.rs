//! The peak of resident memory of whatever else works on a disk of 1 TiB: its increment, a reread, a verification, a copy, an
//! export, a mount that is read.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_tests::{DiskSpec, Format, GIB, MIB, Must, Remora, content, scattered};

use crate::measure::{Took, mib, peak_memory, seconds, took};
use crate::memory::LIMIT;
use crate::report::{Row, Run};
use crate::setting::{Setting, remove};

const SIZE: u64 = 1024 * GIB;

/// Spread over all of the disk.
const DATA: u64 = 2 * GIB;

/// What the increment finds dirty, in scattered blocks.
const DIRTY: u64 = 256 * MIB;

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let dir = setting.lab.scratch("huge");
    let base = dir.join("base.raw");
    content::make_disk(&base, SIZE, DATA);
    let domain = setting.lab.domain("huge").disk(DiskSpec::holding("vda", Format::Qcow2, &base)).paused();
    fs::remove_file(&base).must("remove a disk");
    let [remora, other] = [(); 2].map(|()| Remora::init(&setting.lab));
    let backup = |args: &[&str]| {
        let line = ["backup", domain.name(), "--quiesce", "never", "-o", "json"];
        took(&mut remora.command(line.iter().chain(args)))
    };
    backup(&[]);
    scattered::write(&domain, "vda", 1, DIRTY);
    let increment = backup(&[]);
    let report = increment.json();
    assert_eq!(report["decision"], "incremental", "{report:#}");
    let reread = backup(&["--reread"]);
    drop(domain);
    let report = reread.json();
    assert!(report["disks"][0]["read"].as_u64().is_some_and(|read| read >= DATA), "{report:#}");
    let point = report["point"].as_str().must("read a point's name");
    let exported = dir.join("exported.qcow2");
    let mut export = remora.command(["export", point, "--quiet", "--disk", "vda", "--format", "qcow2", "--to"]);
    let export = took(export.arg(&exported));
    fs::remove_file(&exported).must("remove an image");
    let verify = took(&mut remora.command(["verify", "--quiet"]));
    let copy = took(remora.command(["copy", "--quiet", "--to"]).arg(other.repository()));
    let mount = read_through_mount(&remora, point, &dir.join("mounted"));
    remove(&remora);
    remove(&other);
    fs::remove_dir_all(&dir).must("remove a folder");
    let rows: [(&'static str, Took); 6] = [
        ("Peak memory, increment of 1 TiB (256 MiB scattered)", increment),
        ("Peak memory, its reread (2 GiB of data)", reread),
        ("Peak memory, verification of its three points", verify),
        ("Peak memory, copy of them to another folder", copy),
        ("Peak memory, its export as qcow2", export),
        ("Peak memory, its mount of which 2 GiB are read", mount),
    ];
    rows.map(|(name, took)| {
        let measured = format!("{} (in {})", mib(took.peak), seconds(took.wall));
        Row::once(name, "", Run { allowed: mib(LIMIT), measured, share: took.peak as f64 / LIMIT as f64 })
    })
    .into()
}

/// Mounts a point without an appliance and reads a MiB of each GiB, and the stretches that hold data.
fn read_through_mount(remora: &Remora, point: &str, dir: &std::path::Path) -> Took {
    let start = Instant::now();
    let mut command: Command = remora.command(["mount".as_ref(), point.as_ref(), dir.as_os_str()]);
    let command = command.arg("--disks-only").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut mount = command.spawn().must("start remora mount");
    let pid = Pid::from_raw(mount.id().try_into().must("take a process id"));
    let mut line = String::new();
    let pipe = mount.stdout.as_mut().expect("its output is a pipe");
    BufReader::new(pipe).read_line(&mut line).must("read a process's output");
    assert_eq!(line, "ready\n");
    let disk = File::open(dir.join("disks/vda.raw")).must("open a disk of a point");
    let mut bytes = vec![0; MIB as usize];
    let data = content::stretches(SIZE, DATA).flat_map(|stretch| stretch.step_by(MIB as usize));
    for at in data.chain((0..SIZE).step_by(GIB as usize)) {
        disk.read_exact_at(&mut bytes, at).must("read a disk of a point");
    }
    drop(disk);
    // The kernel keeps the peak; what ends a mount needs no more than what served it.
    let peak = peak_memory(pid).must("read a process's memory");
    kill(pid, Signal::SIGINT).must("end the mount");
    let status = mount.wait().must("wait for the end of the mount");
    assert!(status.success(), "remora mount {point}: {status}");
    Took { wall: start.elapsed(), cpu: std::time::Duration::ZERO, peak, stdout: Vec::new() }
}
