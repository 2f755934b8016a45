//! Runs that policies ask for. The policies lie in a folder, which is swapped as the kubelet swaps that of a `ConfigMap`.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use jiff::{SignedDuration, Timestamp, Zoned};
use remora_tests::wait_until;
use serde_json::{Value, json};

use super::cluster::{Cluster, Run, SOON, Shop};
use crate::says;

/// Each minute: the next one is soon.
const EACH_MINUTE: &str = "* * * * *";

/// A shop, whose policies are the only ones. What is scheduled is bounded in all of its cluster, so there is one at a time.
struct Scheduled {
    shop: Shop,
    _turn: MutexGuard<'static, ()>,
}

impl Scheduled {
    /// In one of the two clusters for that, by its number: tests wait for minutes, and two of them can at once.
    fn open(cluster: usize) -> Self {
        static TURNS: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
        let turn = TURNS[cluster].lock().unwrap_or_else(PoisonError::into_inner);
        Self { shop: Shop::open_in(Cluster::scheduled(cluster)), _turn: turn }
    }

    /// Machines that are to be backed up, as the label says how.
    fn machines(&self, names: &[&str], backup: &str) {
        for name in names {
            self.shop.machine_of(name, &json!({"backup": backup}));
        }
    }

    /// The document of a policy for machines of this shop.
    fn policy(&self, name: &str, backup: &str, cron: &str) -> String {
        let namespace = &self.shop.namespace;
        format!(
            "kind: BackupPolicy\nname: {name}\n\
             select: {{module: builtin:labels, settings: {{namespaces: [{namespace}], matchLabels: {{backup: {backup}}}}}}}\n\
             schedule: {{module: builtin:cron, settings: {{cron: \"{cron}\"}}}}\ntarget: {{repository: offsite}}\n"
        )
    }

    /// The policies from now on.
    fn put(&self, policies: &[(&str, &str)]) {
        self.shop.cluster.controller.policies().put(policies);
    }

    /// Waits until the controller knows that a policy selects these machines, of which it has backed up none yet, and has written
    /// down since when: each minute after that is an occasion of theirs, however late it learns which one the policy means.
    #[track_caller]
    fn selects(&self, policy: &str, backup: &str, machines: &[&str]) {
        let no_time_soon = Timestamp::now() + SignedDuration::from_hours(24 * 100);
        self.put(&[(&format!("{policy}.yaml"), &self.policy(policy, backup, &cron(no_time_soon)))]);
        let path = "/api/v1/namespaces/remora/configmaps/remora-controller-schedule";
        wait_until(format_args!("{policy} does not select {machines:?}"), SOON, || {
            let found = self.shop.cluster.api.look(path).body;
            let known = found["data"][policy].as_str().unwrap_or_default();
            machines.iter().all(|machine| known.contains(&format!("\"{}/{machine}\"", self.shop.namespace)))
        });
    }

    fn list(&self) -> String {
        self.shop.list("remora.dev/v1alpha1", "backupruns")
    }

    /// The runs that a policy asked for.
    fn runs(&self, policy: &str) -> Vec<Value> {
        let selector = format!("labelSelector=remora.dev/policy%3D{policy}");
        self.shop.cluster.api.get(&format!("{}?{selector}", self.list()))["items"].as_array().unwrap().clone()
    }

    /// Waits until so many runs are there that a policy asked for.
    #[track_caller]
    fn waits_for(&self, policy: &str, count: usize) -> Vec<Value> {
        let mut runs = Vec::new();
        wait_until(format_args!("there are not {count} runs of {policy}"), SOON, || {
            runs = self.runs(policy);
            runs.len() >= count
        });
        assert_eq!(runs.len(), count, "{runs:#?}");
        runs
    }

    /// Waits until the controller's log tells of a run that was made, who wanted it and why.
    #[track_caller]
    fn waits_for_word(&self, policy: &str, machine: &str) {
        let (policy, vm) = (format!("policy=\"{policy}\""), format!("vm=\"{}/{machine}\"", self.shop.namespace));
        let digest = |line: &str, name: &str| {
            let told = line.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
            told.is_some_and(|(digest, _)| digest.len() == 64)
        };
        let tells = |line: &str| {
            ["a run is due", policy.as_str(), vm.as_str(), "reason=\"the occasion "]
                .iter()
                .all(|words| line.contains(words))
                && ["digest", "settings"].iter().all(|name| digest(line, name))
        };
        wait_until(format_args!("nobody says why the run of {vm} is due"), SOON, || {
            std::fs::read_to_string(self.shop.cluster.controller.log()).unwrap().lines().any(tells)
        });
    }

    fn metric(&self, name: &str) -> Option<f64> {
        self.shop.cluster.controller.metric(&format!("remora_controller_{name}"))
    }

    fn run(&self, run: &Value) -> Run<'_> {
        Run { shop: &self.shop, name: text(&run["metadata"]["name"]) }
    }
}

impl Drop for Scheduled {
    fn drop(&mut self) {
        self.put(&[]);
        let api = &self.shop.cluster.api;
        for run in api.look(&self.list()).body["items"].as_array().into_iter().flatten() {
            api.delete(&format!("{}/{}", self.list(), text(&run["metadata"]["name"])));
        }
        if !std::thread::panicking() {
            let gone = || api.get(&self.list())["items"].as_array().is_some_and(Vec::is_empty);
            wait_until("runs that were deleted do not go", SOON, gone);
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn machines_of(runs: &[Value]) -> BTreeSet<String> {
    runs.iter().map(|run| text(&run["spec"]["virtualMachine"])).collect()
}

/// The next minute: as a time, and as `builtin:cron` has it, for which it comes once a year.
fn a_minute() -> (Timestamp, String) {
    let minute = Timestamp::from_second((Timestamp::now().as_second() / 60 + 1) * 60).unwrap();
    (minute, cron(minute))
}

/// A minute, each year, as `builtin:cron` has it.
fn cron(minute: Timestamp) -> String {
    let at: Zoned = minute.to_zoned(jiff::tz::TimeZone::UTC);
    format!("{} {} {} {} *", at.minute(), at.hour(), at.day(), at.month())
}

#[test]
fn each_machine_that_a_policy_selects_has_one_run_whoever_acts() {
    let lab = Scheduled::open(0);
    lab.machines(&["one", "two"], "nightly");
    lab.machines(&["other"], "later");
    lab.selects("nightly", "nightly", &["one", "two"]);
    let (minute, cron) = a_minute();
    let nightly = lab.policy("nightly", "nightly", &cron);
    lab.put(&[("nightly.yaml", &nightly)]);
    let runs = lab.waits_for("nightly", 2);
    assert_eq!(machines_of(&runs), ["one", "two"].map(str::to_owned).into());
    for machine in ["one", "two"] {
        lab.waits_for_word("nightly", machine);
    }
    for run in &runs {
        assert_eq!(run["spec"]["repository"], json!({"namespace": "remora", "name": "offsite"}));
        let due: Timestamp = text(&run["metadata"]["annotations"]["remora.dev/due"]).parse().unwrap();
        assert_eq!(due, minute, "{run:#}");
    }
    // One of them ends, the other goes on; and the one who made them is gone.
    let ended = lab.run(&runs[0]);
    ended.claim();
    ended.end("Complete");
    lab.shop.cluster.controller.start_again();

    // That another one acts is seen by a policy that is new.
    let later = lab
        .policy("later", "later", EACH_MINUTE)
        .replace("{repository: offsite}", "{repository: offsite, scratch: {storageClassName: fast}}")
        + "verify: {every: 7d}\ndeadline: 72h\n";
    lab.put(&[("nightly.yaml", &nightly), ("later.yaml", &later)]);
    let verified = lab.waits_for("later", 1);
    assert_eq!(machines_of(&verified), ["other".to_owned()].into());
    assert_eq!((&verified[0]["spec"]["verify"], &runs[0]["spec"]["verify"]), (&json!("All"), &json!("None")));
    assert_eq!((&verified[0]["spec"]["deadline"], &runs[0]["spec"]["deadline"]), (&json!("72h"), &json!("4h")));
    let class = |run: &Value| text(&run["spec"]["scratch"]["storageClassName"]);
    assert_eq!((class(&verified[0]), class(&runs[0])), ("fast".to_owned(), String::new()));
    let names = |runs: &[Value]| runs.iter().map(|run| text(&run["metadata"]["name"])).collect::<BTreeSet<_>>();
    assert_eq!(names(&lab.runs("nightly")), names(&runs));
}

#[test]
fn who_is_selected_changes_with_the_folder_and_a_broken_document_changes_nothing() {
    let lab = Scheduled::open(1);
    lab.machines(&["one"], "first");
    lab.machines(&["two"], "second");
    lab.put(&[("p.yaml", &lab.policy("swapped", "first", EACH_MINUTE))]);
    assert_eq!(machines_of(&lab.waits_for("swapped", 1)), ["one".to_owned()].into());
    lab.put(&[("p.yaml", &lab.policy("swapped", "second", EACH_MINUTE))]);
    assert_eq!(machines_of(&lab.waits_for("swapped", 2)), ["one", "two"].map(str::to_owned).into());

    let broken = || lab.metric("policy_broken{file=\"p.yaml\"}");
    assert_eq!(broken(), Some(0.0));
    lab.put(&[("p.yaml", &lab.policy("swapped", "first", "99 * * * *"))]);
    wait_until("it is not said that it is broken", SOON, || broken() == Some(1.0));
    lab.machines(&["three"], "second");
    let all = ["one", "two", "three"].map(str::to_owned).into();
    assert_eq!(machines_of(&lab.waits_for("swapped", 3)), all, "its last good version stays");
}

#[test]
fn of_many_that_are_due_so_many_are_at_work_and_one_follows_when_one_ends() {
    let lab = Scheduled::open(1);
    lab.machines(&["a", "b", "c", "d", "e"], "many");
    // A run that somebody asked for is one of the machine too.
    let by_hand = lab.shop.run("by-hand", &json!({"virtualMachine": "a"}));
    lab.selects("many", "many", &["a", "b", "c", "d", "e"]);
    let (_, cron) = a_minute();
    lab.put(&[("many.yaml", &lab.policy("many", "many", &cron))]);
    let runs = lab.waits_for("many", 3);
    wait_until("the others do not wait", SOON, || lab.metric("scheduled_runs_waiting") == Some(2.0));
    assert!(!machines_of(&runs).contains("a"), "it has a run already");
    let first = lab.run(&runs[0]);
    first.claim();
    first.end("Complete");
    let runs = lab.waits_for("many", 4);
    assert_eq!(machines_of(&runs), ["b", "c", "d", "e"].map(str::to_owned).into());
    wait_until("the last one does not wait", SOON, || lab.metric("scheduled_runs_waiting") == Some(1.0));
    // Its machine is free, but there is no room.
    lab.shop.cluster.api.merge(&by_hand.path(), &json!({"spec": {"cancel": true}})).ok();
    by_hand.waits_for("Complete", "Cancelled");
    let second = lab.run(&runs[1]);
    second.claim();
    second.end("Failed");
    assert_eq!(machines_of(&lab.waits_for("many", 5)), ["a", "b", "c", "d", "e"].map(str::to_owned).into());
}

/// Whether the controller has removed old runs in this process.
static REMOVED: Once = Once::new();

/// Has the controller remove old runs in the first of the clusters, unless it has: it waits for a minute before it does.
pub(super) fn remove_old_runs() {
    if !REMOVED.is_completed() {
        old_runs_are_removed_and_others_stay();
    }
}

#[test]
fn old_runs_are_removed_and_others_stay() {
    let lab = Scheduled::open(0);
    let api = &lab.shop.cluster.api;
    lab.machines(&["web-of-policies"], "old");
    // As the controller makes them: nobody else may.
    let controller = api.token("remora", "remora-controller", None, None);
    let old = |name: &str| {
        let metadata = json!({"name": name, "labels": {"remora.dev/policy": "old"}});
        let repository = json!({"namespace": "remora", "name": "offsite"});
        let spec = json!({"virtualMachine": "web-of-policies", "repository": repository, "cancel": true});
        let run = json!({"apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun", "metadata": metadata, "spec": spec});
        api.create_as(&controller, &lab.list(), &run)
    };
    let names: Vec<_> = (0..7).map(|number| format!("old-{number}")).collect();
    for name in &names {
        old(name).ok();
    }
    let by_hand = lab.shop.run("by-hand", &json!({"cancel": true}));
    by_hand.waits_for("Complete", "Cancelled");
    lab.put(&[("old.yaml", &lab.policy("old", "old", EACH_MINUTE))]);
    let mut left = Vec::new();
    wait_until("old runs are not removed", SOON, || {
        left = lab
            .runs("old")
            .iter()
            .map(|run| text(&run["metadata"]["name"]))
            .filter(|one| names.contains(one))
            .collect();
        left.len() <= 5
    });
    assert_eq!(left.len(), 5, "{left:?}");
    assert_eq!(api.look(&by_hand.path()).code, 200);
    // And the machine has its next one, which is none of those.
    wait_until("the next run is not made", SOON, || {
        lab.runs("old").iter().any(|run| !names.contains(&text(&run["metadata"]["name"])))
    });
    REMOVED.call_once(|| ());
}

#[test]
fn only_the_controller_says_that_a_policy_asked_for_a_run_and_it_asks_for_no_other() {
    let shop = Shop::open();
    let api = &shop.cluster.api;
    let list = shop.list("remora.dev/v1alpha1", "backupruns");
    let controller = api.token("remora", "remora-controller", None, None);
    let run = |name: &str, labels: &Value, repository: &Value| {
        json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun", "metadata": {"name": name, "labels": labels},
            "spec": {"virtualMachine": "web", "repository": repository},
        })
    };
    let (label, shared) = (json!({"remora.dev/policy": "p"}), json!({"name": "offsite", "namespace": "remora"}));
    let words = "the label remora.dev/policy is the controller's";
    // Policies are in force a moment after they are applied.
    let forged = || api.create(&list, &run("early", &label, &shared)).code;
    wait_until("the policy is not in force", SOON, || forged() == 422);

    says(&api.create(&list, &run("forged", &label, &shared)).refused(), words);
    says(&api.create(&list, &run("empty", &json!({"remora.dev/policy": ""}), &shared)).refused(), words);
    let by_hand = shop.run("by-hand", &json!({}));
    says(&api.merge(&by_hand.path(), &json!({"metadata": {"labels": label}})).refused(), words);

    let make = |run: &Value| api.create_as(&controller, &list, run);
    says(&make(&run("plain", &json!({}), &shared)).refused(), "the controller asks for no run");
    says(&make(&run("theirs", &label, &json!({"name": "own"}))).refused(), "repositories of remora's namespace");
    says(&api.delete_as(&controller, &by_hand.path()).refused(), "the controller asks for no run, and deletes none");
    make(&run("scheduled", &label, &shared)).ok();
    let scheduled = Run { shop: &shop, name: "scheduled".into() };
    says(&api.delete_as(&controller, &scheduled.path()).refused(), "no run that has not ended");
    says(&api.merge(&scheduled.path(), &json!({"metadata": {"labels": {"remora.dev/policy": null}}})).refused(), words);
    // Whoever owns it may still cancel it.
    api.merge(&scheduled.path(), &json!({"spec": {"cancel": true}})).ok();
}
