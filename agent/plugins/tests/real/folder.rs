//! A folder of policies, from one generation to the next.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use remora_core::policy::{Access, Action, Select, Subject, VmFacts};
use remora_core::{Error, ErrorKind, VmName};
use remora_plugins::set::{Generation, Kept, Snapshot};
use remora_plugins::{Host, HostOptions, builtins, cases};
use serde_json::{Value, json};

use super::components::{host, options, selector};
use super::lines::{Lines, another};

pub(crate) const NIGHTLY: &str = "\
kind: BackupPolicy
name: nightly
select:    {module: builtin:labels, settings: {names: ['db-*']}}
schedule:  {module: builtin:cron, settings: {cron: 15 2 * * *}}
retention: {module: builtin:gfs, settings: {daily: 7}}
";

pub(crate) const ACCESS: &str = "\
kind: AccessPolicy
name: files
maxStaleness: 1h
authorize:
- {module: builtin:owners, settings: {users: [root]}}
- {module: builtin:paths, settings: {denyPaths: [/srv/hr/**]}}
- {module: builtin:paths, settings: {denyPaths: [/**]}, mode: shadow}
";

pub(crate) fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

pub(crate) fn next(before: &Generation, host: &Host, folder: &Path, now: Timestamp) -> Generation {
    before.next(host, &Snapshot::read(folder).unwrap(), now)
}

pub(crate) fn request(user: &str, path: &str) -> Access {
    Access {
        subject: Subject { user: user.into(), groups: Vec::new(), grants: Vec::new() },
        action: Action::Read,
        vm: VmFacts::named(VmName::new("vm").unwrap()),
        point: "0123456789abcdef-1".into(),
        point_time: now(),
        path: path.as_bytes().to_vec(),
        now: now(),
        approvals: Vec::new(),
    }
}

pub(crate) fn code(generation: &Generation, user: &str, path: &str, now: Timestamp) -> (bool, String) {
    let outcome = generation.authorize(&[request(user, path)], now).remove(0);
    (outcome.allowed, outcome.code)
}

pub(crate) fn errors(generation: &Generation) -> Vec<String> {
    generation.broken().map(|(_, error)| error.chain()).collect()
}

#[test]
fn deny_overrides_shadow_is_not_enforced_and_silence_denies() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let none = next(&Generation::default(), &host, folder.path(), now());
    assert_eq!(code(&none, "root", "/root/etc/passwd", now()), (false, "nothing-allows".into()));
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    let generation = next(&none, &host, folder.path(), now());
    assert_eq!(errors(&generation), [""; 0]);
    assert_eq!(code(&generation, "root", "/root/etc/passwd", now()), (true, "owner".into()));
    assert_eq!(code(&generation, "root", "/root/srv/hr/pay", now()), (false, "path-denied".into()));
    assert_eq!(code(&generation, "eve", "/root/etc/passwd", now()), (false, "nothing-allows".into()));
    // What a rule would not know is denied by the host.
    for unclear in ["", "x", "/srv//hr/pay", "/srv/./hr/pay", "/srv/x/../hr/pay", "/srv/hr/", "/srv/hr\0", "//", "/.."]
    {
        assert_eq!(code(&generation, "root", unclear, now()), (false, "unclear-path".into()), "{unclear:?}");
    }
    for clear in ["/", "/...", "/.x", "/a\\..\\b"] {
        assert_eq!(code(&generation, "root", clear, now()), (true, "owner".into()), "{clear:?}");
    }
    // What was said is on record, the shadow's word too.
    let outcome = generation.authorize(&[request("root", "/root/etc/passwd")], now()).remove(0);
    let modes: Vec<_> = outcome.said.iter().map(|said| (said.module.as_str(), said.code.as_str())).collect();
    assert_eq!(modes, [("builtin:owners", "owner"), ("builtin:paths", "no-rule"), ("builtin:paths", "path-denied")]);
    assert_eq!(outcome.generation, 2);
}

/// Whoever has to say later why somebody read a file, or did not, has this line.
#[test]
fn a_decision_is_logged_with_what_each_policy_said_by_which_module_and_settings() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    let generation = next(&Generation::default(), &host(), folder.path(), now());
    let lines = Lines::default();
    let _another = another();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
    let outcomes = tracing::subscriber::with_default(subscriber, || {
        let requests = ["/root/etc/passwd", "/root/srv/hr/pay"].map(|path| request("root", path));
        generation.authorize(&requests, now())
    });
    let text = lines.text();
    let logged: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(logged.len(), 2, "{text}");
    let (policy, _) = generation.accesses().next().unwrap();
    let wanted = [
        (outcomes[0].clone(), true, "owner", "/root/etc/passwd", ["allow", "abstain", "deny"]),
        (outcomes[1].clone(), false, "path-denied", "/root/srv/hr/pay", ["allow", "deny", "deny"]),
    ];
    for (line, (outcome, allowed, code, path, effects)) in logged.iter().zip(wanted) {
        let (fields, target) = (&line["fields"], &line["target"]);
        assert_eq!((target, &fields["message"]), (&json!("remora::decision"), &json!("decision")));
        let told = ["allowed", "code", "generation", "user", "action", "vm", "point", "path"].map(|name| &fields[name]);
        let request = [json!("root"), json!("read"), json!("vm"), json!("0123456789abcdef-1"), json!(path)];
        let wanted: Vec<_> = [json!(allowed), json!(code), json!(1)].into_iter().chain(request).collect();
        assert_eq!(told.map(Clone::clone).to_vec(), wanted, "{line}");
        let said: Vec<Value> = serde_json::from_str(fields["said"].as_str().unwrap()).unwrap();
        assert_eq!(said.len(), 3, "{line}");
        for (n, said) in said.iter().enumerate() {
            let binding = &policy.bindings[n];
            let digests = [binding.policy.digest(), binding.policy.settings_hash()].map(|digest| digest.to_string());
            assert_eq!([&said["digest"], &said["settings"]], digests.each_ref().map(String::as_str), "{said}");
            assert_eq!((&said["policy"], &said["module"]), (&json!("files"), &json!(binding.module)), "{said}");
            assert_eq!(said["interface"], "remora:policy/authorize@0.2.0", "{said}");
            assert_eq!((&said["effect"], &said["code"]), (&json!(effects[n]), &json!(outcome.said[n].code)), "{said}");
            assert_eq!(said["mode"], if n == 2 { "shadow" } else { "enforce" }, "{said}");
            let reason = said["reason"].as_str().unwrap();
            assert!(!reason.is_empty() && reason == outcome.said[n].reason, "{said}");
        }
    }
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_version_and_hinders_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let nightly = folder.path().join("nightly.yaml");
    fs::write(&nightly, NIGHTLY).unwrap();
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    let good = next(&Generation::default(), &host, folder.path(), now());
    let minute = SignedDuration::from_mins(1);

    // Both settings that are wrong are told, each on its line; the neighbour changes all the same.
    let broken = NIGHTLY.replace("names: ['db-*']", "names: ['db-{'], matchExpressions: [{key: a, operator: In}]");
    fs::write(&nightly, &broken).unwrap();
    fs::write(folder.path().join("access.yaml"), ACCESS.replace("[root]", "[admin]")).unwrap();
    let stale = next(&good, &host, folder.path(), now() + minute);
    let told = errors(&stale);
    assert!(told[0].contains("nightly.yaml, line 3: select.settings.names.0"), "{told:?}");
    assert!(told[0].contains("select.settings.matchExpressions.0.values"), "{told:?}");
    assert!(code(&stale, "admin", "/x", now()).0);
    let (policy, since) = stale.backups().next().unwrap();
    assert_eq!(since, Some(now() + minute));
    let vms = ["db-1", "web-1"].map(|name| VmFacts::named(VmName::new(name).unwrap()));
    let answers = policy.select.select(&vms).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.selected).collect::<Vec<_>>(), [true, false]);

    // As broken later: no younger. Repaired: in force again. Gone: gone.
    let still = next(&stale, &host, folder.path(), now() + minute * 2);
    assert_eq!(still.backups().next().unwrap().1, Some(now() + minute));
    fs::write(&nightly, NIGHTLY.replace("db-*", "web-*")).unwrap();
    let repaired = next(&still, &host, folder.path(), now() + minute * 3);
    assert_eq!((errors(&repaired).len(), repaired.backups().next().unwrap().1), (0, None));
    assert!(!repaired.backups().next().unwrap().0.select.select(&vms).await.unwrap()[0].selected);
    fs::remove_file(&nightly).unwrap();
    assert_eq!(next(&repaired, &host, folder.path(), now()).backups().count(), 0);
}

#[test]
fn a_stale_access_policy_denies_after_its_time_and_one_that_was_never_good_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let file = folder.path().join("access.yaml");
    fs::write(&file, ACCESS).unwrap();
    let good = next(&Generation::default(), &host, folder.path(), now());
    fs::write(&file, ACCESS.replace("maxStaleness", "maxstaleness")).unwrap();
    let stale = next(&good, &host, folder.path(), now());
    let hour = SignedDuration::from_hours(1);
    assert!(code(&stale, "root", "/x", now() + hour).0);
    assert_eq!(code(&stale, "root", "/x", now() + hour + hour), (false, "stale-policy".into()));
    // It was broken when the clock was ahead.
    assert_eq!(code(&stale, "root", "/x", now() - hour - hour), (false, "stale-policy".into()));
    // A second policy that never was good: it may have been meant to deny.
    fs::write(&file, ACCESS).unwrap();
    fs::write(folder.path().join("more.yaml"), ACCESS.replace("name: files", "name: more").replace("paths", "path"))
        .unwrap();
    let half = next(&good, &host, folder.path(), now());
    assert_eq!(code(&half, "root", "/x", now()), (false, "broken-policy".into()));
    // So may one of which nobody can say what it is.
    for unclear in
        ["kind: AccesPolicy\nname: more\n", "", "kind:\n", "name: BackupPolicy\n", "kind: BackupPolicy\nkind: Acces\n"]
    {
        fs::write(folder.path().join("more.yaml"), unclear).unwrap();
        let denied = code(&next(&good, &host, folder.path(), now()), "root", "/x", now());
        assert_eq!(denied, (false, "broken-policy".into()), "{unclear:?}");
    }
    // A broken backup policy denies nobody anything, however broken.
    for backup in ["kind: BackupPolicy\nname: x\n", "name: [\nkind: BackupPolicy  # of the night\n"] {
        fs::write(folder.path().join("more.yaml"), backup).unwrap();
        assert!(code(&next(&good, &host, folder.path(), now()), "root", "/x", now()).0, "{backup:?}");
    }
}

#[test]
fn what_is_in_force_grows_stale_while_the_folder_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let hour = SignedDuration::from_hours(1);
    let good = next(&Generation::default(), &host, folder.path(), now() - hour);
    let lost = good.unreadable(Error::new(ErrorKind::Failed, "the disk is gone"), now());
    assert_eq!(lost.number, good.number + 1);
    assert_eq!(lost.backups().next().unwrap().1, Some(now()));
    assert!(code(&lost, "root", "/x", now() + hour).0);
    assert_eq!(code(&lost, "root", "/x", now() + hour + hour), (false, "stale-policy".into()));
    let found = next(&lost, &host, folder.path(), now() + hour);
    assert_eq!((errors(&found).len(), found.backups().next().unwrap().1), (0, None));
    assert!(code(&found, "root", "/x", now() + hour + hour).0);
}

#[test]
fn two_files_with_one_policy_are_told_and_the_first_counts() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["a.yaml", "b.yaml"] {
        fs::write(folder.path().join(file), NIGHTLY).unwrap();
    }
    let generation = next(&Generation::default(), &host(), folder.path(), now());
    assert_eq!(generation.backups().count(), 1);
    assert!(errors(&generation)[0].contains("defined in a.yaml too"), "{:?}", errors(&generation));
}

/// The policy moves to another file, and the old one stays behind, empty: everything is known by its name, so there is one.
#[tokio::test]
async fn a_policy_that_moved_to_another_file_is_in_force_once() {
    let (folder, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kept = Kept::new(kept.path().join("kept"));
    let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    let host = host();
    let next =
        |before: &Generation| before.next_kept(&host, &Snapshot::read(folder.path()).unwrap(), &kept, Timestamp::now());
    let one = |generation: &Generation| {
        let all: Vec<_> = generation.backups().map(|(policy, since)| (Arc::clone(policy), since.is_some())).collect();
        let [one] = <[_; 1]>::try_from(all).expect("one policy");
        one
    };
    let selects_web = async |generation: &Generation| {
        let vm = VmFacts::named(VmName::new("web-1").unwrap());
        one(generation).0.select.select(&[vm]).await.unwrap()[0].selected
    };
    fs::write(&a, NIGHTLY).unwrap();
    let before = next(&Generation::default());
    assert!(!one(&before).1);
    fs::write(&a, "").unwrap();
    let stale = next(&before);
    assert!(one(&stale).1, "as long as nothing else has its name it stays");
    fs::write(&b, NIGHTLY.replace("db-*", "web-*")).unwrap();
    let moved = next(&stale);
    assert!(!one(&moved).1 && selects_web(&moved).await);
    let told = errors(&moved).remove(0);
    assert!(told.starts_with("a.yaml: it stood for the policy nightly, which b.yaml is now: a.yaml"), "{told}");
    // Nothing is known of what the file that stays behind keeps: `Keepers` drop nothing then.
    assert!(moved.files[0].active.is_none() && moved.files[0].active_text.is_none());
    // Nor has an agent that starts while both are broken two of them.
    fs::write(&b, "").unwrap();
    let restarted = next(&Generation::default());
    assert!(one(&restarted).1 && selects_web(&restarted).await);
    // One whose name another good file takes is not in force beside that one either.
    fs::write(&b, NIGHTLY.replace("db-*", "web-*")).unwrap();
    let good = next(&restarted);
    fs::write(&a, NIGHTLY).unwrap();
    let first = next(&good);
    assert!(!one(&first).1 && !selects_web(&first).await);
    assert!(errors(&first)[0].contains("defined in a.yaml too"), "{:?}", errors(&first));
}

/// A mounted `ConfigMap`: files are links into a folder behind the link `..data`, which is swapped.
#[test]
fn the_swap_of_a_config_map_is_one_step() {
    let mount = tempfile::tempdir().unwrap();
    let version = |name: &str, text: &str| {
        let folder = mount.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("nightly.yaml"), text).unwrap();
        symlink(name, mount.path().join("..data_tmp")).unwrap();
        fs::rename(mount.path().join("..data_tmp"), mount.path().join("..data")).unwrap();
    };
    version("..2026_01_01", NIGHTLY);
    symlink("..data/nightly.yaml", mount.path().join("nightly.yaml")).unwrap();
    let before = Snapshot::read(mount.path()).unwrap();
    version("..2026_01_02", &NIGHTLY.replace("db-*", "web-*"));
    let after = Snapshot::read(mount.path()).unwrap();
    assert_eq!(before.folder, mount.path().join("..2026_01_01"));
    assert_eq!(after.folder, mount.path().join("..2026_01_02"));
    assert_ne!(before.digest, after.digest);
    assert_eq!(after.documents.len(), 1);
    assert!(after.documents["nightly.yaml"].contains("web-*"));
    fs::remove_dir_all(mount.path().join("..2026_01_02")).unwrap();
    assert_eq!(Snapshot::read(mount.path()).unwrap_err().kind(), ErrorKind::NotFound);
}

/// A pipe would be waited for, and a folder or a link to nothing would take its neighbours with it.
#[test]
fn what_is_no_readable_file_is_told_and_its_neighbours_are_good() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let sound = Snapshot::read(folder.path()).unwrap();
    fs::create_dir(folder.path().join("a.yaml")).unwrap();
    symlink("b.yaml", folder.path().join("b.yaml")).unwrap();
    symlink("nowhere", folder.path().join("c.yaml")).unwrap();
    symlink("/dev/zero", folder.path().join("d.yaml")).unwrap();
    fs::write(folder.path().join("e.yaml"), b"kind: \xff").unwrap();
    symlink("/dev/zero", folder.path().join("f.wasm")).unwrap();
    let snapshot = Snapshot::read(folder.path()).unwrap();
    assert_ne!(snapshot.digest, sound.digest);
    let generation = Generation::default().next(&host(), &snapshot, now());
    let told = errors(&generation);
    assert_eq!(told.len(), 5, "{told:?}");
    for (told, file) in told.iter().zip(["a", "b", "c", "d", "e"]) {
        assert!(told.starts_with(&format!("{file}.yaml: it cannot be read: ")), "{told}");
    }
    assert_eq!(generation.backups().count(), 1);
}

#[test]
fn a_module_in_a_file_is_taken_and_its_change_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (_, labels) = builtins().find(|(name, _)| *name == "labels").unwrap();
    let module = folder.path().join("mine.wasm");
    fs::write(&module, labels).unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY.replace("builtin:labels", "file:mine.wasm")).unwrap();
    let host = host();
    let first = Snapshot::read(folder.path()).unwrap();
    let good = Generation::default().next(&host, &first, now());
    assert_eq!(errors(&good), [""; 0]);
    fs::write(&module, selector("(i32.const 0)", "(i32.const 0)", "")).unwrap();
    let second = Snapshot::read(folder.path()).unwrap();
    assert_ne!(first.digest, second.digest);
    let stale = good.next(&host, &second, now());
    let told = errors(&stale).remove(0);
    assert!(told.contains("nightly.yaml, line 3: select: file:mine.wasm: asked a first question"), "{told}");
    fs::remove_file(&module).unwrap();
    let told = errors(&next(&stale, &host, folder.path(), now())).remove(0);
    assert!(told.contains("reading the module mine.wasm"), "{told}");
}

/// Whoever asks during a reload gets one generation's answer, and no request is dropped.
#[test]
fn reloads_under_load_mix_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    let access = |user: &str| {
        let text = ACCESS.replace("[root]", &format!("[{user}]"));
        fs::write(folder.path().join("a.yaml"), text).unwrap();
        let deny = format!(
            "kind: AccessPolicy\nname: b\nauthorize: [{{module: builtin:paths, settings: {{denyPaths: ['/of/{}/**']}}}}]\n",
            if user == "even" { "odd" } else { "even" }
        );
        fs::write(folder.path().join("b.yaml"), deny).unwrap();
    };
    access("even");
    let current = Arc::new(std::sync::RwLock::new(Arc::new(next(&Generation::default(), &host, folder.path(), now()))));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asking = std::thread::spawn({
        let (current, done) = (Arc::clone(&current), Arc::clone(&done));
        move || {
            let mut asked = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || asked < 100 {
                let generation = Arc::clone(&current.read().unwrap());
                // Each generation allows its own user everything but the other's folder: a mixture would allow or deny both.
                let requests = ["even", "odd"].map(|user| request(user, &format!("/of/{user}/x")));
                let allowed: Vec<_> = generation.authorize(&requests, now()).iter().map(|o| o.allowed).collect();
                let even = generation.number % 2 == 1;
                assert_eq!(allowed, [even, !even], "generation {}", generation.number);
                asked += 1;
            }
            asked
        }
    });
    for n in 2..40 {
        access(if n % 2 == 1 { "even" } else { "odd" });
        let before = Arc::clone(&current.read().unwrap());
        let generation = next(&before, &host, folder.path(), now());
        assert_eq!(errors(&generation), [""; 0]);
        *current.write().unwrap() = Arc::new(generation);
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(asking.join().unwrap() >= 100);
}

#[test]
fn compiled_code_is_kept_in_a_private_folder_only_and_damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let compiled = state.path().join("compiled");
    let options = HostOptions { state: Some(state.path().into()), ..options() };
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let load = || next(&Generation::default(), &Host::new(&options).unwrap(), folder.path(), now());
    assert_eq!(errors(&load()), [""; 0]);
    let kept: Vec<_> = fs::read_dir(&compiled).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 3);
    assert_eq!(fs::metadata(&compiled).unwrap().permissions().mode() & 0o777, 0o700);
    // What lies there is used: with the code of another component in its place, its exports are missing. So each file is
    // known by its digest, and only what has it is run.
    for path in &kept {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(errors(&load()), [""; 0]);
    fs::write(&kept[0], b"").unwrap();
    assert_eq!(errors(&load()), [""; 0]);
    fs::set_permissions(&compiled, fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(Host::new(&options).unwrap_err().kind(), ErrorKind::Refused);
}

/// What is kept of components costs room, and nobody but its own compiler can use it.
#[test]
fn compiled_code_goes_with_its_compiler_and_once_nobody_has_used_it_for_a_month() {
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let compiled = state.path().join("compiled");
    let options = HostOptions { state: Some(state.path().into()), ..options() };
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&compiled).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let host = Host::new(&options).unwrap();
    let generation = next(&Generation::default(), &host, folder.path(), now());
    let ours = names();
    assert_eq!(ours.len(), 3);
    // Of another version, and a mover's, of which its own process says whether it can use it.
    let other = format!("{}-{:016x}.cwasm", "0".repeat(64), 7);
    let mover = format!("{}.mover", "0".repeat(64));
    for name in [&other, &mover] {
        fs::write(compiled.join(name), b"x").unwrap();
    }
    drop(Host::new(&options).unwrap());
    let with_mover: Vec<_> = [std::slice::from_ref(&mover), &ours].concat();
    assert_eq!(names(), with_mover);

    // What is in force is in use, however long ago it was loaded.
    let age = |days: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::from_hours(24 * days);
        for name in names() {
            fs::File::open(compiled.join(name)).unwrap().set_modified(time).unwrap();
        }
    };
    age(29);
    host.tidy();
    assert_eq!(names(), with_mover);
    age(31);
    host.tidy();
    assert_eq!(names(), ours);
    drop(generation);
    age(31);
    host.tidy();
    assert_eq!(names(), [""; 0]);
}

#[tokio::test]
async fn golden_cases_say_what_was_answered_instead() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    let text = "\
kind: PolicyTest
policies: [nightly.yaml, access.yaml]
cases:
- {name: database, select: {policy: nightly, vm: {name: db-1}, expect: {selected: true}}}
- {name: web, select: {policy: nightly, vm: {name: web-1}, expect: {selected: true}}}
- name: tonight
  schedule: {policy: nightly, vm: {name: db-1}, after: 2026-01-10T12:00:00Z, expect: {start: 2026-01-11T02:15:00Z}}
- name: two days
  retention:
    policy: nightly
    vm: {name: db-1}
    now: 2026-01-03T00:00:00Z
    points: [2026-01-01T01:00:00Z, 2026-01-01T02:00:00Z, 2026-01-02T02:00:00Z]
    expect: {keep: [2026-01-01T02:00:00Z, 2026-01-02T02:00:00Z]}
- name: pay
  authorize:
    {subject: {user: root}, action: read, vm: {name: db-1}, path: /srv/hr/pay, now: 2026-01-03T00:00:00Z,
     expect: {allowed: false, code: path-denied}}
";
    let file = folder.path().join("cases.yaml");
    fs::write(&file, text).unwrap();
    let results = cases::run(&host(), &file).await.unwrap();
    let failed: Vec<_> = results.iter().filter_map(|result| result.failed.as_deref()).collect();
    assert_eq!(results.len(), 5);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].starts_with("expected selected: true, got selected: false"), "{failed:?}");
    fs::write(&file, text.replace("policy: nightly, vm: {name: web-1}", "policy: nightli, vm: {name: web-1}")).unwrap();
    let error = cases::run(&host(), &file).await.unwrap_err();
    assert!(error.to_string().contains("case \"web\""), "{error}");
    fs::write(&file, "kind: PolicyTest\npolicies: [nightly.yaml]\ncases: []\n").unwrap();
    let error = cases::run(&host(), &file).await.unwrap_err();
    assert!(error.to_string().contains("it has no case") && error.advice().is_some(), "{error}");
}

/// None of them is passed over, which may be the one that denies.
#[tokio::test]
async fn golden_cases_are_asked_of_all_documents_whatever_their_folders() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        let text =
            ACCESS.replace("/srv/hr/**", &format!("/srv/{name}/**")).replace("name: files", &format!("name: {name}"));
        fs::write(folder.path().join(name).join("access.yaml"), text).unwrap();
    }
    let case = |name: &str| {
        format!(
            "- name: {name}\n  authorize: {{subject: {{user: root}}, action: read, vm: {{name: db}}, path: /srv/{name}/x, \
             now: 2026-01-03T00:00:00Z, expect: {{allowed: false, code: path-denied}}}}\n"
        )
    };
    let file = folder.path().join("cases.yaml");
    let head = "kind: PolicyTest\npolicies: [one/access.yaml, two/access.yaml]\ncases:\n";
    fs::write(&file, format!("{head}{}{}", case("one"), case("two"))).unwrap();
    let results = cases::run(&host(), &file).await.unwrap();
    assert!(results.len() == 2 && results.iter().all(|result| result.failed.is_none()), "{results:?}");
}

/// As in production: each document's own lies beside it, also if another one of that name lies beside the cases.
#[tokio::test]
async fn golden_cases_take_modules_from_beside_the_document_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let component = |wanted: &str| builtins().find(|(name, _)| *name == wanted).unwrap().1;
    let policies = folder.path().join("policies");
    fs::create_dir(&policies).unwrap();
    fs::write(policies.join("nightly.yaml"), NIGHTLY.replace("builtin:labels", "file:mine.wasm")).unwrap();
    fs::write(folder.path().join("mine.wasm"), component("cron")).unwrap();
    let file = folder.path().join("cases.yaml");
    let text = "\
kind: PolicyTest
policies: [policies/nightly.yaml]
cases:
- {name: database, select: {policy: nightly, vm: {name: db-1}, expect: {selected: true}}}
";
    fs::write(&file, text).unwrap();
    let error = cases::run(&host(), &file).await.unwrap_err();
    let looked_at = policies.join("mine.wasm").display().to_string();
    assert!(error.to_string().contains("reading the module mine.wasm"), "{error}");
    assert!(error.advice().unwrap().contains(&looked_at), "{:?}", error.advice());
    fs::write(policies.join("mine.wasm"), component("labels")).unwrap();
    let results = cases::run(&host(), &file).await.unwrap();
    assert!(results.len() == 1 && results[0].failed.is_none(), "{results:?}");
}

/// The agent is restarted while a document is broken: what was good before, with its module, is in force.
#[tokio::test]
async fn last_good_versions_outlive_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let kept = tempfile::tempdir().unwrap();
    let kept = Kept::new(kept.path().join("kept"));
    let (_, labels) = builtins().find(|(name, _)| *name == "labels").unwrap();
    fs::write(folder.path().join("mine.wasm"), labels).unwrap();
    let nightly = folder.path().join("nightly.yaml");
    fs::write(&nightly, NIGHTLY.replace("builtin:labels", "file:mine.wasm")).unwrap();
    let host = host();
    let restarted = |host: &Host, now| {
        let none = Generation::default();
        none.next_kept(host, &Snapshot::read(folder.path()).unwrap(), &kept, now)
    };
    assert_eq!(errors(&restarted(&host, now())), [""; 0]);
    fs::write(&nightly, "kind: BackupPolicy\n").unwrap();
    fs::remove_file(folder.path().join("mine.wasm")).unwrap();
    let generation = restarted(&host, Timestamp::now());
    assert_eq!(errors(&generation).len(), 1);
    let (policy, since) = generation.backups().next().unwrap();
    assert!(since.is_some());
    let vm = VmFacts::named(VmName::new("db-1").unwrap());
    assert!(policy.select.select(&[vm]).await.unwrap()[0].selected);
    // What is removed is not kept.
    fs::remove_file(&nightly).unwrap();
    restarted(&host, Timestamp::now());
    fs::write(&nightly, "kind: BackupPolicy\n").unwrap();
    assert_eq!(restarted(&host, Timestamp::now()).backups().count(), 0);
}
