//! Disk images: empty ones, ones that hold given bytes, and KubeVirt's overlay for changed-block tracking.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Must, run};

/// How a disk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A qcow2 image: holds bitmaps.
    Qcow2,
    /// A raw image: holds no bitmaps.
    Raw,
    /// A qcow2 image that holds bitmaps only, its data in a raw image beside it: what KubeVirt makes.
    Overlay,
}

impl Format {
    /// What libvirt and QEMU call the format of the image that a domain opens.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Qcow2 | Self::Overlay => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A disk that a domain is to have.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    target: String,
    format: Format,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Zeros(u64),
    Raw(PathBuf),
}

impl DiskSpec {
    /// An empty disk of `size` bytes, seen as `target` (`vda`).
    pub fn new(target: &str, format: Format, size: u64) -> Self {
        Self { target: target.into(), format, content: Content::Zeros(size) }
    }

    /// An empty qcow2 disk of `size` bytes.
    pub fn qcow2(target: &str, size: u64) -> Self {
        Self::new(target, Format::Qcow2, size)
    }

    /// An empty raw disk of `size` bytes.
    pub fn raw(target: &str, size: u64) -> Self {
        Self::new(target, Format::Raw, size)
    }

    /// An empty disk of `size` bytes behind KubeVirt's overlay.
    pub fn overlay(target: &str, size: u64) -> Self {
        Self::new(target, Format::Overlay, size)
    }

    /// A disk that holds what the raw file `content` holds. The file is copied.
    pub fn holding(target: &str, format: Format, content: &Path) -> Self {
        Self { target: target.into(), format, content: Content::Raw(content.into()) }
    }

    /// The name that the domain gives it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Makes the image in `dir`.
    pub fn create(&self, dir: &Path) -> Image {
        let extension = self.format.driver();
        let path = dir.join(format!("{}.{extension}", self.target));
        let data = match self.format {
            Format::Overlay => {
                let data = dir.join(format!("{}.data.raw", self.target));
                self.content.write_raw(&data);
                create_overlay(&data, &path);
                Some(data)
            }
            Format::Raw => {
                self.content.write_raw(&path);
                None
            }
            Format::Qcow2 => {
                self.content.write_qcow2(&path);
                None
            }
        };
        Image { target: self.target.clone(), format: self.format, path, data }
    }
}

impl Content {
    fn write_raw(&self, path: &Path) {
        match self {
            Self::Zeros(size) => {
                File::create(path).and_then(|file| file.set_len(*size)).must(format_args!("make {}", path.display()));
            }
            Self::Raw(source) => {
                run(Command::new("cp").args(["--sparse=always", "--reflink=auto", "--"]).arg(source).arg(path)).ok();
            }
        }
    }

    fn write_qcow2(&self, path: &Path) {
        let mut qemu_img = Command::new("qemu-img");
        match self {
            Self::Zeros(size) => qemu_img.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size.to_string()),
            Self::Raw(source) => qemu_img.args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(source).arg(path),
        };
        run(&mut qemu_img).ok();
    }
}

/// A disk image on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The name that its domain gives it.
    pub target: String,
    /// How it is stored.
    pub format: Format,
    /// The file that the domain opens.
    pub path: PathBuf,
    /// The raw file that an overlay's data lies in.
    pub data: Option<PathBuf>,
}

impl Image {
    /// Its size in bytes, as the guest sees it.
    pub fn size(&self) -> u64 {
        let mut qemu_img = Command::new("qemu-img");
        qemu_img.args(["info", "-U", "--output=json", "-f", self.format.driver()]).arg(&self.path);
        let info = run(&mut qemu_img).ok().json();
        info["virtual-size"].as_u64().must("read an image's virtual size")
    }
}

/// Makes the qcow2 image `overlay` over the existing raw image `data`, which keeps its content: `qemu-img create` would
/// empty it, QEMU's own job does not.
fn create_overlay(data: &Path, overlay: &Path) {
    let size = fs::metadata(data).must(format_args!("look at {}", data.display())).len();
    File::create(overlay).must(format_args!("make {}", overlay.display()));
    let commands = [
        serde_json::json!({"execute": "qmp_capabilities"}),
        serde_json::json!({"execute": "blockdev-create", "arguments": {"job-id": "create", "options": {
            "driver": "qcow2", "file": "overlay", "data-file": "data", "data-file-raw": true, "size": size,
        }}}),
    ];
    let mut daemon = StorageDaemon::start(&[("overlay", overlay), ("data", data)]);
    for command in commands {
        daemon.execute(&command);
    }
    daemon.finish_job("create");
}

use storage_daemon::StorageDaemon;

/// `qemu-storage-daemon`, spoken to over its standard input and output.
mod storage_daemon {
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;
    use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

    use serde_json::{Value, json};

    use crate::process::Must;

    pub(super) struct StorageDaemon {
        process: Child,
        input: ChildStdin,
        output: BufReader<ChildStdout>,
    }

    impl StorageDaemon {
        /// Starts one that has opened `files` under the names given.
        pub(super) fn start(files: &[(&str, &Path)]) -> Self {
            let mut command = Command::new("qemu-storage-daemon");
            for (name, path) in files {
                command
                    .arg("--blockdev")
                    .arg(json!({"driver": "file", "node-name": name, "filename": path}).to_string());
            }
            let mut process = command
                .args(["--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .must("start qemu-storage-daemon (package qemu-utils or qemu-system-common; `make setup`)");
            let input = process.stdin.take().expect("its input is a pipe");
            let output = BufReader::new(process.stdout.take().expect("its output is a pipe"));
            let mut daemon = Self { process, input, output };
            assert!(daemon.next().get("QMP").is_some(), "qemu-storage-daemon sends no greeting");
            daemon
        }

        /// Runs a command and gives what it returned.
        pub(super) fn execute(&mut self, command: &Value) -> Value {
            writeln!(self.input, "{command}").must("write to qemu-storage-daemon");
            loop {
                let answer = self.next();
                if let Some(error) = answer.get("error") {
                    panic!("{command} fails: {error}");
                }
                if let Some(value) = answer.get("return") {
                    return value.clone();
                }
            }
        }

        /// Waits for a job's end, then ends the daemon.
        pub(super) fn finish_job(mut self, id: &str) {
            loop {
                let jobs = self.execute(&json!({"execute": "query-jobs"}));
                let job = &jobs[0];
                assert!(job["id"] == id && job.get("error").is_none(), "the job fails: {jobs}");
                if job["status"] == "concluded" {
                    break;
                }
                std::thread::yield_now();
            }
            self.execute(&json!({"execute": "quit"}));
            self.process.wait().must("wait for qemu-storage-daemon");
        }

        fn next(&mut self) -> Value {
            let mut line = String::new();
            let length = self.output.read_line(&mut line).must("read from qemu-storage-daemon");
            assert!(length > 0, "qemu-storage-daemon ended: {:?}", self.process.wait());
            serde_json::from_str(&line).must(format_args!("read {line:?} as an answer of qemu-storage-daemon"))
        }
    }
}
