//! Writing and reading a disk as the guest would, with no guest: through the guest's device and all of QEMU's block layer.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{Domain, builder};
use crate::MIB;
use crate::process::{Must, run};

/// The bytes of each file that [`Domain::write_files`] takes.
pub const WRITE_FILE: u64 = 64 << 10;

/// What QEMU counts of the requests to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writes {
    /// Writes that succeeded.
    pub done: u64,
    /// Writes that failed, and that the guest saw fail.
    pub failed: u64,
}

impl Domain<'_> {
    /// Writes `len` bytes of `pattern` at `offset` of a disk, as the guest would; panics if the guest would see an error.
    #[track_caller]
    pub fn write(&self, target: &str, pattern: u8, offset: u64, len: u64) {
        self.write_all(target, &[(pattern, offset, len)]);
    }

    /// Does many [`Domain::write`]s (pattern, offset, length) quickly.
    #[track_caller]
    pub fn write_all(&self, target: &str, writes: &[(u8, u64, u64)]) {
        let before = self.writes(target);
        // One virsh for many writes, as far as a command line may be long. QEMU counts asynchronous writes only.
        for some in writes.chunks(256) {
            let script: Vec<_> = some
                .iter()
                .map(|(pattern, offset, len)| format!("aio_write -P {pattern} {offset} {len}"))
                .chain(["aio_flush".to_owned()])
                .map(|command| format!("qemu-monitor-command {} --hmp '{}'", self.uuid, qemu_io(target, &command)))
                .collect();
            self.lab.virsh(&[script.join("; ")]);
        }
        let after = self.writes(target);
        assert_eq!(after.failed, before.failed, "a write to {target} fails: {writes:?}");
        assert!(after.done >= before.done + writes.len() as u64, "a write to {target} was lost: {writes:?}");
    }

    /// Writes files, each of [`WRITE_FILE`] bytes, at offsets of a disk, as the guest would and quickly. **QEMU says
    /// nothing of how that ended**: look at the disk, or at what a backup reads of it.
    #[track_caller]
    pub fn write_files(&self, target: &str, writes: &[(PathBuf, u64)]) {
        for some in writes.chunks(256) {
            let script: Vec<_> = some
                .iter()
                .map(|(file, offset)| format!("write -q -s {} {offset} {WRITE_FILE}", file.display()))
                .map(|command| format!("qemu-monitor-command {} --hmp '{}'", self.uuid, qemu_io(target, &command)))
                .collect();
            self.lab.virsh(&[script.join("; ")]);
        }
        self.flush(target);
    }

    /// Writes zeros without sending them, as a guest's mkfs does.
    #[track_caller]
    pub fn write_zeros(&self, target: &str, offset: u64, len: u64) {
        self.qemu_io(target, &format!("write -z {offset} {len}"));
        // QEMU does not count this kind of write, so look whether it was done.
        self.assert_reads(target, 0, offset, len);
    }

    /// Writes `bytes` at `offset` of a disk; both in whole sectors of 512 bytes.
    #[track_caller]
    pub fn write_bytes(&self, target: &str, offset: u64, bytes: &[u8]) {
        let len = bytes.len();
        assert!(offset.is_multiple_of(512) && len.is_multiple_of(512), "{offset}+{len} is not in whole sectors");
        let [source, copy] =
            [(); 2].map(|()| tempfile::NamedTempFile::new_in(&self.dir).must("make a file for QEMU's use"));
        fs::write(source.path(), bytes).must("fill a file for QEMU's use");
        self.qemu_io(target, &format!("write -s {} {offset} {len}", source.path().display()));
        // QEMU does not count this kind of write, so look whether it was done.
        self.flush(target);
        let image = self.image(target);
        let mut dd = Command::new("qemu-img");
        let (len, block) = (len as u64, if (offset | len as u64).is_multiple_of(MIB) { MIB } else { 512 });
        dd.args(["dd", "-U", "-f", image.format.driver(), "-O", "raw", &format!("bs={block}")]);
        dd.args([format!("skip={}", offset / block), format!("count={}", (offset + len) / block)]);
        dd.args([format!("if={}", image.path.display()), format!("of={}", copy.path().display())]);
        run(&mut dd).ok();
        let found = fs::read(copy.path()).must("read what QEMU wrote");
        assert!(found == bytes, "the write of {len} bytes at {offset} of {target} failed");
    }

    /// Discards a range, as a guest's fstrim does.
    #[track_caller]
    pub fn discard(&self, target: &str, offset: u64, len: u64) {
        self.qemu_io(target, &format!("discard {offset} {len}"));
    }

    /// Brings all that QEMU caches of a disk to its image.
    #[track_caller]
    pub fn flush(&self, target: &str) {
        self.qemu_io(target, "flush");
    }

    /// Panics unless `len` bytes of `pattern` lie at `offset` of a disk.
    #[track_caller]
    pub fn assert_reads(&self, target: &str, pattern: u8, offset: u64, len: u64) {
        if self.state() != "shut off" {
            self.flush(target);
        }
        let image = self.image(target);
        let mut qemu_io = Command::new("qemu-io");
        qemu_io.args(["-U", "-r", "-f", image.format.driver(), "-c"]);
        let ran = run(qemu_io.arg(format!("read -P {pattern} {offset} {len}")).arg(&image.path)).ok();
        // It says "read N/N bytes" even after "Pattern verification failed".
        assert!(ran.text().contains("bytes at offset") && !ran.text().contains("failed"), "{ran:?}");
    }

    /// The writes to a disk since its QEMU was started: the guest's own and those of [`Domain::write`].
    #[track_caller]
    pub fn writes(&self, target: &str) -> Writes {
        let answer = self.qmp(&json!({"execute": "query-blockstats"}));
        let device = builder::device_path(target);
        let devices = answer["return"].as_array().must("read QEMU's statistics");
        let stats =
            &devices.iter().find(|one| one["qdev"] == *device).must("find the disk in QEMU's statistics")["stats"];
        let count = |name: &str| stats.get(name).and_then(Value::as_u64).must("read a count of QEMU's");
        Writes { done: count("wr_operations"), failed: count("failed_wr_operations") + count("invalid_wr_operations") }
    }

    /// Runs a command of qemu-io on the guest's device. **QEMU says nothing of how it ended.**
    #[track_caller]
    pub fn qemu_io(&self, target: &str, command: &str) {
        self.hmp(&qemu_io(target, command));
    }

    /// Runs a command of QEMU's human monitor.
    #[track_caller]
    pub fn hmp(&self, command: &str) -> String {
        self.virsh("qemu-monitor-command", &["--hmp", command])
    }

    /// Runs a command of QEMU's JSON monitor and gives its whole answer.
    #[track_caller]
    pub fn qmp(&self, command: &Value) -> Value {
        let said = self.virsh("qemu-monitor-command", &[&command.to_string()]);
        serde_json::from_str(&said).must(format_args!("read {said:?} as JSON"))
    }
}

/// The monitor's command for a command of qemu-io.
fn qemu_io(target: &str, command: &str) -> String {
    format!("qemu-io -d {} \"{command}\"", builder::device_path(target))
}
