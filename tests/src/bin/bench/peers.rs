//! remora beside restic and kopia: the same bytes, the same stores, in the same run. A table without limits.

mod tools;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Domain, Format, Lab, Must, Remora, S3, scattered};

use crate::measure::{mib, seconds, took};
use crate::report::Row;
use crate::setting::{DISK, Setting};
pub(crate) use tools::Kopia;
use tools::{Restic, Tool};

const INTRODUCTION: &str = "A disk of 4 GiB, half text, half noise; then 1 % of it changed in scattered blocks of 64 KiB. \
    remora reads the running VM through QEMU; restic and kopia read the raw image file, which a running VM does not offer \
    them, and as nothing tells them what changed, they read all of it again. Each compresses and encrypts as it does by \
    default (remora zstd level 1, restic `auto`, kopia `zstd-fastest`, which must be chosen: its default is none). A \
    backup ends when the store's filesystem is synced, a restore when its file is. Memory is the peak that the kernel \
    counted for the process; remora's watchdog (a few MiB) and QEMU are not in it. S3 is versitygw on loopback.";

/// A line of the table.
struct Line {
    what: &'static str,
    of: fn(&Figures) -> (f64, String),
    /// Why remora may be behind here.
    behind: &'static str,
}

const LINES: [Line; 9] = [
    Line {
        what: "Full backup",
        of: |figures| time(&figures.full),
        behind: "the disk comes through QEMU's NBD server on the same cores, and every block has a digest of its own; the \
                 others read a file.",
    },
    Line { what: "Full backup: peak memory", of: |figures| memory(&figures.full), behind: MEMORY },
    Line {
        what: "Full backup: stored",
        of: |figures| size(figures.stored),
        behind: "remora compresses at zstd level 1, in chunks of at most 1 MiB.",
    },
    Line { what: "Backup after 1 % changed", of: |figures| time(&figures.increment), behind: "" },
    Line { what: "Backup after 1 % changed: peak memory", of: |figures| memory(&figures.increment), behind: MEMORY },
    Line {
        what: "Backup after 1 % changed: stored",
        of: |figures| size(figures.grown),
        behind: "each changed block is compressed by itself.",
    },
    Line {
        what: "Restore of the newer point",
        of: |figures| time(&figures.restore),
        behind: "the changed blocks are chunks of their own, each fetched, authenticated and opened by itself.",
    },
    Line { what: "Restore: peak memory", of: |figures| memory(&figures.restore), behind: MEMORY },
    Line {
        what: "Stored in the end",
        of: |figures| size(figures.stored + figures.grown),
        behind: "see above: faster compression, smaller chunks, and only what is at its own place on the disk is known.",
    },
];

const MEMORY: &str = "its budgets are fixed (some 150 MiB whatever the disk's size), as large as keeps all cores busy.";

/// What a command took, from a synced filesystem to a synced result.
struct Timed {
    wall: Duration,
    peak: u64,
}

/// What one tool needed for all of it.
struct Figures {
    full: Timed,
    increment: Timed,
    restore: Timed,
    stored: u64,
    grown: u64,
}

/// Where a repository lies.
pub(crate) enum Place<'a> {
    Folder(PathBuf),
    Bucket(&'a S3, String),
}

impl Place<'_> {
    fn folder(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.clone(),
            Self::Bucket(s3, bucket) => s3.files(bucket),
        }
    }

    fn remora(&self, lab: &Lab) -> Remora {
        let remora = match self {
            Self::Folder(folder) => Remora::new(lab, folder.join("repo")),
            Self::Bucket(s3, bucket) => s3.owner(Remora::new(lab, s3.url(bucket))),
        };
        remora.ok(["repo", "init"]);
        remora
    }
}

/// Makes a tool with a repository at a place, and a folder for what it keeps beside it.
type Make = fn(&Place<'_>, &Path) -> Box<dyn Tool>;

pub(crate) fn measure(setting: &Setting) -> Vec<Row> {
    let dir = setting.lab.scratch("peers");
    let s3 = S3::start();
    let mut text = format!("{INTRODUCTION}\n");
    for store in ["a folder", "S3"] {
        let place = |name: &str| match store {
            "S3" => Place::Bucket(&s3, s3.bucket(name)),
            _ => Place::Folder(setting.lab.scratch(name)),
        };
        let newer = dir.join("newer.raw");
        let ours = with_remora(setting, &place("remora"), &newer);
        let mut all = vec![("remora".to_owned(), ours)];
        let tools: [(&str, Make); 2] = [("restic", Restic::boxed), ("kopia", Kopia::boxed)];
        for (name, make) in tools {
            let tool = make(&place(name), &setting.lab.scratch("peer-state"));
            all.push((tool.name(), with_tool(setting, tool.as_ref(), &newer, &dir)));
            eprintln!("   {} on {store}", tool.name());
        }
        table(&mut text, store, &all);
    }
    fs::remove_dir_all(&dir).must("remove copies of a disk");
    setting.tell("Beside restic and kopia", text);
    Vec::new()
}

/// remora's figures; the newer point's disk is left at `newer`.
fn with_remora(setting: &Setting, place: &Place<'_>, newer: &Path) -> Figures {
    let domain = setting.lab.domain("peers").disk(DiskSpec::holding("vda", Format::Qcow2, setting.disk())).paused();
    let (remora, folder) = (place.remora(&setting.lab), place.folder());
    let before = bytes_below(&folder);
    let backup = |domain: &Domain<'_>| {
        let mut command = remora.command(["backup", domain.name(), "--quiesce", "never", "-o", "json"]);
        timed(&folder, || {
            let backed_up = took(&mut command);
            let report = backed_up.json();
            (backed_up.peak, report["point"].as_str().must("read a point's name").to_owned())
        })
    };
    let (full, _) = backup(&domain);
    let stored = bytes_below(&folder);
    scattered::write(&domain, "vda", 1, DISK / 100);
    let (increment, point) = backup(&domain);
    let grown = bytes_below(&folder) - stored;
    let mut restore = remora.command(["restore", &point, "--quiet", "--force", "--disk", "vda", "--to"]);
    restore.arg(newer);
    let (restore, ()) = timed(newer.parent().must("find a folder"), || (took(&mut restore).peak, ()));
    fs::remove_dir_all(&folder).must("remove a repository");
    Figures { full, increment, restore, stored: stored - before, grown }
}

/// A tool's figures, for the same two states of the disk.
fn with_tool(setting: &Setting, tool: &dyn Tool, newer: &Path, dir: &Path) -> Figures {
    let (folder, image, restored) = (tool.place(), dir.join("image/disk.raw"), dir.join("restored"));
    fs::create_dir_all(dir.join("image")).must("make a folder");
    let backup = |from: &Path| {
        fs::copy(from, &image).must("put an image in place");
        let before = bytes_below(&folder);
        let (timed, ()) = timed(&folder, || (took(&mut tool.backup(&image)).peak, ()));
        (timed, bytes_below(&folder) - before)
    };
    let (full, stored) = backup(setting.disk());
    let (increment, grown) = backup(newer);
    let (restore, ()) = timed(dir, || (took(&mut tool.restore(&image, &restored)).peak, ()));
    assert_same(&tool.restored(&image, &restored), newer);
    fs::remove_dir_all(&restored).must("remove a restored disk");
    fs::remove_dir_all(&folder).must("remove a repository");
    Figures { full, increment, restore, stored, grown }
}

/// Runs something, and syncs the filesystem of `on`; with both, the time of it.
fn timed<T>(on: &Path, run: impl FnOnce() -> (u64, T)) -> (Timed, T) {
    nix::unistd::sync();
    let start = Instant::now();
    let (peak, result) = run();
    let folder = File::open(on).must(format_args!("open {}", on.display()));
    nix::unistd::syncfs(&folder).must("sync a filesystem");
    (Timed { wall: start.elapsed(), peak }, result)
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).must(format_args!("list {}", folder.display()));
    let entries = entries.map(|entry| entry.must("list a folder"));
    let len = |entry: fs::DirEntry| match entry.metadata().must("look at a file") {
        metadata if metadata.is_dir() => bytes_below(&entry.path()),
        metadata => metadata.len(),
    };
    entries.map(len).sum()
}

fn time(timed: &Timed) -> (f64, String) {
    (timed.wall.as_secs_f64(), seconds(timed.wall))
}

fn memory(timed: &Timed) -> (f64, String) {
    size(timed.peak)
}

fn size(bytes: u64) -> (f64, String) {
    (bytes as f64, mib(bytes))
}

fn table(text: &mut String, store: &str, all: &[(String, Figures)]) {
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    let _ = writeln!(text, "\n| In {store} | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    let mut behind = String::new();
    for line in &LINES {
        let values: Vec<(f64, String)> = all.iter().map(|(_, figures)| (line.of)(figures)).collect();
        let best = values.iter().map(|value| value.0).fold(f64::INFINITY, f64::min);
        let cells =
            values.iter().map(|(value, text)| if *value <= best { format!("**{text}**") } else { text.clone() });
        let _ = writeln!(text, "| {} | {} |", line.what, cells.collect::<Vec<_>>().join(" | "));
        if values[0].0 > best {
            let _ = writeln!(behind, "- {}: {:.2} × the best: {}", line.what, values[0].0 / best, line.behind);
        }
    }
    let _ = writeln!(text, "\nWhere remora is behind:\n\n{}", if behind.is_empty() { "- nowhere\n" } else { &behind });
    println!("{text}");
}
