//! The conformance kit, of movers: right ones pass it, and each wrong one is found by the check that is for it.

use std::collections::BTreeMap;
use std::fs;

use remora_core::ErrorKind;
use remora_plugins::conformance::{Depth, MoverTrial, Report, mover};
use remora_tests::appliance::TOKEN;
use remora_tests::s3::{KEY, SECRET};
use remora_tests::webdav::{PASSWORD, USER};
use remora_tests::{Appliance, S3, Transport, WebDav};
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
    assert_eq!((memory.budget, memory.over, report.over()), (Some(256.0), false, 0));
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

/// A trial of a mover of points before an array, by more of its settings than where that is.
fn before(array: &Appliance, more: &str) -> MoverTrial {
    let settings = format!(r#"{{"endpoint": "{{endpoint}}"{more}}}"#);
    MoverTrial { upstream: Some(format!("http://{}", array.address())), ..trial(&settings, &[("token", TOKEN)]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_appliance_example_holds_all_that_is_tried_before_an_array() {
    let array = Appliance::start();
    let report = of("appliance", before(&array, "")).await;
    assert_eq!(failed(&report), []);
    assert_eq!((report.skipped, report.passed), (0, 28), "{report:#?}");
    assert_eq!(report.exports, ["remora:mover/volume@0.1.0"]);
    let memory = report.figures.iter().find(|figure| figure.name.contains("memory")).unwrap();
    assert!(memory.value > 1.0 && memory.value < 64.0, "{memory:?}");
    assert_eq!((memory.budget, memory.over, report.over()), (Some(256.0), false, 0));
    // Nothing of the trials stays but notes that were begun when the server failed, and never committed: nobody lists them.
    let left = array.points();
    assert!(left.iter().all(|name| name.ends_with("-begun")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_makes_no_clones_holds_it_too_and_is_not_asked_for_any() {
    let array = Appliance::start();
    let report = of("appliance", before(&array, r#", "clones": false"#)).await;
    assert_eq!((failed(&report), report.passed), (Vec::new(), 28), "{report:#?}");
    assert_eq!(array.seen("unchanged"), 0);
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
    assert_failed(&report, "an answer that is cut off", "`Get` succeeds");
    assert_failed(&report, "an answer that is too short", "`Get` succeeds");
}

/// What a server sends back must not be told on: here it has a secret in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_says_what_its_server_says_is_found_to_tell_secrets() {
    let report = of("hostile", trial(r#"{"url": "{endpoint}/"}"#, &[("canary", "canary-7f3a9c")])).await;
    // It says all of it as `permanent`, too.
    for (check, wanted) in [
        ("401 is auth", "[Auth]"),
        ("403 is permission", "[Permission, Auth]"),
        ("404 is not-found", "[NotFound]"),
        ("409 is conflict", "[Conflict, Retryable]"),
        ("429 is throttled", "[Throttled]"),
        ("500 is retryable", "[Retryable]"),
        ("503 is retryable", "[Retryable, Throttled]"),
        ("507 is quota", "[Quota]"),
    ] {
        assert_failed(&report, check, &format!("`Head`: {wanted} is wanted, not Permanent (fetched)"));
    }
    assert_failed(&report, "no secret is in its lines or errors", "[secret]");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_mover_is_told_and_tried_no_further() {
    let (_, labels) = remora_plugins::builtins().find(|(name, _)| *name == "labels").unwrap();
    let report = mover(labels.to_vec(), trial("{}", &[]), Depth::Test).await.unwrap();
    assert_failed(&report, "is a component of the world", "does not export remora:mover/objects@0.1.0");
    assert_failed(&report, "is a component of the world", ". Name a mover of the world object-store");
    assert_eq!(report.checks.len(), 1, "{report:#?}");
    let settings = r#"{"endpoint": "nowhere"}"#;
    let report = of("plain", trial(settings, &[("token", "t")])).await;
    assert_failed(&report, "takes its settings", "/endpoint: write it as");
}

/// Those by which no point can be made: nothing else is tried then.
const HOSTILE_ARRAYS: &[(&str, &str, &str)] = &[
    ("trap in validate", "opens", "`validate` failed: it trapped"),
    ("take large pieces", "opens", "granularity is 1048576"),
    ("trap in commit", "a point is stored", "`commit` failed: it trapped"),
    ("show what is begun", "a point is stored", "is listed before its `commit`"),
    ("read nothing", "a point is stored", "and gave 0 bytes"),
    ("end extents early", "a point is stored", " end at "),
    ("list too much", "a point is stored", "has 2000 points, 1000 at most"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_mover_of_points_that_makes_none_is_found_by_the_check_that_is_for_it() {
    let array = Appliance::start();
    for (how, check, said) in HOSTILE_ARRAYS {
        let report = of("hostile-array", before(&array, &format!(r#", "misbehave": "{how}""#))).await;
        assert_failed(&report, check, said);
    }
}

/// What it lies about, which check is to find that, and what it says.
const LIES: &[(&str, &str, &str)] = &[
    ("forget what is unchanged", "an increment has what changed", "to be as in the parent, and are not"),
    ("commit what is given up", "given up leaves nothing", "are kept as"),
    ("leave a point out", "more points than a page has", "1003 points are there, and 1002 are listed"),
    ("refuse a second commit", "loses any one answer", "was to be committed before"),
    ("call all permanent", "401 is auth", "`Read`: [Auth] is wanted, not Permanent"),
    ("call all permanent", "429 is throttled", "`Read`: [Throttled] is wanted, not Permanent"),
    ("call all permanent", "500 is retryable", "`Read`: [Retryable] is wanted, not Permanent"),
    ("call all permanent", "an answer that is cut off is retryable", "`Read`: Permanent"),
    ("tell what the server says", "no secret is in its lines", "[secret]"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_of_a_mover_of_points_is_found_by_the_check_that_is_for_it() {
    let array = Appliance::start();
    let lies: Vec<_> = LIES.iter().map(|(lie, ..)| *lie).collect();
    let report = of("hostile-array", before(&array, &format!(r#", "misbehave": "{}""#, lies.join(", ")))).await;
    for (_, check, said) in LIES {
        assert_failed(&report, check, said);
    }
    assert_passed(&report, "a point is stored");
    assert_passed(&report, "of two runs that follow one point");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_of_points_wants_a_server_to_be_tried_and_none_to_be_looked_at() {
    let component = fs::read(example("appliance")).unwrap();
    let trial = || trial(r#"{"endpoint": "{endpoint}"}"#, &[("token", TOKEN)]);
    let report = mover(component.clone(), trial(), Depth::Check).await.unwrap();
    assert_eq!((failed(&report), report.passed), (Vec::new(), 5), "{report:#?}");
    let error = mover(component, trial(), Depth::Test).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.chain().contains("--upstream"), "{}", error.chain());
}
