//! Time, processor time and memory of processes, and what work costs at least.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, SysconfVar, sysconf};
use remora_tests::{MIB, Must};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// How often a process's memory is looked at. The kernel keeps the peak, so only growth in a process's last moment,
/// when it cleans up, can be missed.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a command took.
pub(crate) struct Took {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// Peak resident memory in bytes.
    pub(crate) peak: u64,
    pub(crate) stdout: Vec<u8>,
}

impl Took {
    /// Its standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).must("read a command's output as JSON")
    }
}

/// Runs a command, whose output is short, to its successful end. Nothing of before is left to be written meanwhile.
pub(crate) fn took(command: &mut Command) -> Took {
    nix::unistd::sync();
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .must(format_args!("start {command:?} (`make setup` installs what is needed)"));
    let pid = Pid::from_raw(child.id().try_into().must("take a process id"));
    let mut peak = 0;
    // It stays a zombie, whose times can be read, until `wait` below.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    while waitid(Id::Pid(pid), flags).must("look whether a process ended") == WaitStatus::StillAlive {
        peak = peak_memory(pid).unwrap_or_default().max(peak);
        std::thread::sleep(LOOK_EVERY);
    }
    let (wall, cpu) = (start.elapsed(), cpu_of(pid));
    let stdout = output(&mut child);
    let status = child.wait().must("wait for a process");
    assert!(status.success(), "{command:?}: {status}");
    Took { wall, cpu, peak, stdout }
}

fn output(child: &mut Child) -> Vec<u8> {
    let mut stdout = Vec::new();
    let pipe = child.stdout.as_mut().expect("its output is a pipe");
    pipe.read_to_end(&mut stdout).must("read a command's output");
    stdout
}

/// The peak of a process's resident memory until now, in bytes.
pub(crate) fn peak_memory(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}

/// The processor time that a process and its threads have spent.
pub(crate) fn cpu_of(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).must("read a process's times");
    let (_, fields) = stat.rsplit_once(')').must("read a process's times");
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let a_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().must("learn how long a tick is");
    Duration::from_secs_f64(ticks as f64 / a_second as f64)
}

/// The processor time that this thread has spent.
fn own_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").must("read a thread's time");
    let nanoseconds = stat.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.must("read a thread's time"))
}

/// Processors that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().must("count the processors").get()
}

/// The processor time that one core needs to hash (BLAKE3), compress (zstd, level 1) and seal (AES-256-GCM) a file, in
/// pieces of one MiB. A piece that does not shrink is sealed as it is.
pub(crate) fn codec_cost(path: &Path) -> Duration {
    let mut file = File::open(path).must("open a disk");
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).must("make a key"));
    let mut zstd = zstd::bulk::Compressor::new(1).must("make a zstd context");
    // Much at a time, so that looking at the clock and reading the file do not count.
    let mut some = vec![0; 256 * MIB as usize];
    let mut packed = vec![0; 2 * MIB as usize];
    let mut cost = Duration::ZERO;
    loop {
        let len = read_full(&mut file, &mut some);
        if len == 0 {
            return cost;
        }
        let start = own_cpu();
        for (number, piece) in some[..len].chunks_mut(MIB as usize).enumerate() {
            std::hint::black_box(blake3::hash(piece));
            let packed_len = zstd.compress_to_buffer(piece, &mut packed[..]).must("compress");
            let sealed = if packed_len < piece.len() { &mut packed[..packed_len] } else { piece };
            let nonce =
                Nonce::assume_unique_for_key((number as u128).to_le_bytes()[..12].try_into().must("cut a nonce"));
            let _tag = std::hint::black_box(key.seal_in_place_separate_tag(nonce, Aad::empty(), sealed).must("seal"));
        }
        cost += own_cpu() - start;
    }
}

/// The time to write and sync `len` bytes (of `like`, which is as long) to a new file in `dir`.
pub(crate) fn write_cost(dir: &Path, like: &Path, len: u64) -> Duration {
    let path = dir.join("written");
    let mut source = File::open(like).must("open a disk");
    let mut file = File::create(&path).must("make a file");
    let mut some = vec![0; 64 * MIB as usize];
    nix::unistd::sync();
    let (mut left, mut time) = (len as usize, Duration::ZERO);
    while left > 0 {
        let now = read_full(&mut source, &mut some).min(left);
        assert!(now > 0, "{} is shorter than {len} bytes", like.display());
        let start = Instant::now();
        file.write_all(&some[..now]).must("write a file");
        time += start.elapsed();
        left -= now;
    }
    let start = Instant::now();
    file.sync_all().must("sync a file");
    time += start.elapsed();
    fs::remove_file(&path).must("remove a file");
    time
}

pub(crate) fn read_full(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).must("read a disk") {
            0 => break,
            count => filled += count,
        }
    }
    filled
}

/// Seconds, for people.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// MiB, for people.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}
