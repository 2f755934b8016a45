//! Immutable repositories, in a bucket with Object Lock.

use remora_tests::process::{Must, Ran};
use remora_tests::remora::KEY_FILE;

use super::*;
use crate::documented::the_documented;
use crate::format::by_second_reader;

fn text(ran: &Ran) -> String {
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

impl Protected {
    /// A VM with a repository that nobody can delete anything of for a month.
    fn immutable(name: &str) -> Self {
        let domain = Lab::shared().domain(name).disk(DiskSpec::qcow2("vda", 128 * MIB)).paused();
        let s3 = S3::start();
        let url = s3.url(&s3.locking_bucket("backups"));
        let remora = s3.owner(Remora::new(Lab::shared(), url));
        let made = remora.json(["repo", "init", "--immutable", "30d"]);
        assert_eq!(made["immutable_days"], 30);
        Self { domain, s3, remora, plugin: None }
    }
}

#[test]
fn a_thief_with_all_permissions_can_delete_nothing_for_good() {
    let vm = Protected::immutable("locked thief");
    vm.domain.write_bytes("vda", 0, &random_bytes("locked", 20 << 20));
    let full = vm.back_up(&[]);
    vm.domain.write_bytes("vda", 10 * MIB, &random_bytes("more", 1 << 20));
    let increment = vm.back_up(&[]);
    assert_eq!(increment.report["decision"], "incremental");
    the_documented("remora backup VM").assert_of(&increment.report);
    let immutable = &increment.report["immutable"];
    assert!(immutable["until"].is_string() && immutable["extended"].is_u64(), "{:#}", increment.report);
    let status = vm.remora.json(["repo", "status"]);
    assert_eq!((&status["immutable_days"], status["locked_until"].is_string()), (&30.into(), true), "{status:#}");
    // One who has stolen a user's credentials that may do anything with the bucket, and the owner's.
    vm.s3.user("thief", "backups", &["s3:*"]);
    let lasting =
        |key: &str| ["/s/", "/m/", "/key", "/keys/", "remora.json", "settings/"].iter().any(|p| key.contains(p));
    let versions: Vec<_> = vm.s3.versions("backups").into_iter().filter(|(key, _)| lasting(key)).collect();
    assert!(versions.len() >= 10, "{versions:?}");
    for (key, id) in &versions {
        for who in ["thief", KEY] {
            let path = format!("/backups/{key}?versionId={id}");
            let header = ["x-amz-bypass-governance-retention: true"];
            let ran = vm.s3.try_request(who, "DELETE", &path, &header, "");
            assert!(text(&ran).contains("object lock"), "{key}: {ran:?}");
        }
        vm.s3.try_request("thief", "DELETE", &format!("/backups/{key}"), &[], "").ok();
    }
    vm.remora.fails(["points"], 3, "is no repository");
    let told = vm.remora.json(["repo", "undelete", "--dry-run"]);
    the_documented("remora repo undelete").assert_of(&told);
    assert_eq!(told["deleted"].as_array().unwrap().len(), versions.len(), "{told:#}");
    assert_eq!(vm.remora.json(["repo", "undelete"]), told);
    vm.remora.ok(["verify"]);
    // The second reader finds the current versions in the server's files.
    let read = by_second_reader(&vm.s3.files("backups").join("a/repository"), &KEY_FILE);
    assert_eq!(read.len(), 2, "{read:?}");
    for kept in [&full, &increment] {
        vm.assert_restores(kept);
        let truth = blake3::hash(&fs::read(&kept.truth).unwrap()).to_hex().to_string();
        assert_eq!(read[&format!("{}/vda", kept.point())], truth);
    }
}

#[test]
fn verify_tells_what_was_deleted_and_what_to_do() {
    let vm = Protected::immutable("locked verify");
    vm.domain.write_bytes("vda", 0, &random_bytes("hidden", 5 << 20));
    let full = vm.back_up(&[]);
    let versions = vm.s3.versions("backups");
    let hide = |part: &str| {
        let (key, _) = versions.iter().find(|(key, _)| key.contains(part)).unwrap();
        vm.s3.request("DELETE", &format!("/backups/{key}"), &[], "");
        key.strip_prefix("a/repository/").unwrap().to_owned()
    };
    let segment = hide("/s/");
    let ran = vm.remora.fails(["verify", full.point()], 7, "");
    assert!(text(&ran).contains(&segment) && text(&ran).contains("the bucket still has it"), "{ran:?}");
    let point = hide("/m/");
    let ran = vm.remora.fails(["verify"], 7, &point);
    assert!(ran.stderr.contains("remora repo undelete"), "{ran:?}");
    vm.remora.ok(["repo", "undelete"]);
    vm.remora.ok(["verify"]);
    vm.assert_restores(&full);
}

#[test]
fn prune_and_gc_leave_what_is_locked_and_say_until_when() {
    let vm = Protected::immutable("locked prune");
    vm.domain.write_bytes("vda", 0, &random_bytes("pruned", 5 << 20));
    vm.back_up(&[]);
    let kept = vm.back_up(&["--full"]);
    // A backup that died a moment ago would be in the way of nothing; what it stored is locked all the same.
    let pruned = vm.remora.json(["prune", "--keep-last", "1"]);
    the_documented("remora gc [VM]").assert_of(&pruned["collected"]);
    let collected = &pruned["collected"][0];
    assert!(collected["immutable"]["until"].is_string() && collected["locked"]["segments"] == 0, "{pruned:#}");
    assert!(collected["later"]["segments"].as_u64().unwrap() > 0, "{pruned:#}");
    let told = vm.remora.ok(["gc"]);
    assert!(text(&told).contains("nothing that points need can be deleted before"), "{told:?}");
    vm.remora.ok(["hold", kept.point(), "--until", "2033-01-01T00:00:00Z"]);
    vm.assert_restores(&kept);
}

#[test]
fn a_store_without_object_lock_is_refused() {
    let lab = Lab::shared();
    let folder = Remora::new(lab, lab.scratch("repository").join("repo"));
    folder.fails(["repo", "init", "--immutable", "30d"], 6, "cannot be immutable");
    folder.ok(["repo", "init"]);
    let ran = folder.fails(["repo", "set", "--immutable", "30d"], 6, "cannot be immutable");
    assert!(ran.stderr.contains("Object Lock"), "{ran:?}");
    assert_eq!(folder.json(["repo", "status"])["immutable_days"], Value::Null);
    folder.fails(["repo", "undelete"], 6, "keeps no versions");
    let s3 = S3::start();
    let plain = s3.owner(Remora::new(lab, s3.url(&s3.bucket("plain"))));
    plain.fails(["repo", "init", "--immutable", "30d"], 6, "cannot be immutable");
    let mut left = Vec::new();
    walk(&s3.files("plain"), &mut |path| left.push(path.file_name().unwrap().to_owned()));
    assert_eq!(left, Vec::<std::ffi::OsString>::new(), "nothing of a repository that was not made");
    plain.ok(["repo", "init"]);
    plain.fails(["repo", "set", "--immutable", "30d"], 6, "cannot be immutable");
}

#[test]
fn what_is_set_later_locks_what_is_there() {
    let vm = Protected::new("locked later");
    let s3 = &vm.s3;
    let remora = vm.remora.clone().with("REMORA_REPO", s3.url(&s3.locking_bucket("locking")));
    remora.ok(["repo", "init"]);
    let vm = Protected { remora, ..vm };
    vm.domain.write_bytes("vda", 0, &random_bytes("later", 5 << 20));
    let kept = vm.back_up(&[]);
    let retention = |key: &str| vm.s3.try_request(KEY, "GET", &format!("/locking/{key}?retention="), &[], "");
    let (segment, _) = vm.s3.versions("locking").into_iter().find(|(key, _)| key.contains("/s/")).unwrap();
    assert!(!text(&retention(&segment)).contains("COMPLIANCE"));
    assert_eq!(vm.remora.json(["repo", "set", "--immutable", "60d"])["immutable_days"], 60);
    let collected = vm.remora.json(["gc"]);
    assert!(collected[0]["immutable"]["extended"].as_u64().unwrap() > 3, "{collected:#}");
    assert!(text(&retention(&segment)).contains("COMPLIANCE"));
    vm.remora.ok(["repo", "set", "--not-immutable"]);
    assert_eq!(vm.remora.json(["repo", "status"])["immutable_days"], Value::Null);
    vm.assert_restores(&kept);
}

#[test]
fn a_clock_some_minutes_off_locks_some_minutes_off() {
    let vm = Protected::immutable("locked clock");
    let mut found =
        fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path().join("faketime/libfaketime.so.1"));
    let library = found.find(|path| path.is_file()).must("find libfaketime (package faketime)");
    let mut all = Vec::new();
    for (n, off) in ["+600", "-600"].into_iter().enumerate() {
        vm.domain.write_bytes("vda", n as u64 * MIB, &random_bytes(off, 1 << 20));
        let wrong = vm.remora.clone().with("LD_PRELOAD", &library).with("FAKETIME", off);
        let wrong = wrong.with("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let truth = vm.domain.truth("vda");
        let report = wrong.json(["backup", vm.domain.name(), "--quiesce", "never"]);
        wrong.ok(["gc"]);
        all.push(Kept { report, truth });
    }
    for kept in &all {
        vm.assert_restores(kept);
    }
    assert!(vm.remora.json(["repo", "status"])["locked_until"].is_string());
}
