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
    assert!(modules[1]["facts"]["time zone database"].is_string(), "{modules:?}");
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
