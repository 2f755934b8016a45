//! A machine whose backup runs are disturbed, and what its disks held at each of its points.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use remora_tests::cluster::{NAMESPACE, Product, Vm, VmBuilder, condition, is_true};
use remora_tests::truth::first_difference;
use remora_tests::{Fault, MIB, Meddler, Remora, S3, run, wait_until};
use serde_json::{Value, json};

/// The size of each of its disks.
pub(crate) const SIZE: u64 = 64 * MIB;

/// How long a run may take, with all that is done to it.
const RUN: Duration = Duration::from_mins(20);
/// How long what a run has had made may take to go.
const CLEANED: Duration = Duration::from_mins(10);
/// How often it is looked whether a run has ended that is waited for elsewhere.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A machine with a repository of its own, in a store of its own.
pub(crate) struct Scene {
    pub(crate) product: &'static Product,
    pub(crate) vm: Vm<'static>,
    pub(crate) repository: String,
    pub(crate) disks: Vec<&'static str>,
    /// Before the store, where pods reach it.
    pub(crate) store: Meddler,
    s3: S3,
    remora: Remora,
    dir: tempfile::TempDir,
    /// Each run so far, in their order.
    runs: Vec<String>,
}

impl Scene {
    /// Starts a machine `web`. Neither of its disks, `system` and `data`, has a file system, so that its guest writes what it
    /// is told to and nothing else.
    pub(crate) fn new(prefix: &str) -> Self {
        Self::with(prefix, |vm| vm)
    }

    /// The same, of a machine that the caller says more of.
    pub(crate) fn with(prefix: &str, more: impl FnOnce(VmBuilder<'static>) -> VmBuilder<'static>) -> Self {
        let product = Product::shared();
        let cluster = product.cluster();
        let s3 = Product::store(cluster);
        let store = Meddler::before_at(s3.address(), cluster.host_address());
        let namespace = cluster.namespace(prefix);
        let dir = tempfile::tempdir().unwrap();
        let repository = format!("bucket-{namespace}");
        let remora = product.repository_at(&s3, store.address(), &repository, &namespace, dir.path());
        let remora = remora.with("REMORA_TENANT", &namespace);
        let vm = cluster.vm(&namespace, "web").empty_disk("system", SIZE).empty_disk("data", SIZE);
        let vm = more(vm).start();
        Self { product, vm, repository, disks: vec!["system", "data"], store, s3, remora, dir, runs: Vec::new() }
    }

    /// Has the guest write something to each of the two disks that it began with.
    #[track_caller]
    pub(crate) fn change(&self) {
        let at = 5 * self.runs.len() % 900;
        let write = |disk: &str, bytes: u64| {
            format!("head -c {bytes} /dev/urandom | dd of=/dev/{disk} bs=64k seek={at} conv=fsync 2>/dev/null")
        };
        self.vm.guest().sh(&format!("{}; {}", write("vda", 200_000), write("vdb", 300_000)));
    }

    /// Backs the machine up after a change; gives the run's status once it is complete.
    #[track_caller]
    pub(crate) fn back_up(&mut self) -> Value {
        let status = self.disturbed(&json!({}), |_, _| {});
        assert!(is_true(&status, "Complete"), "{status:#}\n{}", self.product.logs());
        status
    }

    /// The same, where an increment is due.
    #[track_caller]
    pub(crate) fn increment(&mut self) -> Value {
        let status = self.back_up();
        assert!(is_incremental(&status), "{status:#}");
        status
    }

    /// The same as [`Scene::back_up`], of a run that something is done to once it is there; `spec` has more of its fields. Gives its status at
    /// its end, which may be a failure. The guest changes nothing meanwhile: what the run stores is what the disks held
    /// when it was begun.
    #[track_caller]
    pub(crate) fn disturbed(&mut self, spec: &Value, disturb: impl FnOnce(&Self, &str)) -> Value {
        self.change();
        self.run(spec, disturb)
    }

    /// The same, without a change before.
    #[track_caller]
    pub(crate) fn run(&mut self, spec: &Value, disturb: impl FnOnce(&Self, &str)) -> Value {
        let run = format!("run-{}", self.runs.len());
        for disk in &self.disks {
            self.vm.truth(disk, &self.truth(&run, disk));
        }
        self.product.start_run(&self.vm, &self.repository, &run, spec);
        self.runs.push(run.clone());
        disturb(self, &run);
        self.ended(&run)
    }

    /// Waits until a run has ended and nothing is left of it; gives its status.
    #[track_caller]
    fn ended(&self, run: &str) -> Value {
        let (cluster, namespace) = (self.vm.cluster(), self.vm.namespace());
        let found = cluster.wait_for("backuprun", namespace, run, "the run does not end", RUN, has_ended);
        let status = found.unwrap()["status"].take();
        if let Some(failed) = condition(&json!({"status": status}), "Failed").filter(|one| one["status"] == "True") {
            let text = |field: &str| failed[field].as_str().unwrap_or_default().len();
            assert!(text("reason") > 3 && text("message") > 20, "it does not say why: {failed:#}");
        }
        self.assert_nothing_is_left();
        status
    }

    /// Asks for a run's end.
    #[track_caller]
    pub(crate) fn cancel(&self, run: &str) {
        let args = ["patch", "backuprun", run, "--namespace", self.vm.namespace(), "--type", "merge"];
        self.vm.cluster().kubectl(&[&args[..], &["--patch", r#"{"spec": {"cancel": true}}"#]].concat());
    }

    /// Whether the guest was frozen for the point of a run.
    #[track_caller]
    pub(crate) fn was_frozen(&self, run: &str) -> bool {
        let status = self.status(run);
        self.remora.json(["show", status["point"].as_str().unwrap()])["quiesced"] == "frozen"
    }

    /// Restores a disk of a run's point to a claim.
    #[track_caller]
    pub(crate) fn restore(&self, name: &str, run: &str, disk: &str, claim: &str) {
        let (cluster, namespace) = (self.vm.cluster(), self.vm.namespace());
        cluster.apply(&json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun", "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "point": self.status(run)["point"], "repository": {"name": self.repository, "namespace": NAMESPACE},
                "disks": [{"disk": disk, "claim": claim}],
            },
        }));
        let found = cluster.wait_for("restorerun", namespace, name, "the restore does not end", RUN, has_ended);
        let restore = found.unwrap();
        assert!(is_true(&restore["status"], "Complete"), "{restore:#}\n{}", self.product.logs());
    }

    /// That nothing is there of what runs have had made, nor anything that belongs to it.
    #[track_caller]
    fn assert_nothing_is_left(&self) {
        let (cluster, namespace) = (self.vm.cluster(), self.vm.namespace());
        let left = cluster.list("vmbackup,secret,pvc", namespace, "remora.dev/run");
        assert!(left.is_empty(), "something is left: {left:#?}");
        // KubeVirt lets go of a scratch in its own time, and has then a pod less.
        let detached = |instance: Option<&Value>| {
            let attached = |instance: &Value| instance["spec"]["utilityVolumes"].as_array().map_or(0, Vec::len);
            instance.is_none_or(|instance| attached(instance) == 0)
        };
        cluster.wait_for("vmi", namespace, self.vm.name(), "a scratch is still attached", CLEANED, detached);
    }

    /// That each point that the repository lists has what the disks held when its run began. A run that failed may have
    /// committed one all the same.
    #[track_caller]
    pub(crate) fn assert_points_are_right(&self) {
        let told: Vec<_> =
            self.runs.iter().map(|run| (run, self.status(run)["point"].as_str().map(str::to_owned))).collect();
        let listed = self.remora.json(["points"]);
        let listed: Vec<_> = listed.as_array().unwrap().iter().map(|point| point["point"].as_str().unwrap()).collect();
        for (run, point) in &told {
            assert!(
                point.as_deref().is_none_or(|point| listed.contains(&point)),
                "{point:?} of {run} is not in {listed:?}"
            );
        }
        for point in &listed {
            let into = self.dir.path().join("restored");
            self.remora.ok(["restore", point, "--to", into.to_str().unwrap()]);
            let runs = match told.iter().find(|(_, told)| told.as_deref() == Some(point)) {
                Some((run, _)) => vec![*run],
                None => told.iter().filter(|(_, point)| point.is_none()).map(|(run, _)| *run).collect(),
            };
            let differ: Vec<_> = runs.iter().map(|run| self.difference(&into, run)).collect();
            assert!(differ.iter().any(Option::is_none), "point {point} of {runs:?} is wrong: {differ:?}");
            std::fs::remove_dir_all(&into).unwrap();
        }
        assert!(!listed.is_empty());
        self.remora.ok(["verify"]);
    }

    /// How restored disks differ from those that the machine had when a run began, and from what they held then.
    fn difference(&self, restored: &Path, run: &str) -> Option<String> {
        let had: Vec<_> = self.disks.iter().filter(|disk| self.truth(run, disk).exists()).collect();
        let wanted: BTreeSet<_> = had.iter().map(|disk| format!("{disk}.raw")).collect();
        let files = std::fs::read_dir(restored).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let found: BTreeSet<_> =
            files.filter(|file| Path::new(file).extension().is_some_and(|it| it == "raw")).collect();
        if found != wanted {
            return Some(format!("it has {found:?} in the place of {wanted:?}"));
        }
        had.into_iter().find_map(|disk| {
            let difference = first_difference(&restored.join(format!("{disk}.raw")), &self.truth(run, disk));
            difference.map(|difference| format!("{disk}: {difference:x?}"))
        })
    }

    /// How many entries of sequences the store has: one more with each point.
    #[track_caller]
    pub(crate) fn entries(&self) -> usize {
        let mut find = Command::new("find");
        find.arg(self.s3.files(&self.repository));
        find.args(["-ignore_readdir_race", "-path", "*/t/*/m/*", "-type", "f"]);
        run(&mut find).ok().text().lines().count()
    }

    /// The file that has what a disk held when a run began.
    pub(crate) fn truth(&self, run: &str, disk: &str) -> PathBuf {
        self.dir.path().join(format!("{run}.{disk}"))
    }

    /// The run that was begun last.
    #[track_caller]
    pub(crate) fn last_run(&self) -> &str {
        self.runs.last().unwrap()
    }

    /// The status of a run, as it is now.
    #[track_caller]
    pub(crate) fn status(&self, run: &str) -> Value {
        self.vm.cluster().get("backuprun", self.vm.namespace(), run)["status"].take()
    }

    /// Waits until a run has come so far; it must not end before.
    #[track_caller]
    pub(crate) fn wait_for(&self, run: &str, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let over = |object: Option<&Value>| {
            object.is_some_and(|one| ready(&one["status"]) || one["status"]["completionTime"].is_string())
        };
        let found = self.vm.cluster().wait_for("backuprun", self.vm.namespace(), run, what, RUN, over);
        let status = found.unwrap()["status"].take();
        assert!(ready(&status), "the run has ended before: {what}: {status:#}\n{}", self.product.logs());
        status
    }

    /// Waits until KubeVirt's job of a run's attempt, whose backup is made, runs, or is over already.
    #[track_caller]
    pub(crate) fn wait_for_job(&self, run: &str) {
        let status = self.status(run);
        let backup = status["attempt"]["backup"].as_str().unwrap();
        let begun = |object: Option<&Value>| object.is_none_or(|one| one["status"]["type"].is_string());
        self.vm.cluster().wait_for("vmbackup", self.vm.namespace(), backup, "its job does not run", RUN, begun);
    }

    /// A run that something is done to in its middle: what KubeVirt's job serves is read, and the run cannot go on, for its store
    /// takes nothing of that before `disturb` drops what it is given. Whoever is to store it waits two minutes for that. `spec` has
    /// more of the run's fields. Gives its status at its end.
    #[track_caller]
    pub(crate) fn disturbed_in_the_middle(&mut self, spec: &Value, disturb: impl FnOnce(&Self, &str, Held)) -> Value {
        // Before the run is there: a machine that is starved must not see it done before.
        let held = Held::new(&self.store);
        self.disturbed(spec, |scene, run| {
            scene.wait_until_it_stores(run, &held);
            disturb(scene, run, held);
        })
    }

    /// A run that is deleted in its middle, and is gone then: no point may be of what the disks held when it was begun.
    #[track_caller]
    pub(crate) fn deleted_in_the_middle(&self) {
        const NAME: &str = "deleted";
        let (cluster, namespace) = (self.vm.cluster(), self.vm.namespace());
        let held = Held::new(&self.store);
        self.change();
        self.product.start_run(&self.vm, &self.repository, NAME, &json!({}));
        self.wait_until_it_stores(NAME, &held);
        cluster.delete("backuprun", namespace, NAME);
        cluster.wait_gone("backuprun", namespace, NAME, RUN);
        drop(held);
        self.assert_nothing_is_left();
    }

    /// Waits until the store is asked to take what a run has read; the run must not end before.
    #[track_caller]
    fn wait_until_it_stores(&self, run: &str, held: &Held) {
        let mut looked = Instant::now();
        wait_until(format_args!("{run} stores nothing"), RUN, || {
            if !held.is_asked() && looked.elapsed() > LOOK_EVERY {
                let status = self.status(run);
                let over = status["completionTime"].is_string();
                assert!(!over, "{run} has ended before it stored: {status:#}\n{}", self.product.logs());
                looked = Instant::now();
            }
            held.is_asked()
        });
    }

    /// Stops the machine's instance, and waits until the next one runs as the machine says by then.
    #[track_caller]
    pub(crate) fn restart(&self) {
        let before = self.vm.instance()["metadata"]["uid"].clone();
        self.vm.cluster().delete("vmi", self.vm.namespace(), self.vm.name());
        self.wait_for_another_instance(&before);
    }

    /// Waits until another instance than `before` is there, and its guest answers.
    #[track_caller]
    pub(crate) fn wait_for_another_instance(&self, before: &Value) {
        let another = |instance: Option<&Value>| instance.is_some_and(|one| one["metadata"]["uid"] != *before);
        self.vm.cluster().wait_for("vmi", self.vm.namespace(), self.vm.name(), "no new instance", RUN, another);
        self.vm.wait(false);
    }

    /// The machine's checkpoints that libvirt knows.
    #[track_caller]
    pub(crate) fn checkpoints(&self) -> Vec<String> {
        let listed = self.vm.try_virsh("checkpoint-list", &["--name"]).ok();
        listed.text().split_whitespace().map(str::to_owned).collect()
    }

    /// How many bitmaps each of the machine's disks has that has any.
    #[track_caller]
    pub(crate) fn bitmaps(&self) -> Vec<usize> {
        let command = json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}).to_string();
        let nodes = self.vm.try_virsh("qemu-monitor-command", &[&command]).ok().json();
        let nodes = nodes["return"].as_array().unwrap();
        let with = nodes.iter().filter_map(|node| node["dirty-bitmaps"].as_array());
        with.map(Vec::len).filter(|&number| number > 0).collect()
    }

    /// Merges a patch into the machine.
    #[track_caller]
    pub(crate) fn patch_machine(&self, patch: &Value) {
        let (namespace, patch) = (self.vm.namespace(), patch.to_string());
        let args = ["patch", "vm", self.vm.name(), "--namespace", namespace, "--type", "merge", "--patch", &patch];
        self.vm.cluster().kubectl(&args);
    }

    /// Waits until the run that is begun waits, for that reason; gives what it says.
    #[track_caller]
    pub(crate) fn waits(&self, run: &str, kind: &str, reason: &str) -> String {
        let waits = |status: &Value| {
            let found = condition(&json!({"status": status}), kind).cloned();
            found.is_some_and(|one| one["reason"] == reason && one["status"] != "True")
        };
        let status = self.wait_for(run, &format!("it does not say {reason}"), waits);
        condition(&json!({"status": status}), kind).unwrap()["message"].as_str().unwrap().to_owned()
    }
}

/// Whether a run or a restore has ended, and what was made for it is gone.
fn has_ended(object: Option<&Value>) -> bool {
    object.is_some_and(|one| {
        let status = &one["status"];
        (is_true(status, "Complete") || is_true(status, "Failed")) && one["metadata"]["finalizers"].is_null()
    })
}

/// Whether a condition of a status has that status.
pub(crate) fn has(status: &Value, kind: &str, wanted: &str) -> bool {
    condition(&json!({"status": status}), kind).is_some_and(|one| one["status"] == wanted)
}

/// Whether a run had to read all because KubeVirt took the scratch of its increment away: a fault of KubeVirt 1.9 that a busy
/// machine shows now and then, and for which the run makes up.
pub(crate) fn is_spoiled(status: &Value) -> bool {
    let reason = status["reason"].as_str().unwrap_or_default();
    status["decision"] == "reread" && reason.contains("KubeVirt detached the scratch PVC")
}

/// Whether a run made an increment, or would have but for that.
pub(crate) fn is_incremental(status: &Value) -> bool {
    status["decision"] == "incremental" || is_spoiled(status)
}

/// The reason of a run that failed.
#[track_caller]
pub(crate) fn why_failed(status: &Value) -> (String, String) {
    let failed = condition(&json!({"status": status}), "Failed").cloned().unwrap_or_default();
    assert_eq!(failed["status"], "True", "{status:#}");
    (failed["reason"].as_str().unwrap().to_owned(), failed["message"].as_str().unwrap().to_owned())
}

/// A store that takes no segments until this is dropped.
pub(crate) struct Held(Meddler);

impl Held {
    fn new(store: &Meddler) -> Self {
        store.meddle("PUT", "/s/", Fault::Hold, usize::MAX);
        Self(store.clone())
    }

    /// Whether it was to take one.
    fn is_asked(&self) -> bool {
        self.0.left() < usize::MAX
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.come_back();
    }
}
