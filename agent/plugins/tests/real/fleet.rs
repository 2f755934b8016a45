//! A fleet: 200 policies, 5,000 VMs.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use jiff::Timestamp;
use remora_core::VmName;
use remora_core::policy::{Select, VmFacts};
use remora_plugins::set::{Active, Generation, Snapshot};
use remora_plugins::{Host, builtins};

use super::components::host;

const POLICIES: usize = 200;
const VMS: usize = 5_000;

/// How often the load goes through the whole fleet.
const ROUNDS: usize = 3;

/// Each policy selects one share of the VMs; which one moves on by one with each version. So each VM is selected once, by the
/// policy that its share and the version say, and a mixture of versions selects one twice or never.
fn put(folder: &Path, policy: usize, version: usize) {
    let share = (policy + version) % POLICIES;
    let mut text = format!("kind: BackupPolicy\nname: p{policy}\n");
    writeln!(text, "select: {{module: builtin:labels, settings: {{matchLabels: {{share: s{share}}}}}}}").unwrap();
    writeln!(text, "schedule: {{module: builtin:cron, settings: {{cron: {} 2 * * *}}}}", version % 60).unwrap();
    writeln!(text, "retention: {{module: builtin:gfs, settings: {{daily: {}}}}}", version + 1).unwrap();
    fs::write(folder.join(format!("p{policy:03}.yaml")), text).unwrap();
}

fn next(before: &Generation, host: &Host, folder: &Path) -> Generation {
    let next = before.next(host, &Snapshot::read(folder).unwrap(), Timestamp::UNIX_EPOCH);
    let broken: Vec<_> = next.broken().map(|(_, error)| error.chain()).collect();
    assert_eq!(broken, [""; 0], "generation {}", next.number);
    next
}

fn same(a: &Active, b: &Active) -> bool {
    match (a, b) {
        (Active::Backup(a), Active::Backup(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

#[test]
fn of_many_policies_only_what_changed_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    (0..POLICIES).for_each(|policy| put(folder.path(), policy, 0));
    let (_, labels) = builtins().find(|(name, _)| *name == "labels").unwrap();
    fs::write(folder.path().join("mine.wasm"), labels).unwrap();
    let own = fs::read_to_string(folder.path().join("p007.yaml")).unwrap().replace("builtin:labels", "file:mine.wasm");
    fs::write(folder.path().join("p007.yaml"), own).unwrap();
    let first = next(&Generation::default(), &host, folder.path());

    // A document, and a module: a custom section means nothing, but gives it another digest.
    put(folder.path(), 3, 1);
    let mut module = labels.to_vec();
    module.extend([0, 2, 1, b'x']);
    fs::write(folder.path().join("mine.wasm"), module).unwrap();
    let second = next(&first, &host, folder.path());
    let both = first.files.iter().zip(&second.files);
    let changed = both.filter(|(a, b)| !same(a.active.as_ref().unwrap(), b.active.as_ref().unwrap()));
    assert_eq!(changed.map(|(file, _)| file.file.as_str()).collect::<Vec<_>>(), ["p003.yaml", "p007.yaml"]);
}

/// The policies are reloaded all the time, all of them at once, while they are asked about all VMs.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_selected_by_one_version_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    (0..POLICIES).for_each(|policy| put(folder.path(), policy, 0));
    let current = Arc::new(RwLock::new(Arc::new(next(&Generation::default(), &host, folder.path()))));
    let done = Arc::new(AtomicBool::new(false));
    let reloading = std::thread::spawn({
        let (current, done) = (Arc::clone(&current), Arc::clone(&done));
        move || {
            let mut version = 0;
            while !done.load(Ordering::Relaxed) || version < 2 {
                version += 1;
                (0..POLICIES).for_each(|policy| put(folder.path(), policy, version));
                let before = Arc::clone(&current.read().unwrap());
                *current.write().unwrap() = Arc::new(next(&before, &host, folder.path()));
            }
        }
    });
    let vm = |n: usize| {
        let mut facts = VmFacts::named(VmName::new(format!("vm-{n}")).unwrap());
        facts.labels.insert("share".into(), format!("s{}", n % POLICIES));
        facts
    };
    let vms: Vec<_> = (0..VMS).map(vm).collect();
    for _ in 0..ROUNDS {
        let generation = Arc::clone(&current.read().unwrap());
        let version = usize::try_from(generation.number).unwrap() - 1;
        let mut by = vec![Vec::new(); VMS];
        for (policy, _) in generation.backups() {
            for (n, answer) in policy.select.select(&vms).await.unwrap().into_iter().enumerate() {
                if answer.selected {
                    by[n].push(policy.name.clone());
                }
            }
        }
        for (n, by) in by.into_iter().enumerate() {
            let policy = (n % POLICIES + POLICIES * (version + 1) - version) % POLICIES;
            assert_eq!(by, [format!("p{policy}")], "vm-{n} in version {version}");
        }
    }
    done.store(true, Ordering::Relaxed);
    reloading.join().unwrap();
}
