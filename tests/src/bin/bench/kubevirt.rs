//! Backups of a machine of a real KubeVirt: remora's, beside the same machine through KubeVirt's own exporter, and by a push
//! into a claim that is copied from there. Wants `make setup-cluster` and `make setup-kopia`, and some 3 GB of memory.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use remora_tests::cluster::{NAMESPACE, Product, Pull, Vm, is_true};
use remora_tests::{GIB, MIB, Must, content, run};
use serde_json::{Value, json};

use crate::measure::{mib, seconds};
use crate::peers::{Kopia, Place};
use crate::report::{Row, Run};
use crate::setting::{REPEATS, Setting};

/// The disk that is read; the machine boots from another one.
const DISK: u64 = GIB;
const NAME: &str = "data";

/// How much faster than the exporter it has to be.
const FASTER: f64 = 3.0;

/// How long a backup by KubeVirt may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(10);

/// What a map of the exporter calls zeros: NBD's flag of `base:allocation`, which the map of a full backup is.
const ZERO: u64 = 2;

const WHERE: &str = "two cores do all of it: hashing, compressing and encrypting take two fifths of them, the S3 server as \
                     much, QEMU and KubeVirt the rest. Bytes that are not stored need neither of the first two.";

/// What one backup took.
#[derive(Clone, Copy)]
struct Took {
    /// From its creation to the first byte.
    first: Duration,
    /// From the first byte to the last.
    read: Duration,
    /// From the last byte to the end.
    end: Duration,
    bytes: u64,
}

impl Took {
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.read.as_secs_f64()
    }

    fn all(&self) -> Duration {
        self.first + self.read + self.end
    }
}

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let product = Product::shared();
    let cluster = product.cluster();
    let namespace = cluster.namespace("bench");
    let folder = tempfile::tempdir().must("make a folder");
    let repository = format!("bucket-{namespace}");
    product.repository(&repository, &namespace, folder.path());
    let vm = cluster.vm(&namespace, "web").disk("system", 64 * MIB).empty_disk(NAME, DISK).start();
    fill(&vm, folder.path());
    let ours: Vec<_> = (0..REPEATS).map(|number| by_remora(product, &vm, &repository, number)).collect();
    let store = Product::store(cluster);
    let by_kopia = |number: usize| {
        let name = format!("exported-{number}");
        // Each has a repository of its own: in the same one the second would store nothing.
        let kopia = Kopia::new(&Place::Bucket(&store, store.bucket(&name)), &folder.path().join(&name));
        by_exporter(&vm, &name, Some(&kopia))
    };
    let stored: Vec<_> = (0..REPEATS).map(by_kopia).collect();
    let thrown_away: Vec<_> = (0..REPEATS).map(|number| by_exporter(&vm, &format!("loaded-{number}"), None)).collect();
    let push: Vec<_> = (0..REPEATS).map(|number| by_push(&vm, number, folder.path())).collect();
    let all = [
        ("remora, stored in S3", &ours),
        ("KubeVirt's exporter, stored in S3 by kopia", &stored),
        ("KubeVirt's exporter, thrown away", &thrown_away),
        ("a push, then a copy of its file", &push),
    ];
    let text = table(&all);
    println!("{text}");
    setting.tell("Machines of KubeVirt", text);
    vec![
        row("Full backup of a machine of KubeVirt: throughput", "to kopia, which stores it too", &ours, &stored),
        row(
            "Full backup of a machine of KubeVirt: throughput, beside bytes that are not stored",
            "to nowhere",
            &ours,
            &thrown_away,
        ),
    ]
}

/// A row of how fast that is, beside the exporter's bytes on their way to somewhere.
fn row(what: &'static str, to: &str, ours: &[Took], exporter: &[Took]) -> Row {
    let base = median(exporter).rate();
    let runs = ours.iter().map(|took| Run {
        allowed: format!("{FASTER} × {} a second through KubeVirt's exporter {to}", mib(base as u64)),
        measured: format!("{} a second: {:.1} × the exporter", mib(took.rate() as u64), took.rate() / base),
        share: FASTER * base / took.rate(),
    });
    Row::median(what, WHERE, runs.collect())
}

/// Half text, half noise, written where the disk lies: the guest does not look at it.
fn fill(vm: &Vm, folder: &Path) {
    let disk = folder.join("disk.raw");
    content::make_disk(&disk, DISK, DISK);
    let mut copy = Command::new("dd");
    copy.arg(format!("if={}", disk.display())).arg(format!("of={}", vm.image(NAME).display()));
    run(copy.args(["bs=1M", "conv=notrunc,fsync", "status=none"])).ok();
    fs::remove_file(disk).must("remove a disk");
}

/// The times at which the agent says of a machine that states of its backup begin.
fn states(product: &Product) -> Vec<(String, f64)> {
    let log = product.cluster().pod(NAMESPACE, "app.kubernetes.io/name=remora-agent").log("agent");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let begins = lines.filter(|line| line["fields"]["message"] == "begins");
    let state = |line: Value| {
        let name = line["span"]["state"].as_str().must("find a state's name").to_owned();
        let when =
            run(Command::new("date").arg("+%s.%N").arg("--date").arg(line["timestamp"].as_str().must("find a time")));
        (name, when.ok().text().trim().parse().must("read a time"))
    };
    begins.map(state).collect()
}

fn now() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.must("read the clock").as_secs_f64()
}

fn by_remora(product: &Product, vm: &Vm, repository: &str, number: usize) -> Took {
    let name = format!("run-{number}");
    let created = now();
    product.start_run(vm, repository, &name, &json!({"mode": "Full"}));
    let status = product.wait_for_run(vm, &name, |status| is_true(status, "Complete"));
    let ended = now();
    let begun = states(product);
    let last = |state: &str| {
        let found = begun.iter().rev().find(|(name, _)| name == state);
        found.must(format_args!("find {state} in the agent's log")).1
    };
    let (copy, commit) = (last("copy"), last("commit"));
    assert!(created < copy && copy < commit && commit < ended, "{created} {copy} {commit} {ended}: clocks differ");
    let time = |from: f64, to: f64| Duration::from_secs_f64(to - from);
    let bytes = status["totalBytes"].as_u64().must("find how much was read");
    Took { first: time(created, copy), read: time(copy, commit), end: time(commit, ended), bytes }
}

/// The exporter of a backup.
struct Exporter<'a> {
    vm: &'a Vm<'a>,
    /// Its name, and where that is, as curl takes them.
    resolve: String,
}

impl<'a> Exporter<'a> {
    fn of(vm: &'a Vm<'a>, volumes: &[Value]) -> Self {
        let url = volumes.first().and_then(|volume| volume["mapEndpoint"].as_str()).must("find where it is served");
        let host = url.split('/').nth(2).must("find the exporter's name");
        let service = host.split('.').next().must("find the exporter's service");
        let address = vm.cluster().get("service", vm.namespace(), service)["spec"]["clusterIP"].clone();
        let address = address.as_str().must("find the exporter's address");
        Self { vm, resolve: format!("{host}:443:{address}") }
    }

    fn client(&self) -> Command {
        let mut curl = self.vm.cluster().in_node("curl");
        curl.args(["--silent", "--show-error", "--fail", "--insecure", "--noproxy", "*", "--resolve", &self.resolve]);
        // It says that it is ready some moments before it serves.
        curl.args(["--retry", "60", "--retry-delay", "1"]);
        curl.args(["--header", "x-kubevirt-export-token: a token for the exporter"]);
        curl
    }

    /// The parts of a disk that its map calls data: offsets and lengths. A map comes in pages.
    fn data(&self, volume: &Value) -> Vec<(u64, u64)> {
        let url = volume["mapEndpoint"].as_str().must("find where its map is served");
        let (mut data, mut end, mut next) = (Vec::new(), 0, Some(0));
        while let Some(from) = next {
            let page = run(self.client().arg(format!("{url}?offset={from}"))).ok().json();
            for extent in page["extents"].as_array().must("read a map") {
                let number = |field: &str| extent[field].as_u64().must("read a map");
                let (at, length) = (number("offset"), number("length"));
                assert_eq!(at, end, "the map at {url} has a gap");
                end = at + length;
                if number("type") & ZERO == 0 {
                    data.push((at, length));
                }
            }
            next = page["next_offset"].as_u64();
        }
        let image = self.vm.image(volume["volumeName"].as_str().must("name a volume"));
        let size = fs::metadata(image).must("look at a disk").len();
        assert!(end >= size, "the map at {url} is of {end} bytes, and the disk has {size}");
        data
    }
}

/// As a client that uses the exporter well: it asks for the maps, and then for what they call data, over one connection.
fn by_exporter(vm: &Vm, name: &str, into: Option<&Kopia>) -> Took {
    // Each has a tracker of its own: by the same one the second would be an increment, of next to nothing.
    let tracker = format!("{name}-tracker");
    Pull::make_tracker(vm, &tracker);
    let began = Instant::now();
    let pull = Pull::start(vm, &tracker, name, 2 * DISK);
    let serves = |status: &Value| {
        let conditions = status["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["reason"] == "ExportReady"))
    };
    let status = pull.wait_for("the exporter serves it", serves);
    assert_eq!(status["type"], "Full", "{status:#}");
    let volumes = status["includedVolumes"].as_array().must("find what is served");
    let exporter = Exporter::of(vm, volumes);
    let parts: Vec<_> = volumes.iter().map(|volume| (volume, exporter.data(volume))).collect();
    let mut curl = exporter.client();
    curl.args(["--write-out", "%{stderr}%{size_download} %{time_starttransfer} %{time_total}\n"]);
    let mut bytes = 0_u64;
    for (volume, data) in &parts {
        let url = volume["dataEndpoint"].as_str().must("find where it is served");
        for (at, length) in data {
            curl.args(["--output", into.map_or("/dev/null", |_| "-"), &format!("{url}?offset={at}&length={length}")]);
            bytes += length;
        }
    }
    let before = began.elapsed();
    let told = load(&mut curl, into);
    pull.end();
    // Of each request: its bytes, and the seconds until its first one and until its last.
    let requests = told.lines().map(|line| {
        let numbers: Vec<f64> = line.split(' ').map(|one| one.parse().must("read what curl tells")).collect();
        <[f64; 3]>::try_from(numbers).unwrap_or_else(|numbers| panic!("{numbers:?}"))
    });
    let requests: Vec<_> = requests.collect();
    let loaded: f64 = requests.iter().map(|[loaded, ..]| loaded).sum();
    assert_eq!(loaded as u64, bytes, "all that the maps call data is loaded");
    let [_, first, _] = *requests.first().must("have loaded something");
    let all: f64 = requests.iter().map(|[.., total]| total).sum();
    Took {
        first: before + Duration::from_secs_f64(first),
        read: Duration::from_secs_f64(all - first),
        end: began.elapsed() - before - Duration::from_secs_f64(all),
        bytes,
    }
}

/// Has curl load what it was told, and what it loads stored; what it tells at its standard error.
fn load(curl: &mut Command, into: Option<&Kopia>) -> String {
    let Some(kopia) = into else { return run(curl).ok().stderr };
    let mut curl = curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().must("start curl");
    let loaded = curl.stdout.take().expect("its output is a pipe");
    let stored = kopia.backup_of_input("disks").stdin(loaded).output().must("start kopia");
    let told = curl.wait_with_output().must("wait for curl");
    assert!(told.status.success(), "curl: {}", String::from_utf8_lossy(&told.stderr));
    assert!(stored.status.success(), "kopia: {}", String::from_utf8_lossy(&stored.stderr));
    String::from_utf8(told.stderr).must("read what curl tells")
}

/// KubeVirt says nothing of the first byte: all until its end is reading, and the copy is the end.
fn by_push(vm: &Vm, number: usize, folder: &Path) -> Took {
    let (cluster, namespace, name) = (vm.cluster(), vm.namespace(), format!("pushed-{number}"));
    cluster.make_claim(namespace, &name, 2 * DISK);
    let began = Instant::now();
    cluster.apply(&json!({
        "apiVersion": "backup.kubevirt.io/v1alpha1", "kind": "VirtualMachineBackup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "source": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": vm.name()},
            "mode": "Push", "pvcName": name,
        },
    }));
    let complete = |object: Option<&Value>| {
        object.is_some_and(|one| is_true(&one["status"], "Complete") || is_true(&one["status"], "Failed"))
    };
    let backup = cluster.wait_for("vmbackup", namespace, &name, "the push does not end", LIMIT, complete);
    let backup = backup.must("have a backup");
    assert!(is_true(&backup["status"], "Complete"), "{backup:#}");
    let (read, began) = (began.elapsed(), Instant::now());
    let files = files(&cluster.volume(namespace, &name));
    let mut bytes = 0;
    for file in &files {
        let into = folder.join("copied");
        run(Command::new("cp").arg(file).arg(&into)).ok();
        let copied = fs::File::open(&into).must("open a copy");
        copied.sync_all().must("sync a copy");
        bytes += copied.metadata().must("look at a copy").len();
        fs::remove_file(into).must("remove a copy");
    }
    let end = began.elapsed();
    cluster.delete("vmbackup", namespace, &name);
    cluster.wait_gone("vmbackup", namespace, &name, LIMIT);
    Took { first: Duration::ZERO, read, end, bytes }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).must("list a volume").map(|entry| entry.must("list a volume").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// That whose time in all is in the middle.
fn median(all: &[Took]) -> Took {
    let mut sorted = all.to_vec();
    sorted.sort_by_key(Took::all);
    sorted[sorted.len() / 2]
}

fn table(all: &[(&str, &Vec<Took>)]) -> String {
    let mut text = format!(
        "A running machine with a disk of {} of half text and half noise and one of 64 MiB, both read in full; KubeVirt 1.9, \
         emulated. remora reads the job's socket on the node, compresses, encrypts and stores in an S3 server of the same \
         machine. The exporter is asked for the map of each disk (`/map`), and then for what that calls data (`/data`), one \
         request after the other over one connection; what it sends (over TLS, through a pod) kopia compresses (zstd-fastest), \
         encrypts and stores in an S3 server of the same machine, or it is thrown away. Both are told the same of the \
         disks, and the large one has no zeros that a map could leave out. A push writes a qcow2 file into a claim \
         and says nothing of its first byte; the end is a plain copy of it. The exporter's end is that of its pod. Medians of {REPEATS}.\n\n\
         | | Created to first byte | First to last byte | Last byte to the end | MiB a second | In all |\n|---|---|---|---|---|---|\n",
        mib(DISK),
    );
    for (who, took) in all {
        let took = median(took);
        let first = if took.first.is_zero() { "–".into() } else { seconds(took.first) };
        let _ = writeln!(
            text,
            "| {who} | {first} | {} | {} | {:.0} | {} |",
            seconds(took.read),
            seconds(took.end),
            took.rate() / MIB as f64,
            seconds(took.all()),
        );
    }
    text
}
