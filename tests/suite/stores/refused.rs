//! What cannot be reached or may not be used: each time what was tried, on what, why, and what to do.

use remora_tests::age;
use remora_tests::process::{Must, Ran};

use super::*;

/// A repository in a bucket, without a VM.
fn made() -> (S3, Remora) {
    let s3 = S3::start();
    let remora = s3.owner(Remora::new(Lab::shared(), s3.url(&s3.bucket("backups"))));
    remora.ok(["repo", "init"]);
    (s3, remora)
}

/// Fails with this exit code, and says all of this.
#[track_caller]
fn assert_says(remora: &Remora, args: &[&str], code: i32, says: &[&str]) -> Ran {
    let ran = remora.fails(args, code, "");
    for words in says {
        assert!(ran.stderr.contains(words), "{words:?} is not in {ran:?}");
    }
    assert!(ran.stderr.contains("  → "), "no advice in {ran:?}");
    assert!(!ran.stderr.contains(SECRET), "a secret is in {ran:?}");
    ran
}

#[test]
fn wrong_and_missing_credentials_are_told_apart() {
    let (s3, remora) = made();
    let place = s3.url("backups");
    let place = place.split('?').next().unwrap();
    let wrong = remora.clone().with("AWS_SECRET_ACCESS_KEY", "wrong");
    assert_says(&wrong, &["points"], 9, &["remora.json", place, "SignatureDoesNotMatch", "check them"]);
    let unknown = remora.clone().with("AWS_ACCESS_KEY_ID", "nobody");
    assert_says(&unknown, &["points"], 9, &[place, "InvalidAccessKeyId", "check them"]);
    let none = remora.clone().without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
    assert_says(&none, &["points"], 2, &[place, "AWS_ACCESS_KEY_ID", "--credentials"]);
    none.clone().with("REMORA_CREDENTIALS", s3.credentials()).ok(["points"]);
    none.with("AWS_SHARED_CREDENTIALS_FILE", s3.credentials()).ok(["points"]);
    let user = {
        s3.user("reader", "backups", &["s3:GetObject", "s3:ListBucket"]);
        s3.signed(remora.clone(), "reader")
    };
    user.ok(["points"]);
    let other = user.with("REMORA_REPO", s3.url("backups").replace("/a/", "/other/"));
    assert_says(&other, &["repo", "init"], 9, &["AccessDenied", "put"]);
}

#[test]
fn a_missing_bucket_and_a_missing_repository_are_two_things() {
    let (s3, remora) = made();
    let elsewhere = |bucket: &str| remora.clone().with("REMORA_REPO", s3.url(bucket));
    for args in [&["points"][..], &["repo", "init"], &["doctor", &s3.url("nowhere")]] {
        let code = if args[0] == "doctor" { 1 } else { 3 };
        let ran = elsewhere("nowhere").fails(args, code, "");
        assert!(format!("{ran:?}").contains("There is no such bucket"), "{ran:?}");
    }
    s3.bucket("empty");
    assert_says(&elsewhere("empty"), &["points"], 3, &["is no repository", "repo init"]);
}

#[test]
fn an_endpoint_that_is_down_is_named() {
    let (s3, remora) = made();
    let (address, endpoint) = (s3.address(), s3.endpoint());
    drop(s3);
    let ran = assert_says(&remora, &["points"], 9, &[&endpoint, "refused", "Check the endpoint"]);
    assert!(ran.stderr.contains(&address.port().to_string()));
}

#[test]
fn a_clock_an_hour_off_is_named() {
    let (_s3, remora) = made();
    let mut found =
        fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path().join("faketime/libfaketime.so.1"));
    let library = found.find(|path| path.is_file()).must("find libfaketime (package faketime)");
    for off in ["+3600", "-3600"] {
        let remora = remora.clone().with("LD_PRELOAD", &library).with("FAKETIME", off);
        let remora = remora.with("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        assert_says(&remora, &["points"], 9, &["RequestTimeTooSkewed", "clocks"]);
    }
}

#[test]
fn where_nothing_may_be_deleted_backups_work_and_doctor_says_what_is_lost() {
    let vm = Protected::new("on s3 kept");
    vm.s3.user("keeper", "backups", &["s3:GetObject", "s3:PutObject", "s3:ListBucket"]);
    let keeper = Protected { remora: vm.s3.signed(vm.remora.clone(), "keeper"), ..vm };
    keeper.domain.write_bytes("vda", 0, &random_bytes("kept", 5 << 20));
    let kept = keeper.back_up(&[]);
    keeper.assert_restores(&kept);
    let report = keeper.remora.json(["doctor"]);
    let delete = check(&report, "store: delete");
    assert_eq!((&delete["ok"], &delete["optional"]), (&false.into(), &true.into()), "{report:#}");
    assert!(delete["advice"].as_str().unwrap().contains("never given back"), "{delete:#}");
    assert_eq!(check(&report, "store: create-only PUT")["ok"], true);
}

#[test]
fn where_nothing_may_be_deleted_what_would_delete_says_so_and_no_point_is_lost() {
    let vm = Protected::new("on s3 undeleted");
    vm.s3.user("keeper", "backups", &["s3:GetObject", "s3:PutObject", "s3:ListBucket"]);
    let owner = vm.remora.clone();
    let keeper = Protected { remora: vm.s3.signed(owner.clone(), "keeper"), ..vm };
    let place = keeper.s3.url("backups");
    let place = place.split('?').next().unwrap();
    let in_vain = |args: &[&str]| {
        let says = ["removing object", place, "AccessDenied", "put and delete objects", "remora doctor"];
        assert_says(&keeper.remora, args, 9, &says);
    };
    // The first one's session cannot be removed, and is in nobody's way.
    keeper.domain.write_bytes("vda", 0, &random_bytes("undeleted", 5 << 20));
    let first = keeper.back_up(&[]);
    keeper.domain.write_bytes("vda", 0, &random_bytes("undeleted, changed", 5 << 20));
    let second = keeper.back_up(&[]);
    assert_eq!(second.report["decision"], "incremental", "{:#}", second.report);
    assert_eq!(keeper.objects("w").len(), 2, "the sessions of both");

    let other = Lab::shared().scratch("other key").join("key");
    fs::write(&other, [9; 32]).unwrap();
    let added = keeper.remora.json(["key", "add", "--new-key-file", other.to_str().unwrap()]);
    in_vain(&["gc"]);
    in_vain(&["key", "remove", added["added"].as_str().unwrap()]);
    let slots = keeper.remora.json(["key", "list"]);
    assert_eq!(slots.as_array().unwrap().len(), 2, "{slots:#}");
    assert_eq!(keeper.remora.json(["gc", "--dry-run"])[0]["sessions"], 0);
    for kept in [&first, &second] {
        keeper.assert_restores(kept);
    }
    // What was dropped is gone from the lists, and all of its bytes stay.
    let before = keeper.segments();
    in_vain(&["prune", "--keep-last", "1"]);
    let listed = keeper.remora.json(["points"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["point"]), (1, &second.report["point"]));
    age(&keeper.s3.files("backups"));
    in_vain(&["gc"]);
    assert_eq!(keeper.segments(), before);
    keeper.domain.write_bytes("vda", 0, &random_bytes("undeleted, once more", 5 << 20));
    let third = keeper.back_up(&[]);
    assert_eq!(third.report["decision"], "incremental", "{:#}", third.report);
    keeper.remora.ok(["verify"]);
    // Whoever may delete does it then.
    let collected = owner.json(["gc"])[0].clone();
    assert!(collected["removed"]["segments"].as_u64().unwrap() > 0, "{collected:#}");
    assert_eq!(keeper.objects("w").len(), 0);
    let removed = owner.json(["key", "remove", added["added"].as_str().unwrap()]);
    assert_eq!(removed["removed"], added["added"]);
    for kept in [&second, &third] {
        keeper.assert_restores(kept);
    }
    keeper.remora.ok(["verify"]);
}

#[test]
fn a_secret_in_the_url_is_refused_and_not_repeated() {
    let lab = Lab::shared();
    for url in [format!("s3://{KEY}:{SECRET}@backups/x"), format!("s3://backups/x?secret_access_key={SECRET}")] {
        assert_says(&Remora::new(lab, &url), &["points"], 2, &["never go into a URL"]);
    }
}
