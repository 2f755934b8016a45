//! `kubectl remora`, found by `kubectl` on PATH.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use remora_tests::{Ran, run, wait_until};
use serde_json::{Value, json};

use super::deploy;
use crate::{Resources, api};

/// How long an object may take to be seen on a busy machine.
const SOON: Duration = Duration::from_mins(10);

const POINT: &str = "0011223344556677-1";

/// A namespace of its own, with what is asked for in it.
struct Shop(Resources);

impl Shop {
    fn open() -> Self {
        Self(Resources::new("BackupRun", "backupruns"))
    }

    fn namespace(&self) -> &str {
        self.0.list.split('/').nth(5).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = api().kubectl();
        let path = env::split_paths(&env::var_os("PATH").unwrap()).collect::<Vec<_>>();
        let program = Path::new(command.get_program()).parent().unwrap().to_owned();
        command.env("PATH", env::join_paths([deploy(""), program].into_iter().chain(path)).unwrap());
        command.arg("remora").args(args).args(["--namespace", self.namespace()]);
        command
    }

    fn kubectl(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args))
    }

    /// That it is refused, with these words, and that nothing is made.
    #[track_caller]
    fn refuses(&self, args: &[&str], words: &str) {
        let before = self.objects("backupruns").len() + self.objects("restoreruns").len();
        let ran = self.kubectl(args).fails();
        assert!(ran.stderr.contains(words), "wanted {words:?} in {}", ran.stderr);
        assert_eq!(self.objects("backupruns").len() + self.objects("restoreruns").len(), before);
    }

    fn objects(&self, plural: &str) -> Vec<Value> {
        let list = self.0.list.replace("backupruns", plural);
        api().get(&list)["items"].as_array().unwrap().clone()
    }

    /// What the run that was told of asks for.
    #[track_caller]
    fn spec(&self, told: &Ran) -> Value {
        let (kind, name) = told.text().trim().split_once('/').unwrap();
        let plural = format!("{}s", kind.split('.').next().unwrap());
        let found = self.objects(&plural).into_iter().find(|one| one["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {}", told.text()))["spec"].clone()
    }

    fn repository(&self, name: &str) {
        let spec = json!({"url": "file:///srv", "passphraseSecret": {"name": "passphrase"}});
        let object = json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": {"name": name}, "spec": spec,
        });
        api().create(&self.0.list.replace("backupruns", "repositories"), &object).ok();
    }

    /// Plays the controller and the agent: ends the run of a machine.
    fn end(&self, vm: &str, complete: bool) {
        let mut run = None;
        wait_until(format_args!("there is no run of {vm}"), SOON, || {
            run = self.objects("backupruns").into_iter().find(|one| one["spec"]["virtualMachine"] == vm);
            run.is_some()
        });
        let since = "2026-01-01T00:00:00Z";
        let condition = |kind: &str, holds: bool| {
            json!({
                "type": kind, "status": if holds { "True" } else { "False" }, "reason": "Said",
                "message": "It is \u{1b}[31mso.", "lastTransitionTime": since,
            })
        };
        let conditions = [condition("Complete", complete), condition("Failed", !complete)];
        let mut status = json!({"conditions": conditions, "completionTime": since});
        if complete {
            status["point"] = json!(POINT);
            status["decision"] = json!("full");
        }
        let name = run.unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
        api().merge(&format!("{}/status", self.0.path(&name)), &json!({"status": status})).ok();
    }
}

#[test]
fn a_backup_goes_to_the_only_repository_or_to_the_one_that_is_named() {
    let shop = Shop::open();
    shop.refuses(&["backup", "web"], "there is no Repository");
    shop.repository("offsite");
    let spec = shop.spec(&shop.kubectl(&["backup", "web"]).ok());
    assert_eq!((&spec["virtualMachine"], &spec["mode"]), (&json!("web"), &json!("Auto")));
    assert_eq!(spec["repository"], json!({"name": "offsite"}));
    shop.repository("second");
    shop.refuses(&["backup", "web"], "several");
    let spec = shop.spec(&shop.kubectl(&["backup", "web", "--repository=remora/third", "--full"]).ok());
    assert_eq!(spec["repository"], json!({"namespace": "remora", "name": "third"}));
    assert_eq!(spec["mode"], "Full");
    assert_eq!(shop.kubectl(&["runs"]).ok().text().lines().count(), 3, "two runs and what their columns are");
}

#[test]
fn waiting_tells_the_end_and_fails_with_the_run() {
    let shop = Shop::open();
    shop.repository("offsite");
    for (vm, complete) in [("web", true), ("db", false)] {
        let mut waiting = shop.command(&["backup", vm, "--wait", "--timeout=15m"]);
        let waiting = waiting.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        shop.end(vm, complete);
        let ended = waiting.wait_with_output().unwrap();
        assert_eq!(ended.status.success(), complete, "{ended:?}");
        let told = if complete { ended.stdout } else { ended.stderr };
        let told = String::from_utf8(told).unwrap();
        assert!(told.contains("Said: It is [31mso."), "no control characters, and all else: {told:?}");
    }
    let points = shop.kubectl(&["points", "web"]).ok();
    assert!(points.text().contains(&format!("{POINT}\t2026-01-01T00:00:00Z\tfull\toffsite")), "{}", points.text());
    assert!(!shop.kubectl(&["points", "db"]).ok().text().contains(POINT));
}

#[test]
fn a_run_that_takes_long_is_told_from_one_that_cannot_be_followed() {
    let shop = Shop::open();
    shop.repository("offsite");
    let late = shop.kubectl(&["backup", "web", "--wait", "--timeout=5s"]).fails();
    assert!(late.stderr.contains("has not ended within 5s; it goes on"), "{}", late.stderr);
    let wrong = shop.kubectl(&["backup", "web", "--wait", "--timeout=soon"]).fails();
    assert!(wrong.stderr.contains("is not followed to its end: error: invalid"), "{}", wrong.stderr);
}

#[test]
fn a_restore_takes_the_repository_from_the_run_that_made_the_point() {
    let shop = Shop::open();
    shop.refuses(&["restore", POINT, "--vm", "copy"], "no BackupRun");
    shop.kubectl(&["backup", "web", "--repository", "remora/offsite"]).ok();
    shop.end("web", true);
    shop.refuses(&["restore", POINT], "either claims with --disk or a new virtual machine");
    shop.refuses(&["restore", POINT, "--vm=copy", "--disk=root=copy"], "either claims with --disk");
    let restore = ["restore", POINT, "--disk", "root=first", "--disk", "data=second", "--storage-class", "thin"];
    let spec = shop.spec(&shop.kubectl(&restore).ok());
    assert_eq!(spec["repository"], json!({"namespace": "remora", "name": "offsite"}));
    let target = |disk: &str, claim: &str| json!({"disk": disk, "claim": claim, "storageClassName": "thin"});
    assert_eq!(spec["disks"], json!([target("root", "first"), target("data", "second")]));
    let spec = shop.spec(&shop.kubectl(&["restore", POINT, "--vm", "copy", "--start", "--repository", "other"]).ok());
    assert_eq!((&spec["virtualMachine"]["name"], &spec["virtualMachine"]["start"]), (&json!("copy"), &json!(true)));
    assert_eq!(spec["repository"], json!({"name": "other"}));
}

#[test]
fn a_run_of_either_kind_is_cancelled() {
    let shop = Shop::open();
    let backup = shop.kubectl(&["backup", "web", "--repository", "offsite"]).ok();
    let restore = shop.kubectl(&["restore", POINT, "--vm", "copy", "--repository", "offsite"]).ok();
    shop.kubectl(&["cancel", backup.text().trim()]).ok();
    let name = restore.text().trim().split_once('/').unwrap().1;
    shop.kubectl(&["cancel", name]).ok();
    assert_eq!((&shop.spec(&backup)["cancel"], &shop.spec(&restore)["cancel"]), (&json!(true), &json!(true)));
    shop.refuses(&["cancel", "none"], "there is no run none");
    shop.refuses(&["cancel", "pod/web"], "a BackupRun or a RestoreRun");
}

#[test]
fn what_is_no_name_gets_into_no_object() {
    let shop = Shop::open();
    for odd in ["we\"b", "we b", "Web", "web\nx", "$(touch x)", "../x", "..", "-x", "", "w\u{e9}b", "*"] {
        // Said by the script: the API server would refuse most of them too, and nothing may get that far.
        let words = match odd {
            "" => "wants a name",
            "-x" => "no option",
            _ => "is no name",
        };
        shop.refuses(&["backup", "--repository", "offsite", odd], words);
        shop.refuses(&["cancel", odd], if odd == "../x" { "a run is a BackupRun" } else { words });
        shop.refuses(
            &["backup", "web", "--repository", odd],
            if odd.is_empty() { "no Repository" } else { "is no name" },
        );
        shop.refuses(&["backup", "web", "--repository", &format!("{odd}/offsite")], "is no name");
        shop.refuses(&["restore", POINT, "--repository=offsite", "--vm", odd], "is no name");
        shop.refuses(&["restore", POINT, "--repository=offsite", "--disk", &format!("root={odd}")], "is no name");
    }
    shop.refuses(&["backup", "web", "--start"], "backup has no option --start");
    shop.refuses(&["backup", "web", "db"], "one at a time");
    shop.refuses(&["destroy", "web"], "no command destroy");
}
