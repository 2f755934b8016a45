//! `remora-deciding`: measures what decisions and reloads cost, and what an idle host holds. One JSON object, times in
//! nanoseconds. Of no use but to `bench`.

#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the benchmark")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use remora_core::VmName;
use remora_core::policy::{Access, Action, Authorize, Subject, VmFacts};
use remora_plugins::set::{Generation, Snapshot};
use remora_plugins::{AuthorizePolicy, Host, HostOptions, SelectPolicy, builtins};

/// Decisions that are timed one by one.
const DECISIONS: usize = 20_000;
const FRESH: usize = 5_000;
const BATCH: usize = 64;
/// Policies of which one is changed.
const POLICIES: usize = 200;
/// Components that an idle host holds.
const COMPONENTS: usize = 50;

fn main() {
    let idle = idle();
    let host = Host::new(&HostOptions::default()).unwrap();
    let policy = AuthorizePolicy::load(&host, builtin("paths"), RULES).unwrap();
    let requests: Vec<_> = (0..BATCH).map(request).collect();
    let warm = times(DECISIONS, |n| drop(policy.authorize(&requests[n % BATCH..=n % BATCH]).unwrap()));
    let fresh = times(FRESH, |n| drop(policy.authorize_fresh(&requests[n % BATCH..=n % BATCH]).unwrap()));
    let batch = times(DECISIONS / BATCH, |_| drop(policy.authorize(&requests).unwrap()));
    let result = serde_json::json!({
        "warm": percentiles(&warm),
        "fresh": percentiles(&fresh),
        "batch_each": percentiles(&batch.iter().map(|time| time / BATCH as u64).collect::<Vec<_>>()),
        "reload_cpu": reload(&host),
        "idle_bytes": idle,
    });
    println!("{result}");
}

const RULES: &str = r#"{"denyPaths": ["/srv/hr/**", "/**/*.key", "/root/root/**"],
    "rules": [{"groups": ["web"], "allowPaths": ["/root/var/www/**"]}, {"groups": ["ops"], "allowPaths": ["/**"]}]}"#;

fn builtin(wanted: &str) -> &'static [u8] {
    builtins().find(|(name, _)| *name == wanted).unwrap().1
}

/// What is asked of a file server about a file of a listing: a user in some groups, a VM with labels, a path of usual
/// length. Of two files nothing but the paths differs.
fn request(n: usize) -> Access {
    let at = Timestamp::from_second(1_767_225_600).unwrap();
    let labels = [("app", "shop"), ("backup", "nightly"), ("remora.dev/owner", "alice"), ("tier", "gold")];
    Access {
        subject: Subject {
            user: "alice-1@example.org".into(),
            groups: ["staff", "web", "vpn"].map(String::from).into(),
            grants: vec!["get virtualmachines".into()],
        },
        action: Action::Read,
        vm: VmFacts {
            name: VmName::new("shop-frontend-1").unwrap(),
            namespace: "shop".into(),
            uid: "7d9d8a5e-0c5e-4d30-9d9b-1c2f7a4b9c11".into(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        },
        point: "0123456789abcdef-17".into(),
        point_time: at,
        path: format!("/root/var/www/shop/assets/images/products/{n}/large.webp").into_bytes(),
        now: at,
        approvals: Vec::new(),
    }
}

/// How long each call takes, sorted.
fn times(count: usize, call: impl Fn(usize)) -> Vec<u64> {
    (0..count / 10).for_each(&call);
    let time = |n| {
        let started = Instant::now();
        call(n);
        u64::try_from(started.elapsed().as_nanos()).unwrap()
    };
    let mut times: Vec<_> = (0..count).map(time).collect();
    times.sort_unstable();
    times
}

fn percentiles(sorted: &[u64]) -> serde_json::Value {
    serde_json::json!({"p50": sorted[sorted.len() / 2], "p99": sorted[sorted.len() * 99 / 100]})
}

/// A component with the code of another one and a digest of its own: custom sections mean nothing.
fn variant(component: &[u8], n: usize) -> Vec<u8> {
    let name = format!("variant-{n:03}");
    let mut bytes = component.to_vec();
    bytes.extend([0, u8::try_from(name.len() + 1).unwrap(), u8::try_from(name.len()).unwrap()]);
    bytes.extend(name.as_bytes());
    bytes
}

/// The CPU time of taking over one changed policy of a folder of many, its module being new.
fn reload(host: &Host) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let write = |n: usize, cron: &str| document(folder.path(), n, cron);
    (0..POLICIES).for_each(|n| write(n, "15 2 * * *"));
    let generation = |before: &Generation| {
        let next = before.next(host, &Snapshot::read(folder.path()).unwrap(), Timestamp::now());
        assert_eq!(next.broken().count(), 0);
        next
    };
    let before = generation(&Generation::default());
    fs::write(folder.path().join("changed.wasm"), variant(builtin("labels"), 0)).unwrap();
    let changed = fs::read_to_string(folder.path().join("policy-100.yaml")).unwrap();
    fs::write(folder.path().join("policy-100.yaml"), changed.replace("builtin:labels", "file:changed.wasm")).unwrap();
    let started = cpu() + cpu_of_children();
    generation(&before);
    cpu() + cpu_of_children() - started
}

fn document(folder: &Path, n: usize, cron: &str) {
    let text = format!(
        "kind: BackupPolicy\nname: policy-{n}\nselect: {{module: builtin:labels, settings: {{matchLabels: {{backup: b{n}}}}}}}\n\
         schedule: {{module: builtin:cron, settings: {{cron: {cron}, timezone: Europe/Prague}}}}\n\
         retention: {{module: builtin:gfs, settings: {{daily: {}}}}}\n",
        n + 1
    );
    fs::write(folder.join(format!("policy-{n}.yaml")), text).unwrap();
}

/// The CPU time of this thread so far, in nanoseconds; there is no other at work.
fn cpu() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

/// The CPU time of the processes that this one started and that have ended, in nanoseconds: what compiled.
fn cpu_of_children() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let nanoseconds = |time: TimeVal| u64::try_from(time.num_nanoseconds()).unwrap();
    nanoseconds(usage.user_time()) + nanoseconds(usage.system_time())
}

/// The resident memory of this process with so many components loaded, and none at work.
fn idle() -> u64 {
    let host = Host::new(&HostOptions::default()).unwrap();
    let load = |n| SelectPolicy::load(&host, &variant(builtin("labels"), n), r#"{"all": true}"#).unwrap();
    let loaded: Vec<_> = (1..=COMPONENTS).map(load).collect();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    drop(loaded);
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
