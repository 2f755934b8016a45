//! `make demo`: a running VM is backed up, its guest changes files, it is backed up again; both points are restored and
//! compared with what the hypervisor held, byte for byte, and mounted to show the changed file as it was in each.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_tests::truth::assert_same;
use remora_tests::{Agent, DiskSpec, Domain, Format, Lab, Layout, Must, Remora};
use serde_json::Value;

/// The VM's disks: four filesystems in partitions of the first, two in logical volumes over the other two.
const DISKS: [&str; 3] = ["vda", "vdb", "vdc"];

/// Files that the guest writes anew before each backup: where it sees them, and where a mount of a point shows them.
const CHANGING: [(&str, &str); 2] =
    [("/mnt/vda1/report.txt", "vda/1/report.txt"), ("/mnt/vg0-data/report.txt", "vg0/data/report.txt")];

fn main() {
    let start = Instant::now();
    step("starting a libvirt of its own, and a VM with three disks in it");
    let lab = Lab::start();
    let vm = boot(&lab);
    let remora = Remora::init(&lab);
    step("remora backup: the first time");
    let first = protect(&vm, &remora, "the first version", "full");
    step("the guest writes files; remora backup: the second time");
    vm.guest().sh("dd if=/dev/urandom of=/mnt/vda2/new.bin bs=1M count=4");
    let second = protect(&vm, &remora, "the second version, some bytes longer", "incremental");
    let rows: Vec<_> = [first, second].iter().map(|point| prove(&lab, &remora, point)).collect();
    print_table(&rows);
    println!("Done in {:.0} s: every byte of both points is what the hypervisor held.", start.elapsed().as_secs_f64());
}

/// A point, and what must be in it.
struct Protected {
    report: Value,
    content: &'static str,
    truths: Vec<PathBuf>,
}

/// A row of the table.
struct Row {
    report: Value,
    restored_in: Duration,
    mounted_in: Duration,
}

fn step(what: &str) {
    println!("\n== {what}");
}

fn boot(lab: &Lab) -> Domain<'_> {
    let raw = Layout::Mbr.prepare().disks.into_iter().chain(Layout::Lvm.prepare().disks);
    let domain = DISKS.iter().zip(raw).fold(lab.domain("demo vm"), |domain, (target, raw)| {
        domain.disk(DiskSpec::holding(target, Format::Qcow2, &raw))
    });
    let vm = domain.booted(Agent::Works);
    println!("{}", vm.guest().sh("uname -sr; df -h | grep /mnt"));
    vm
}

/// Lets the guest write its files and makes a point.
fn protect(vm: &Domain<'_>, remora: &Remora, content: &'static str, decision: &str) -> Protected {
    let guest = vm.guest();
    for (path, _) in CHANGING {
        guest.write_file(path, content.as_bytes());
    }
    // The guest is frozen by us and not by remora, so that nothing changes between the copy to compare with and the
    // backup.
    guest.freeze();
    let truths = vm.truths(&DISKS);
    let report = remora.json(["backup", vm.name(), "--quiesce", "never"]);
    guest.thaw();
    println!("point {} ({}: {})", text(&report["point"]), text(&report["decision"]), text(&report["reason"]));
    assert_eq!(report["decision"], decision, "{report:#}");
    Protected { report, content, truths }
}

/// Restores and mounts a point, and compares.
fn prove(lab: &Lab, remora: &Remora, point: &Protected) -> Row {
    let id = text(&point.report["point"]);
    step(&format!("point {id}: restored, compared, mounted"));
    let restored = lab.scratch("restored").join("disks");
    let start = Instant::now();
    remora.ok(["restore".as_ref(), id.as_ref(), "--to".as_ref(), restored.as_os_str()]);
    let restored_in = start.elapsed();
    for (disk, truth) in DISKS.iter().zip(&point.truths) {
        assert_same(&restored.join(format!("{disk}.raw")), truth);
        let size = fs::metadata(truth).must("look at a copy of a disk").len();
        println!("{disk}: {size} bytes restored, all as the hypervisor held them");
    }
    let mounted_in = mounted(lab, remora, id, |files| {
        for (_, path) in CHANGING {
            let found = fs::read_to_string(files.join(path)).must(format_args!("read {path} in point {id}"));
            println!("{path}: {found:?}");
            assert_eq!(found, point.content, "{path} in point {id}");
        }
    });
    fs::remove_dir_all(&restored).must("remove the restored disks");
    Row { report: point.report.clone(), restored_in, mounted_in }
}

/// Mounts a point, looks at its files, unmounts it, and says how long it took until the mount was ready.
fn mounted(lab: &Lab, remora: &Remora, point: &str, look: impl FnOnce(&Path)) -> Duration {
    let dir = lab.scratch("mounted");
    let start = Instant::now();
    let mut command = remora.command(["mount".as_ref(), point.as_ref(), dir.as_os_str()]);
    let mut mount = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().must("start remora mount");
    let mut line = String::new();
    BufReader::new(mount.stdout.as_mut().expect("its output is a pipe"))
        .read_line(&mut line)
        .must("wait for the mount");
    assert_eq!(line.trim_end(), "ready", "remora mount {point}");
    let ready_in = start.elapsed();
    look(&dir.join("files"));
    kill(Pid::from_raw(mount.id().try_into().expect("a process id fits")), Signal::SIGINT).must("end the mount");
    let status = mount.wait().must("wait for the end of the mount");
    assert!(status.success(), "remora mount {point}: {status}");
    ready_in
}

fn print_table(rows: &[Row]) {
    step("what it took");
    println!(
        "{:<24} {:<12} {:>10} {:>10} {:>9} {:>9} {:>9}",
        "point", "decision", "read", "stored", "backup", "restore", "mount"
    );
    for Row { report, restored_in, mounted_in } in rows {
        let disks = report["disks"].as_array().must("read the disks of a report");
        assert_eq!(disks.len(), DISKS.len(), "{report:#}");
        let sum = |name: &str| disks.iter().filter_map(|disk| disk[name].as_u64()).sum::<u64>();
        println!(
            "{:<24} {:<12} {:>6} MiB {:>6} MiB {:>7.1} s {:>7.1} s {:>7.1} s",
            text(&report["point"]),
            text(&report["decision"]),
            sum("read").div_ceil(1 << 20),
            sum("stored").div_ceil(1 << 20),
            report["seconds"].as_f64().must("read how long a backup took"),
            restored_in.as_secs_f64(),
            mounted_in.as_secs_f64(),
        );
    }
    println!();
}

fn text(value: &Value) -> &str {
    value.as_str().must(format_args!("read {value} as text"))
}
