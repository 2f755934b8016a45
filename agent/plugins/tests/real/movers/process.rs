//! The process that runs a component: what it may do, and what its end costs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_plugins::movers::Patience;
use remora_tests::Transport;

use super::objects::{create, get};
use super::s3::Bucket;

fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_runs_without_any_right_network_or_file() {
    let bucket = Bucket::new(Transport::Http);
    bucket.store.probe().await.unwrap();
    let pid = bucket.store.process().unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Seccomp"), "2", "no filter of system calls");
    for (name, ids) in [("Uid", "65534 65534 65534 65534"), ("Gid", "65534 65534 65534 65534"), ("Groups", "")] {
        assert_eq!(status(pid, name), ids, "{name}");
    }
    let of = |pid: &str, what: &str| fs::read_link(format!("/proc/{pid}/{what}")).unwrap();
    let pid_text = pid.to_string();
    for namespace in ["ns/net", "ns/ipc", "ns/uts", "ns/mnt"] {
        assert_ne!(of(&pid_text, namespace), of("self", namespace), "{namespace}");
    }
    assert_eq!(fs::read_dir(format!("/proc/{pid}/root/")).unwrap().count(), 0, "it sees files");
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    let open =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| fs::read_link(entry.unwrap().path()).unwrap());
    let strange: Vec<PathBuf> = open
        .filter(|to| to != "/dev/null" && !to.to_string_lossy().starts_with("socket:"))
        .filter(|to| !to.ends_with("status"))
        .collect();
    assert_eq!(strange, Vec::<PathBuf>::new());
    for (name, value) in [("Max core file size", 0), ("Max open files", 64)] {
        assert_eq!(limit(pid, name), value, "{name}");
    }
}

/// A limit of a process.
fn limit(pid: i32, name: &str) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
    line[name.len()..].split_whitespace().next().unwrap().parse().unwrap_or(u64::MAX)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_components_of_a_process_together_may_take_half_of_the_memory() {
    let machine = fs::read_to_string("/proc/meminfo").unwrap();
    let machine: u64 = machine.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    let buckets = [Bucket::new(Transport::Http), Bucket::new(Transport::Http), Bucket::new(Transport::Http)];
    let mut together = 0;
    for bucket in &buckets {
        bucket.store.probe().await.unwrap();
        let data = limit(bucket.store.process().unwrap(), "Max data size");
        assert!(data >= 96 << 20, "{data}");
        together += data;
    }
    assert!(together <= machine * 1024 / 2, "{together}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_killed_is_started_again_and_the_call_succeeds() {
    let bucket = Bucket::new(Transport::Http);
    for n in 0..3 {
        create(&bucket.store, &format!("{n}"), "bytes").await.unwrap();
        let pid = bucket.store.process().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        assert_eq!(get(&bucket.store, &format!("{n}")).await.unwrap(), "bytes");
        assert_ne!(bucket.store.process(), Some(pid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_is_killed_and_the_call_succeeds() {
    let mut s3 = Bucket::new(Transport::Http);
    let text = fs::read_to_string(s3.folder.path().join("s3.yaml")).unwrap();
    fs::write(s3.folder.path().join("s3.yaml"), format!("{text}timeout: 5s\n")).unwrap();
    // On a busy machine a call may take longer than that, too, and is made again.
    s3.folder.movers.patience = Patience { retries: 20, give_up: Duration::from_mins(10) };
    let store = s3.folder.movers.open("s3", "a/prefix").unwrap();
    create(&store, "x", "bytes").await.unwrap();
    let pid = store.process().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    assert_eq!(get(&store, "x").await.unwrap(), "bytes");
    assert_ne!(store.process(), Some(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_whoever_started_it() {
    let bucket = Bucket::new(Transport::Http);
    bucket.store.probe().await.unwrap();
    // Its number may be another one's soon.
    let process = remora_process::Process::of(&bucket.store.process().unwrap().to_string()).unwrap();
    drop(bucket.store);
    let gone = async {
        while !process.is_gone() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::super::components::FOR_EVER, gone).await.unwrap();
}
