//! `remora policy`: what the agent would make of documents, told without it, in the JSON that `docs/cli.md` describes.

use std::fs;

use remora_tests::{DiskSpec, Lab, MIB, Remora};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::documented::the_documented;

const NIGHTLY: &str = "\
kind: BackupPolicy
name: nightly
select: {module: builtin:labels, settings: {matchLabels: {backup: nightly}}}
schedule: {module: builtin:cron, settings: {cron: 15 2 * * *, timezone: Europe/Prague, jitter: 30m}}
retention: {module: builtin:gfs, settings: {daily: 7}}
";

const ACCESS: &str = "\
kind: AccessPolicy
name: files
authorize:
- {module: builtin:owners, settings: {users: [alice]}}
- {module: builtin:paths, settings: {denyPaths: [/srv/hr/**]}}
";

/// A folder with two good documents, and a `remora` with neither repository nor hypervisor.
struct Place {
    dir: TempDir,
    remora: Remora,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let remora = Remora::bare(dir.path(), "/nowhere");
        fs::create_dir(dir.path().join("policies")).unwrap();
        let place = Self { dir, remora };
        place.write("nightly.yaml", NIGHTLY);
        place.write("access.yaml", ACCESS);
        place
    }

    fn policies(&self) -> String {
        self.dir.path().join("policies").to_str().unwrap().to_owned()
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join("policies").join(file), text).unwrap();
    }

    /// What is explained of a VM of this label, and of what is asked beside that.
    #[track_caller]
    fn explain(&self, label: &str, more: &[&str]) -> Value {
        let policies = self.policies();
        let question = ["policy", "explain", &policies, "--vm", "db", "--label", label, "--at", "2026-01-10T12:00:00Z"];
        let explained = self.remora.json(question.iter().chain(more));
        the_documented("remora policy explain PATH --vm NAME").assert_of(&explained);
        explained
    }
}

#[test]
fn lint_tells_what_is_in_force_and_what_is_wrong_with_the_others() {
    let place = Place::new();
    let policies = place.policies();
    let shape = the_documented("remora policy lint PATH");
    let linted = place.remora.json(["policy", "lint", &policies]);
    shape.assert_of(&linted);
    let told = |linted: &Value| -> Vec<Value> {
        linted["files"].as_array().unwrap().iter().map(|file| json!([file["file"], file["policy"]])).collect()
    };
    assert_eq!(told(&linted), [json!(["access.yaml", "files"]), json!(["nightly.yaml", "nightly"])]);
    let modules = linted["files"][1]["modules"].as_array().unwrap();
    let fields: Vec<_> = modules.iter().map(|module| module["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["select", "schedule", "retention"]);
    assert_eq!(modules[0]["interface"], "remora:policy/select@0.1.0", "{modules:?}");
    assert!(modules[1]["facts"]["time zone database"].is_string(), "{modules:?}");
    // Which repository is meant by a policy that names none, only a libvirt host knows.
    let only_on = |linted: &Value| -> Vec<Value> {
        linted["files"].as_array().unwrap().iter().map(|file| file["only_on"].clone()).collect()
    };
    assert_eq!(only_on(&linted), [Value::Null, json!("libvirt")]);
    let of_both = format!("{NIGHTLY}target: {{repository: offsite}}\n");
    place.write("nightly.yaml", &of_both);
    assert_eq!(only_on(&place.remora.json(["policy", "lint", &policies])), [Value::Null, Value::Null]);
    place.write("nightly.yaml", &of_both.replace("offsite", "offsite, scratch: {storageClassName: fast}"));
    assert_eq!(only_on(&place.remora.json(["policy", "lint", &policies])), [Value::Null, json!("kubernetes")]);
    place.write("nightly.yaml", NIGHTLY);
    // One document alone.
    let one = place.remora.json(["policy", "lint", &format!("{policies}/nightly.yaml")]);
    assert_eq!(told(&one), [json!(["nightly.yaml", "nightly"])]);

    place.write("broken.yaml", &NIGHTLY.replace("15 2 * * *", "often").replace("name: nightly", "name: often"));
    let ran = place.remora.fails(["policy", "lint", &policies, "-o", "json"], 2, "1 of 3 files are broken");
    let linted = ran.json();
    shape.assert_of(&linted);
    let [good, broken] = [0_usize, 1].map(|n| &linted["files"][n]);
    assert_eq!((&good["error"], &broken["policy"]), (&Value::Null, &Value::Null));
    let why = broken["error"].as_str().unwrap();
    assert!(why.starts_with("broken.yaml, line 4: schedule.settings.cron: "), "{why}");
    let ran = place.remora.fails(["policy", "lint", &policies], 2, "1 of 3 files are broken");
    assert!(ran.text().contains("nightly.yaml: nightly is good"), "{ran:?}");

    let empty = tempfile::tempdir().unwrap();
    place.remora.fails(["policy", "lint", empty.path().to_str().unwrap()], 3, "there is no policy in");
}

#[test]
fn explain_tells_which_policy_says_what_and_why() {
    let place = Place::new();
    let explained = place.explain("backup=nightly", &[]);
    let backup = &explained["backup"][0];
    // By the clocks of Prague, and no later by jitter.
    let due = json!(["nightly", true, "2026-01-11T01:15:00Z"]);
    assert_eq!(json!([backup["policy"], backup["selected"], backup["start"]]), due);
    assert!(backup["start_reason"].as_str().unwrap().contains("02:15"), "{backup}");
    assert_eq!(explained["access"], Value::Null);
    let explained = place.explain("backup=never", &[]);
    let backup = &explained["backup"][0];
    assert_eq!(json!([backup["selected"], backup["start"]]), json!([false, null]));
    assert!(backup["reason"].as_str().unwrap().contains("backup"), "{backup}");

    let access = |user: &str, path: &str| {
        let access = place.explain("backup=nightly", &["--user", user, "--file", path])["access"].take();
        let said = access["said"].as_array().unwrap();
        let modules: Vec<_> = said.iter().map(|said| said["module"].as_str().unwrap()).collect();
        assert_eq!(modules, ["builtin:owners", "builtin:paths"]);
        (access["allowed"].as_bool().unwrap(), access["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(access("alice", "/etc/hosts"), (true, "owner".into()));
    assert_eq!(access("alice", "/srv/hr/pay.ods"), (false, "path-denied".into()));
    assert_eq!(access("eve", "/etc/hosts"), (false, "nothing-allows".into()));

    // Of a broken one nobody can say what it would: it is named, and as it may have been meant to deny, nothing is allowed.
    place.write("access.yaml", &ACCESS.replace("denyPaths", "denypaths"));
    let policies = place.policies();
    let question =
        ["policy", "explain", &policies, "--vm", "db", "--label", "backup=nightly", "--user", "alice", "--file", "/x"];
    let ran = place.remora.fails(question.iter().chain(&["-o", "json"]), 2, "1 of 2 files are broken");
    let explained = ran.json();
    the_documented("remora policy explain PATH --vm NAME").assert_of(&explained);
    let [broken] = &explained["broken"].as_array().unwrap()[..] else { panic!("{explained}") };
    assert_eq!(broken["file"], "access.yaml");
    assert!(broken["error"].as_str().unwrap().contains("access.yaml, line 5"), "{broken}");
    assert_eq!(json!([explained["access"]["allowed"], explained["access"]["code"]]), json!([false, "broken-policy"]));
    assert_eq!(json!([explained["backup"][0]["policy"], explained["backup"][0]["selected"]]), json!(["nightly", true]));
    let ran = place.remora.fails(question, 2, "1 of 2 files are broken");
    assert!(ran.text().contains("nightly") && ran.text().contains("access.yaml: "), "{ran:?}");
}

const OWNED: &str = "\
kind: AccessPolicy
name: files
authorize:
- module: builtin:owners
  settings: {grants: [get virtualmachines], namespaces: {shop: {users: [alice], groups: [shop-admins]}}}
- {module: builtin:four-eyes, settings: {paths: [/srv/hr/**], approvers: [hr-leads]}}
";

#[test]
fn explain_tells_what_grants_namespaces_and_consent_make_of_a_request() {
    let place = Place::new();
    place.write("access.yaml", OWNED);
    let asked = |user: &str, path: &str, more: &[&str]| {
        let question = [&["--user", user, "--file", path][..], more].concat();
        let access = place.explain("backup=nightly", &question)["access"].take();
        (access["allowed"].as_bool().unwrap(), access["code"].as_str().unwrap().to_owned())
    };
    let (owner, stranger) = ((true, "owner".to_owned()), (false, "nothing-allows".to_owned()));
    let grant = |grant| asked("eve", "/etc/hosts", &["--grant", "list pods", "--grant", grant]);
    assert_eq!(asked("eve", "/etc/hosts", &[]), stranger);
    assert_eq!(grant("get virtualmachines"), owner);
    assert_eq!(grant("update virtualmachines"), stranger, "the settings name another one");
    let namespace = |user, more: &[&str]| asked(user, "/etc/hosts", &[&["--namespace", "shop"][..], more].concat());
    assert_eq!(namespace("alice", &[]), owner);
    assert_eq!(namespace("eve", &["--group", "shop-admins"]), owner);
    assert_eq!(namespace("eve", &[]), stranger);
    assert_eq!(asked("alice", "/etc/hosts", &["--namespace", "lab"]), stranger);

    let pay = |more: &[&str]| asked("alice", "/srv/hr/pay.ods", &[&["--namespace", "shop"][..], more].concat());
    let needed = (false, "approval-needed".to_owned());
    assert_eq!(pay(&[]), needed);
    assert_eq!(pay(&["--approved-by", "bob"]), needed, "who consents is of no group that may");
    assert_eq!(pay(&["--approved-by", "alice", "--approver-group", "hr-leads"]), needed, "it is somebody else's to do");
    assert_eq!(pay(&["--approved-by", "bob", "--approver-group", "hr", "--approver-group", "hr-leads"]), owner);
    assert_eq!(pay(&["--approved-by", "alice", "--approved-by", "bob", "--approver-group", "hr-leads"]), owner);

    let policies = place.policies();
    let mistyped = ["--user", "eve", "--file", "/x", "--grant", "get"];
    let question = ["policy", "explain", &policies, "--vm", "db"];
    place.remora.fails(question.iter().chain(&mistyped), 2, "a verb and a resource are wanted");
}

/// The same by golden cases, which tell of everybody who consents for himself.
#[test]
fn golden_cases_have_namespaces_grants_and_consent() {
    let place = Place::new();
    place.write("access.yaml", OWNED);
    let case = |name: &str, subject: &str, more: &str, expect: &str| {
        format!(
            "- name: {name}\n  authorize: {{subject: {{{subject}}}, action: read, now: 2026-01-03T00:00:00Z, {more}, expect: {{{expect}}}}}\n"
        )
    };
    let shop = "vm: {name: shop/db, namespace: shop}";
    let consent =
        "approvals: [{user: bob, groups: [hr-leads], granted: 2026-01-02T23:00:00Z, expires: 2026-01-03T01:00:00Z}]";
    let cases = [
        case("namespace", "user: alice", &format!("{shop}, path: /x"), "allowed: true, code: owner"),
        case("another", "user: alice", "vm: {name: lab/db, namespace: lab}, path: /x", "allowed: false"),
        case("grant", "user: eve, grants: [get virtualmachines]", &format!("{shop}, path: /x"), "allowed: true"),
        case("alone", "user: alice", &format!("{shop}, path: /srv/hr/x"), "allowed: false, code: approval-needed"),
        case("two", "user: alice", &format!("{shop}, path: /srv/hr/x, {consent}"), "allowed: true, code: owner"),
        case("wrong", "user: eve", &format!("{shop}, path: /x"), "allowed: true"),
    ];
    place.write("cases.txt", &format!("kind: PolicyTest\npolicies: [access.yaml]\ncases:\n{}", cases.concat()));
    let file = format!("{}/cases.txt", place.policies());
    let ran = place.remora.fails(["policy", "test", &file, "-o", "json"], 1, "1 of 6 cases failed");
    let tested = ran.json();
    the_documented("remora policy test FILE").assert_of(&tested);
    let failed = |case: &&Value| !case["failed"].is_null();
    let names: Vec<_> = tested["cases"].as_array().unwrap().iter().filter(failed).map(|case| &case["name"]).collect();
    assert_eq!(names, ["wrong"]);
}

#[test]
fn explain_tells_what_each_policy_keeps_of_the_points_and_drops_nothing() {
    let (lab, place) = (Lab::shared(), Place::new());
    let remora = Remora::init(lab);
    let vm = lab.domain("explained").disk(DiskSpec::qcow2("vda", 16 * MIB)).paused();
    for _ in 0..2 {
        remora.json(["backup", vm.name(), "--quiesce", "never"]);
    }
    let select = "select: {module: builtin:labels, settings: {names: [explained]}}";
    let named = NIGHTLY.replace("select: {module: builtin:labels, settings: {matchLabels: {backup: nightly}}}", select);
    place.write("nightly.yaml", &named.replace("daily: 7", "last: 1"));
    let (keeps, _) = named.rsplit_once("retention:").unwrap();
    place.write("forever.yaml", &keeps.replace("name: nightly", "name: forever"));
    place.write("others.yaml", &NIGHTLY.replace("name: nightly", "name: others"));
    let policies = place.policies();
    let question = ["policy", "explain", &policies, "--vm", vm.name()];
    let explained = remora.json(question.iter().chain(&["--points"]));
    the_documented("remora policy explain PATH --vm NAME").assert_of(&explained);
    let said = |policy: usize| {
        let explained = &explained["backup"][policy];
        let points = explained["retention"].as_array().map(|points| {
            let fates = points.iter().map(|point| point["fate"].as_str().unwrap().to_owned());
            assert!(
                points.iter().all(|point| point["reason"].as_str().is_some_and(|why| !why.is_empty())),
                "{points:?}"
            );
            fates.collect::<Vec<_>>()
        });
        (explained["policy"].as_str().unwrap().to_owned(), points)
    };
    let fates = |fates: [&str; 2]| Some(fates.map(String::from).to_vec());
    assert_eq!(said(0), ("forever".into(), fates(["keep", "keep"])));
    assert_eq!(said(1), ("nightly".into(), fates(["drop", "keep"])));
    assert_eq!(said(2), ("others".into(), None), "it does not select the machine");
    // Nobody asked for points: the repository is not opened.
    assert_eq!(remora.json(question)["backup"][1]["retention"], Value::Null);
    assert_eq!(remora.json(["points"]).as_array().unwrap().len(), 2);
}
