//! One file of 1 MiB read through `remora mount`: what is fetched for it, and how soon its first byte comes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_tests::{DiskSpec, Format, GIB, MIB, Must, Remora, content, run};

use crate::measure::{mib, seconds};
use crate::report::{Row, Run};
use crate::setting::{REPEATS, Setting, remove};

/// The disk: one ext4 filesystem in a partition.
const DISK: u64 = 4 * GIB;
const PARTITION: u64 = MIB;

/// Other files: so many, of so many bytes.
const OTHERS: (u64, u64) = (768, 4 * MIB);

/// The file that is read, in a folder of several.
const WANTED: &str = "home/somebody/report.bin";

/// What may be fetched of what is stored.
const SHARE: f64 = 0.03;

/// What is allowed over the appliance's boot.
const START: Duration = Duration::from_secs(2);

const WHERE_IT_GOES: &str = "after its boot the emulated appliance looks for filesystems, mounts each and reads fstab, one \
                             command after the other.";

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let dir = setting.lab.scratch("file");
    let disk = dir.join("disk.raw");
    make_disk(&disk, &dir.join("files"));
    let remora = Remora::init(&setting.lab);
    let point = {
        let domain = setting.lab.domain("file").disk(DiskSpec::holding("vda", Format::Qcow2, &disk)).paused();
        remora.json(["backup", domain.name(), "--quiesce", "never"])
    };
    let id = point["point"].as_str().must("read a point's name");
    let stored = remora.json(["points"])[0]["stored"].as_u64().must("read what a point stored");
    boot(&disk); // The first boot of a machine builds the appliance.
    let (mut shares, mut times) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let boot = boot(&disk);
        let (first_byte, fetched) = read_through_mount(&remora, id, &dir.join("mounted"));
        let most = (stored as f64 * SHARE) as u64;
        shares.push(Run {
            allowed: format!("{} = 3 % of {}", mib(most), mib(stored)),
            measured: format!("{} ({:.2} %)", mib(fetched), 100.0 * fetched as f64 / stored as f64),
            share: fetched as f64 / most as f64,
        });
        times.push(Run {
            allowed: format!("{} = the appliance's boot of {} + 2 s", seconds(boot + START), seconds(boot)),
            measured: format!("{} from the start of `remora mount`", seconds(first_byte)),
            share: first_byte.as_secs_f64() / (boot + START).as_secs_f64(),
        });
    }
    remove(&remora);
    fs::remove_dir_all(&dir).must("remove a disk");
    vec![
        Row::median("A 1 MiB file through `mount`: fetched, from the start to its last byte", "", shares),
        Row::median("The same: first byte", WHERE_IT_GOES, times),
    ]
}

/// Makes a disk with a partition that holds the files, without an appliance.
fn make_disk(disk: &Path, files: &Path) {
    for number in 0..OTHERS.0 {
        let folder = files.join(format!("srv/{}", number % 32));
        fs::create_dir_all(&folder).must("make a folder");
        let bytes = content::mixed(number, OTHERS.1 as usize);
        fs::write(folder.join(number.to_string()), bytes).must("fill a file");
    }
    let wanted = files.join(WANTED);
    fs::create_dir_all(wanted.parent().must("find a folder")).must("make a folder");
    fs::write(wanted, content::noise(u64::MAX, MIB as usize)).must("fill a file");
    File::create(disk).and_then(|file| file.set_len(DISK)).must("make a disk");
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.arg("--quiet").arg(disk);
    remora_tests::process::run_with_input(&mut sfdisk, b"label: gpt\nstart=2048, type=linux\n").ok();
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-E", &format!("offset={PARTITION}"), "-d"]).arg(files).arg(disk);
    run(mke2fs.arg(format!("{}k", (DISK - 2 * PARTITION) >> 10))).ok();
    fs::remove_dir_all(files).must("remove the files");
}

/// The time that libguestfs takes to boot its appliance with the disk, as `remora mount` boots it.
fn boot(disk: &Path) -> Duration {
    let start = Instant::now();
    let mut guestfish = Command::new("guestfish")
        .args(["--ro", "--format=raw", "-a"])
        .arg(disk)
        .env("LIBGUESTFS_BACKEND", "direct")
        .env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .must("start guestfish (`make setup` installs it)");
    let mut commands = guestfish.stdin.take().expect("its input is a pipe");
    commands.write_all(b"set-memsize 768\nrun\necho booted\n").must("write to guestfish");
    assert_eq!(line_of(&mut guestfish), "booted");
    let took = start.elapsed();
    drop(commands);
    let status = guestfish.wait().must("wait for guestfish");
    assert!(status.success(), "guestfish: {status}");
    took
}

fn line_of(child: &mut Child) -> String {
    let mut line = String::new();
    let pipe = child.stdout.as_mut().expect("its output is a pipe");
    BufReader::new(pipe).read_line(&mut line).must("read a process's output");
    line.trim_end().to_owned()
}

/// Mounts a point and reads the file: the time to its first byte, and the bytes that remora read up to its last one.
fn read_through_mount(remora: &Remora, point: &str, dir: &Path) -> (Duration, u64) {
    let start = Instant::now();
    let mut command = remora.command(["mount".as_ref(), point.as_ref(), dir.as_os_str()]);
    // Emulated as the other one is.
    command.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
    let mut mount = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().must("start remora mount");
    assert_eq!(line_of(&mut mount), "ready");
    let mut file = File::open(dir.join("files/vda/1").join(WANTED)).must("open a file of a point");
    let mut bytes = vec![0; 1];
    file.read_exact(&mut bytes).must("read a file of a point");
    let first_byte = start.elapsed();
    file.read_to_end(&mut bytes).must("read a file of a point");
    assert!(bytes == content::noise(u64::MAX, MIB as usize), "the file is another");
    let pid = Pid::from_raw(mount.id().try_into().must("take a process id"));
    let fetched = read_by(pid);
    kill(pid, Signal::SIGINT).must("end the mount");
    let status = mount.wait().must("wait for the end of the mount");
    assert!(status.success(), "remora mount {point}: {status}");
    (first_byte, fetched)
}

/// All that a process has read by system calls: the store's objects, and little else (its own requests over FUSE are a
/// few KiB), so this is a little more than what was fetched.
fn read_by(pid: Pid) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).must("read what a process has read");
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).must("find what a process has read");
    line.parse().must("read what a process has read")
}
