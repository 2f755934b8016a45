//! The conformance kit, of movers: right ones pass it, and each wrong one is found by the check that is for it.

use std::collections::BTreeMap;
use std::fs;

use remora_plugins::conformance::{Depth, MoverTrial, Report, mover};
use remora_tests::s3::{KEY, SECRET};
use remora_tests::webdav::{PASSWORD, USER};
use remora_tests::{S3, Transport, WebDav};
use zeroize::Zeroizing;

use super::{example, host_program};
use crate::conformance::{assert_failed, assert_passed, failed};

pub(crate) fn trial(settings: &str, secrets: &[(&str, &str)]) -> MoverTrial {
    let secret = |(name, value): &(&str, &str)| ((*name).to_owned(), Zeroizing::new(value.as_bytes().to_vec()));
    MoverTrial {
        settings: settings.into(),
        secrets: secrets.iter().map(secret).collect::<BTreeMap<_, _>>(),
        upstream: None,
        program: Some(host_program()),
        seed: 7,
    }
}

async fn of(name: &str, trial: MoverTrial) -> Report {
    mover(fs::read(example(name)).unwrap(), trial, Depth::Test).await.unwrap_or_else(|e| panic!("{}", e.chain()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_example_holds_all_that_is_tried_before_the_kits_own_server() {
    let trial = trial(r#"{"endpoint": "{endpoint}"}"#, &[("token", "canary-5fd1b2")]);
    let report = of("plain", trial).await;
    assert_eq!(failed(&report), []);
    assert_eq!((report.skipped, report.passed), (0, 28), "{report:#?}");
    let memory = report.figures.iter().find(|figure| figure.name.contains("memory")).unwrap();
    // 64 MiB went through it, and its process never had them.
    assert!(memory.value > 1.0 && memory.value < 64.0, "{memory:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_s3_example_holds_all_that_is_tried_before_a_real_server() {
    let s3 = S3::start_with(Transport::Http);
    s3.bucket("backups");
    let settings = format!(r#"{{"endpoint": "{{endpoint}}", "bucket": "backups", "accessKey": "{KEY}"}}"#);
    let trial = MoverTrial { upstream: Some(s3.endpoint()), ..trial(&settings, &[("secret-key", SECRET)]) };
    let report = of("s3", trial).await;
    assert_eq!(failed(&report), []);
    assert_eq!((report.skipped, report.passed), (0, 28), "{report:#?}");
    // Nothing of the trials stays.
    let left: Vec<_> = walk(&s3.files("backups"));
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webdav_example_holds_all_that_is_tried_before_a_real_server() {
    let server = WebDav::start(Transport::Http);
    let settings = format!(r#"{{"url": "{{endpoint}}/backups", "user": "{USER}"}}"#);
    let trial = MoverTrial { upstream: Some(server.endpoint()), ..trial(&settings, &[("password", PASSWORD)]) };
    let report = of("webdav", trial).await;
    assert_eq!(failed(&report), []);
    // The one that is left out is that of uploads in parts, which it has not.
    assert_eq!((report.skipped, report.passed), (1, 27), "{report:#?}");
    // Of the objects nothing stays. Uploads do of which the mover never heard that they are there: one for each answer
    // that was lost, or cut off.
    let left = walk(&server.files());
    assert!(left.iter().all(|path| path.components().any(|part| part.as_os_str() == "~new")), "{left:?}");
}

/// The files below a folder.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: std::path::PathBuf| if path.is_dir() { walk(&path) } else { vec![path] };
    entries
        .filter(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')))
        .flat_map(below)
        .collect()
}

/// How it misbehaves, which check is to find it, and what that says.
const HOSTILE: &[(&str, &str, &str)] = &[
    ("trap in validate", "opens", "`validate` failed: it trapped"),
    ("trap in open", "opens", "`open` failed: it trapped"),
    ("trap in put", "is stored", "it trapped"),
    ("trap in replace", "is stored", "`replace` failed: it trapped"),
    ("trap in delete", "is stored", "`delete` failed: it trapped"),
    ("trap in list", "more objects", "`list` failed: it trapped"),
    ("trap in multipart", "upload in parts", "it trapped"),
    ("trap in part", "upload in parts", "it trapped"),
    ("memory in put", "is stored", "growing memory"),
    ("say created and store nothing", "is stored", "`head` of life/0"),
    ("tell another size", "is stored", "`head`: life/0.x_y-z has 0 bytes, and it tells of 1"),
    ("tell of another object", "is stored", "tells of \"other\""),
    ("give other bytes", "is stored", "are not those that were stored"),
    ("give nothing", "is stored", "bytes of life/0.x_y-z were asked for, 0 came"),
    ("give too much", "is stored", "the sink takes no more"),
    ("leave out", "more objects", "1004 objects are there, it has 0"),
    ("list for ever", "more objects", "`list` never ends"),
    ("forget what to delete", "is stored", "asked to delete 2, it answers for 0"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_mover_that_misbehaves_is_found_by_the_check_that_is_for_it() {
    for (how, check, said) in HOSTILE {
        let report =
            of("hostile", trial(&format!(r#"{{"misbehave": "{how}"}}"#), &[("canary", "canary-7f3a9c")])).await;
        assert_failed(&report, check, said);
    }
}

/// One that behaves otherwise, but keeps objects in its own memory, and asks no server: it passes what it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_keeps_objects_in_its_own_memory_is_found() {
    let report = of("hostile", trial("{}", &[("canary", "canary-7f3a9c")])).await;
    assert_passed(&report, "refuses a setting that it does not have");
    assert_failed(&report, "is not touched", "says that it created it");
    assert_failed(&report, "another process finds", "NotFound");
    assert_failed(&report, "401 is auth", "`Put` makes no request");
    assert_failed(&report, "says nothing costs the call", "succeeds");
}

/// What a server sends back must not be told on: here it has a secret in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_says_what_its_server_says_is_found_to_tell_secrets() {
    let report = of("hostile", trial(r#"{"url": "{endpoint}/"}"#, &[("canary", "canary-7f3a9c")])).await;
    // It says all of it as `permanent`, too.
    assert_failed(&report, "401 is auth", "`Head`: [Auth] is wanted, not Permanent (fetched)");
    assert_failed(&report, "429 is throttled", "`Head`");
    assert_failed(&report, "no secret is in its lines or errors", "[secret]");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_mover_is_told_and_tried_no_further() {
    let (_, labels) = remora_plugins::builtins().find(|(name, _)| *name == "labels").unwrap();
    let report = mover(labels.to_vec(), trial("{}", &[]), Depth::Test).await.unwrap();
    assert_failed(&report, "is a component of the world", "does not export remora:mover/objects@0.1.0");
    assert_eq!(report.checks.len(), 1, "{report:#?}");
    let settings = r#"{"endpoint": "nowhere"}"#;
    let report = of("plain", trial(settings, &[("token", "t")])).await;
    assert_failed(&report, "takes its settings", "/endpoint: write it as");
}
