//! What metadata costs: increments into a disk of 1 TiB, and collections of 1,000 points of it. The disks are simulated
//! and chunks are not kept (`tests/synthetic`); maps, footers, manifests and sessions are real, and so is `remora gc`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

use remora_tests::remora::KEY_FILE;
use remora_tests::{Lab, MIB, Must, Remora};
use serde_json::Value;

use crate::measure::{Took, mib, seconds, took};
use crate::report::{Row, Run};
use crate::setting::Setting;

const DISK: u64 = 1 << 40;

/// Blocks of 64 KiB that are 100 MiB.
const CHANGED: u64 = 1600;

/// How many increments a map is old when it is measured again.
const INCREMENTS: u64 = 1000;

/// After how many points a collection is measured.
const POINTS: [u64; 3] = [250, 500, 1000];

/// The VMs of the other repository, and the points of each.
const MANY: (u64, u64) = (20, 50);

const GC_MEMORY: u64 = 512 * MIB;

/// What linear time may be off by: reading files and hash tables do not get faster as they grow.
const SLACK: f64 = 1.25;

/// Longer ago than a dropped point stays readable.
const GRACE: Duration = Duration::from_hours(96);

const WHERE_BYTES_GO: &str = "every leaf that has a changed block is read and stored again, and grows with the segments that \
                              its blocks lie in.";
const WHERE_MEMORY_GOES: &str = "a bit for each record that points reach, and up to 4,096 map nodes at a time.";
const WHERE_TIME_GOES: &str = "each node is fetched, opened, and each of its entries looked up once.";

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let mut rows = one_vm(&setting.lab);
    rows.push(many_vms(&setting.lab));
    rows
}

/// The points of one VM: a full, and increments of 100 MiB each.
fn one_vm(lab: &Lab) -> Vec<Row> {
    let dir = lab.scratch("scale");
    let mut vm = Synthetic::start(&dir, 1, MIB);
    let remora = Remora::new(lab, &vm.repository);
    vm.back_up("together 1");
    let mut rows = increments(&mut vm, &FRESH);
    let mut collections = Vec::new();
    for points in POINTS {
        vm.scattered(points - vm.points);
        let collected = collect(&remora);
        eprintln!("   {points} points: gc {}, {}", seconds(collected.wall), mib(collected.peak));
        collections.push((vm.metadata, collected));
    }
    vm.scattered(INCREMENTS + 1 - vm.points);
    rows.extend(increments(&mut vm, &AGED));
    vm.end();
    let [first, .., last] = collections.as_slice() else { unreachable!("three were made") };
    rows.push(memory_row("GC of 1,000 points of 1 TiB: peak memory", &last.1));
    rows.push(time_row(first, last));
    drop_most(&remora);
    let collected = collect(&remora);
    rows.push(memory_row("GC after 750 of them were dropped: peak memory", &collected));
    fs::remove_dir_all(&dir).must("remove a repository");
    rows
}

/// Points of many VMs: thin disks of 1 TiB, of which little changes.
fn many_vms(lab: &Lab) -> Row {
    let dir = lab.scratch("scale-many");
    let (vms, points) = MANY;
    let mut synthetic = Synthetic::start(&dir, vms, 64 * MIB);
    let remora = Remora::new(lab, &synthetic.repository);
    for _ in 0..points {
        synthetic.back_up("scattered 16");
    }
    synthetic.end();
    let collected = collect(&remora);
    fs::remove_dir_all(&dir).must("remove a repository");
    memory_row("GC of 50 points each of 20 VMs of 1 TiB: peak memory", &collected)
}

/// What an increment may read and write, by what changed, and the names of the rows.
type Limits = [(&'static str, u64, u64, [&'static str; 2]); 2];

const FRESH: Limits = [
    (
        "together",
        2 * MIB,
        MIB,
        ["Increment of 100 MiB in one piece into 1 TiB: metadata read", "The same: metadata written"],
    ),
    (
        "scattered",
        16 * MIB,
        16 * MIB,
        ["Increment of 100 MiB in scattered blocks into 1 TiB: metadata read", "The same: metadata written"],
    ),
];

const AGED: Limits = [
    (
        "together",
        2 * MIB,
        MIB,
        ["In one piece, after 1,000 scattered increments: metadata read", "The same: metadata written"],
    ),
    (
        "scattered",
        16 * MIB,
        16 * MIB,
        ["Scattered, after 1,000 scattered increments: metadata read", "The same: metadata written"],
    ),
];

fn increments(vm: &mut Synthetic, limits: &Limits) -> Vec<Row> {
    let mut rows = Vec::new();
    for (how, most_read, most_written, names) in limits {
        let made = vm.back_up(&format!("{how} {CHANGED}"));
        assert_eq!(made["decision"], "incremental", "{made}");
        for (name, what, most) in [(names[0], "read", *most_read), (names[1], "written", *most_written)] {
            let bytes = number(&made["metadata"][what]);
            let run = Run {
                allowed: mib(most),
                measured: format!("{:.2} MiB", bytes as f64 / MIB as f64),
                share: bytes as f64 / most as f64,
            };
            rows.push(Row::once(name, WHERE_BYTES_GO, run));
        }
    }
    rows
}

fn memory_row(what: &'static str, collected: &Took) -> Row {
    let share = collected.peak as f64 / GC_MEMORY as f64;
    let measured = format!("{} (in {})", mib(collected.peak), seconds(collected.wall));
    Row::once(what, WHERE_MEMORY_GOES, Run { allowed: mib(GC_MEMORY), measured, share })
}

/// The time of the largest collection, against that of the smallest in proportion to the metadata.
fn time_row((few, small): &(u64, Took), (many, large): &(u64, Took)) -> Row {
    let limit = small.wall.mul_f64(SLACK * *many as f64 / *few as f64);
    let allowed =
        format!("{} = {SLACK} × {} for {} of metadata, in proportion", seconds(limit), seconds(small.wall), mib(*few));
    let measured = format!("{} for {}", seconds(large.wall), mib(*many));
    let share = large.wall.as_secs_f64() / limit.as_secs_f64();
    Row::once(
        "The same: time, linear in metadata from 250 points on",
        WHERE_TIME_GOES,
        Run { allowed, measured, share },
    )
}

fn collect(remora: &Remora) -> Took {
    let collected = took(&mut remora.command(["gc", "-o", "json"]));
    let missing = &collected.json()[0]["missing"];
    assert_eq!(missing.as_array().map(Vec::len), Some(0), "{missing}");
    collected
}

/// Drops all but 250 points, long enough ago.
fn drop_most(remora: &Remora) {
    remora.ok(["prune", "--keep-last", "250", "--dry-run"]);
    remora.ok(["prune", "--keep-last", "250"]);
    let tombstone = newest_entry(&remora.repository());
    let file = File::options().write(true).open(&tombstone).must("open a tombstone");
    file.set_modified(SystemTime::now() - GRACE).must("date a tombstone back");
}

/// The entry of the highest number of the only VM.
fn newest_entry(repository: &Path) -> PathBuf {
    let only = |folder: PathBuf| {
        let entries =
            fs::read_dir(&folder).must("list a repository").map(|entry| entry.must("list a repository").path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>().pop().must("find a folder of a repository")
    };
    let entries = fs::read_dir(only(only(repository.join("t"))).join("m")).must("list a sequence");
    entries.map(|entry| entry.must("list a sequence").path()).max().must("find an entry")
}

fn number(value: &Value) -> u64 {
    value.as_u64().must(format_args!("read a number in {value}"))
}

/// `remora-synthetic` with a repository of its own.
struct Synthetic {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    repository: PathBuf,
    vms: u64,
    /// Points of each VM.
    points: u64,
    /// Bytes of metadata that were stored.
    metadata: u64,
}

impl Synthetic {
    fn start(dir: &Path, vms: u64, data_every: u64) -> Self {
        let (repository, key) = (dir.join("repo"), dir.join("key"));
        fs::write(&key, KEY_FILE).must("write a key file");
        let program = std::env::current_exe().must("find this program").with_file_name("remora-synthetic");
        let mut command = Command::new(program);
        command.arg(&repository).arg(&key).args([vms, DISK, data_every].map(|number| number.to_string()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().must("start remora-synthetic");
        let orders = child.stdin.take().must("take its input");
        let answers = BufReader::new(child.stdout.take().must("take its output"));
        Self { child, orders, answers, repository, vms, points: 0, metadata: 0 }
    }

    /// Makes a point of each VM; what the last one of them took.
    fn back_up(&mut self, change: &str) -> Value {
        writeln!(self.orders, "{change}").must("write to remora-synthetic");
        let mut made = Value::Null;
        for _ in 0..self.vms {
            let mut line = String::new();
            self.answers.read_line(&mut line).must("read from remora-synthetic");
            made = serde_json::from_str(&line).must("read what remora-synthetic did");
            self.metadata += number(&made["metadata"]["written"]);
        }
        self.points += 1;
        made
    }

    fn scattered(&mut self, points: u64) {
        for _ in 0..points {
            self.back_up(&format!("scattered {CHANGED}"));
        }
    }

    fn end(mut self) {
        drop(self.orders);
        let status = self.child.wait().must("wait for remora-synthetic");
        assert!(status.success(), "remora-synthetic: {status}");
    }
}
