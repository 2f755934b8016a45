//! `remora policy`: what the agent would make of documents, told without it, in the JSON that `docs/cli.md` describes.

use std::fs;

use remora_tests::Remora;
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

    // Nobody can say what a broken one would.
    place.write("access.yaml", &ACCESS.replace("denyPaths", "denypaths"));
    let policies = place.policies();
    place.remora.fails(["policy", "explain", &policies, "--vm", "db"], 2, "remora policy lint");
}
