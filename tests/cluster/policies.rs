//! What administrators put into `ConfigMap`s: policies, by which machines are backed up and points go, and a mover, whose store
//! takes them.

use std::path::Path;
use std::time::Duration;

use remora_tests::cluster::{Cluster, NAMESPACE, Product, Vm, is_true};
use remora_tests::truth::assert_same;
use remora_tests::{MIB, PASSPHRASE, Plugin, Remora};
use serde_json::{Value, json};

use crate::scene::is_incremental;

const SIZE: u64 = 64 * MIB;
/// How long what a policy asks for may take: the kubelet sees the change, the minute comes, the run goes.
const SOON: Duration = Duration::from_mins(15);
const POLICIES: &str = "remora-policies";
const PLUGINS: &str = "remora-plugins";
const DOCUMENT: &str = "each-minute.yaml";
/// A document beside it, by which nothing is selected.
const NEIGHBOUR: &str = "nightly.yaml";
const EACH_MINUTE: &str = "* * * * *";

#[test]
fn policies_of_a_config_map_back_a_machine_up_through_a_mover_and_tell_how_they_stand() {
    let _undisturbed = Product::undisturbed();
    let product = Product::shared();
    let cluster = product.cluster();
    let namespace = cluster.namespace("policies");
    let repository = format!("mover-{namespace}");
    let store = Product::store(cluster);
    let bucket = store.bucket(&repository);
    let dir = tempfile::tempdir().unwrap();
    let _in_the_end = Removed(cluster);

    put_mover(cluster, &Plugin::of_bucket(store.address(), &bucket));
    product.make_repository_of("plugin:s3/a/repository", &repository, &namespace);
    let vm = cluster.vm(&namespace, "web").empty_disk("data", SIZE).start();
    write(&vm, 100);
    make_unlabelled(cluster, &namespace);
    let document = policy("each-minute", EACH_MINUTE, &namespace, &repository);
    let neighbour = policy("nightly", "0 2 * * *", &namespace, &repository).replace("last:", "lest:");
    put_policies(cluster, dir.path(), [(DOCUMENT, document), (NEIGHBOUR, neighbour)]);
    let policies = Policies { product, vm: &vm };

    // What the mover stores, remora finds in the bucket.
    let remora = store.owner(Remora::bare(dir.path(), store.url(&bucket))).with("REMORA_PASSPHRASE", PASSPHRASE);
    let remora = remora.with("REMORA_TENANT", &namespace);
    let points = || remora.json(["points"]).as_array().unwrap().clone();

    // Beside a document that is broken from the first, a good one works all the same.
    let unknown = policies.stands(NEIGHBOUR, "Broken", None);
    assert!(unknown["activeDigest"].is_null(), "{unknown:#}");
    assert_says(&unknown, "nightly.yaml, line 5: retention.settings.lest: ");
    let good = policies.stands(DOCUMENT, "Active", None);
    assert_eq!(good["activeDigest"], good["desiredDigest"], "{good:#}");
    assert_eq!(good["name"], "each-minute", "{good:#}");
    cluster.kubectl(&["label", "vm", "web", "--namespace", &namespace, "backup=each-minute"]);
    let first = policies.next_run();
    assert_eq!(first["decision"], "full", "{first:#}");
    policies.wait_until_one_is_verified();

    // A broken document changes nothing but that it is told, while its neighbour is mended.
    edit(cluster, &format!("s/{}/99 * * * */; s/lest:/last:/", EACH_MINUTE.replace('*', r"\*")));
    let known = policies.stands(NEIGHBOUR, "Active", Some(&unknown));
    assert_eq!(known["activeDigest"], known["desiredDigest"], "{known:#}");
    let broken = policies.stands(DOCUMENT, "Stale", Some(&good));
    assert_eq!(broken["activeDigest"], good["activeDigest"], "{broken:#}");
    let generation = |document: &Value| document["generation"].as_i64().unwrap();
    assert!(generation(&broken) > generation(&good), "{broken:#} after {good:#}");
    assert_says(&broken, "each-minute.yaml, line 4: schedule.settings.cron: ");
    write(&vm, 300);
    let second = policies.next_run();
    assert!(is_incremental(&second), "{second:#}");
    assert!(points().len() > 1, "nothing is dropped by what is stale: {:#?}", points());

    // By a mended one, none stays that is older than the newest.
    edit(cluster, r"s|99 \* \* \* \*|*/1 * * * *|");
    let mended = policies.stands(DOCUMENT, "Active", Some(&broken));
    assert_eq!(mended["activeDigest"], mended["desiredDigest"], "{mended:#}");
    write(&vm, 500);
    let earlier = points();
    let third = policies.next_run();
    assert!(is_incremental(&third), "{third:#}");
    cluster.kubectl(&["label", "vm", "web", "--namespace", &namespace, "backup-"]);
    policies.wait_until_all_have_ended();
    assert!(policies.runs().iter().all(|run| run["spec"]["virtualMachine"] == "web"), "{:#?}", policies.runs());
    // A last run that was asked for just before the machine lost its label, and read the machine after that, drops none: no policy
    // selects what its point is of.
    let kept = points();
    let is_kept = |point: &Value| kept.iter().any(|one| one["point"] == point["point"]);
    assert!(!kept.is_empty() && !earlier.iter().any(is_kept), "{kept:#?} of {earlier:#?}");

    let truth = dir.path().join("truth");
    vm.truth("data", &truth);
    let into = dir.path().join("restored");
    remora.ok(["restore", kept[0]["point"].as_str().unwrap(), "--to", into.to_str().unwrap()]);
    assert_same(&into.join("data.raw"), &truth);
    remora.ok(["verify"]);
}

/// A policy for the machines of a namespace that have its name as a label.
fn policy(name: &str, cron: &str, namespace: &str, repository: &str) -> String {
    format!(
        "kind: BackupPolicy\nname: {name}\n\
         select: {{module: builtin:labels, settings: {{namespaces: [{namespace}], matchLabels: {{backup: {name}}}}}}}\n\
         schedule: {{module: builtin:cron, settings: {{cron: \"{cron}\"}}}}\n\
         retention: {{module: builtin:gfs, settings: {{last: 1}}}}\ntarget: {{repository: {repository}}}\n\
         verify: {{every: 7d}}\n"
    )
}

/// A machine that the policy does not select, though it could be backed up.
#[track_caller]
fn make_unlabelled(cluster: &Cluster, namespace: &str) {
    let devices = json!({"domain": {"devices": {}, "resources": {"requests": {"memory": "64Mi"}}}});
    cluster.apply(&json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "unlabelled", "namespace": namespace},
        "spec": {"runStrategy": "Halted", "template": {"spec": devices}},
    }));
}

/// The guest writes something else than before.
#[track_caller]
fn write(vm: &Vm, at: u32) {
    vm.guest().sh(&format!("head -c 300000 /dev/urandom | dd of=/dev/vda bs=64k seek={at} conv=fsync 2>/dev/null"));
}

/// Gives the pods a mover, as administrators do.
#[track_caller]
fn put_mover(cluster: &Cluster, plugin: &Plugin) {
    let file = |name: &str| format!("--from-file={}", plugin.folder().join(name).display());
    let (document, module, secret) = (file("s3.yaml"), file("s3.wasm"), file("secret-key"));
    cluster.kubectl(&["create", "configmap", PLUGINS, "--namespace", NAMESPACE, &document, &module]);
    cluster.kubectl(&["create", "secret", "generic", PLUGINS, "--namespace", NAMESPACE, &secret]);
}

/// Writes documents into a folder, and makes the `ConfigMap` of them.
#[track_caller]
fn put_policies(cluster: &Cluster, folder: &Path, documents: [(&str, String); 2]) {
    let [first, second] = documents.map(|(name, text)| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        format!("--from-file={}", file.display())
    });
    cluster.kubectl(&["create", "configmap", POLICIES, "--namespace", NAMESPACE, &first, &second]);
}

/// That a document's standing names what is wrong with it.
#[track_caller]
fn assert_says(standing: &Value, begins: &str) {
    let says = standing["message"].as_str().unwrap();
    assert!(says.starts_with(begins), "{says}");
}

/// Edits the policies with an editor that does this.
#[track_caller]
fn edit(cluster: &Cluster, script: &str) {
    let mut kubectl = cluster.kubectl_command();
    kubectl.args(["edit", "configmap", POLICIES, "--namespace", NAMESPACE]);
    remora_tests::run(kubectl.env("KUBE_EDITOR", format!("sed -i '{script}'"))).ok();
}

/// The objects that the test has made beside its namespace, which go when this is dropped.
struct Removed<'cluster>(&'cluster Cluster);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        for (kind, name) in [("configmap", POLICIES), ("configmap", PLUGINS), ("secret", PLUGINS)] {
            self.0.try_kubectl(&["delete", kind, name, "--namespace", NAMESPACE, "--ignore-not-found"]);
        }
    }
}

/// What becomes of a machine by the policies.
struct Policies<'test> {
    product: &'static Product,
    vm: &'test Vm<'static>,
}

impl Policies<'_> {
    fn cluster(&self) -> &'static Cluster {
        self.product.cluster()
    }

    /// What the agent of the node says of a document once it stands so, and is another version than `before`.
    #[track_caller]
    fn stands(&self, document: &str, state: &str, before: Option<&Value>) -> Value {
        let of = |node: &Value| {
            let all = node["status"]["policies"].as_array();
            all.and_then(|all| all.iter().find(|one| one["file"] == document).cloned()).unwrap_or_default()
        };
        let stands = |node: Option<&Value>| {
            let one = node.map(of).unwrap_or_default();
            one["state"] == state && before.is_none_or(|before| one["desiredDigest"] != before["desiredDigest"])
        };
        let (name, what) = (self.cluster().node_name(), format!("{document} is not {state}"));
        of(&self.cluster().wait_for("agentnode", "", name, &what, SOON, stands).unwrap())
    }

    fn runs(&self) -> Vec<Value> {
        self.cluster().list("backuprun", self.vm.namespace(), "remora.dev/policy=each-minute")
    }

    /// Waits for a run that a policy asks for from now on; gives its status once it is complete.
    #[track_caller]
    fn next_run(&self) -> Value {
        let name = |run: &Value| run["metadata"]["name"].as_str().unwrap().to_owned();
        let before: Vec<_> = self.runs().iter().map(name).collect();
        let mut next = None;
        remora_tests::wait_until("no policy asks for a run", SOON, || {
            next = self.runs().iter().map(name).find(|run| !before.contains(run));
            next.is_some()
        });
        self.product.wait_for_run(self.vm, &next.unwrap(), |status| is_true(status, "Complete"))
    }

    /// Waits until the point of a run was read back, as the policy asks for of the first.
    #[track_caller]
    fn wait_until_one_is_verified(&self) {
        let verified = |run: &Value| run["spec"]["verify"] == "All" && is_true(&run["status"], "Verified");
        remora_tests::wait_until("no point is verified", SOON, || self.runs().iter().any(verified));
    }

    #[track_caller]
    fn wait_until_all_have_ended(&self) {
        let ended = |run: &Value| is_true(&run["status"], "Complete") || is_true(&run["status"], "Failed");
        remora_tests::wait_until("runs do not end", SOON, || self.runs().iter().all(ended));
    }
}
