//! Restores from what is asked for to the end. The tests play the kubelet, who starts workers and removes them, and the
//! agents, whose word it is that all is written.

use bytes::Bytes;
use remora_core::point::{Decision, DiskIdentity, Quiesced};
use remora_core::ports::{DiskIndex, DiskReads, Mover, NewDisk, NewPoint};
use remora_core::{BLOCK_SIZE, DiskName, ErrorKind, LineageId, VmName};
use remora_tests::{Answer, wait_until};
use remora_vault::{Keyring, Location, Passphrase, Secret, Tenant, VaultOptions};
use serde_json::{Value, json};

use super::cluster::{SOON, Shop};
use super::worker::Worker;
use crate::says;

const AUDIENCE: Option<&str> = Some("remora-controller");

/// A shop with a point of its machine, of one disk `root` of one block, in the administrators' repository.
struct Scene {
    shop: Shop,
    point: String,
}

/// A restore of a shop.
struct Restore<'a> {
    shop: &'a Shop,
    name: &'static str,
}

impl Scene {
    fn new() -> Self {
        let shop = Shop::open();
        // Pods want one; nobody makes it here.
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        shop.cluster.api.create(&shop.core("serviceaccounts"), &account);
        let point = make_point(&shop, &shop.namespace, &definition());
        Self { shop, point }
    }

    fn restore(&self, name: &'static str, target: &Value) -> Restore<'_> {
        self.restore_of(name, &self.point, target)
    }

    fn restore_of(&self, name: &'static str, point: &str, target: &Value) -> Restore<'_> {
        restore(&self.shop, name, point, target)
    }
}

/// The machine of a shop, with its claim, as its point has it.
fn definition() -> Value {
    let claim = json!({
        "metadata": {"name": "root"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let volume = json!({"name": "root", "persistentVolumeClaim": {"claimName": "root"}});
    let spec = json!({"runStrategy": "Always", "template": {"spec": {"volumes": [volume]}}});
    let machine = json!({"metadata": {"name": "web"}, "spec": spec});
    json!({"virtualMachine": machine, "persistentVolumeClaims": [claim]})
}

/// Asks for a restore.
fn restore<'a>(shop: &'a Shop, name: &'static str, point: &str, target: &Value) -> Restore<'a> {
    let mut spec = json!({"point": point, "repository": {"name": "offsite", "namespace": "remora"}});
    spec.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
    let metadata = json!({"name": name});
    let run = json!({"apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun", "metadata": metadata, "spec": spec});
    shop.cluster.api.create(&shop.list("remora.dev/v1alpha1", "restoreruns"), &run).ok();
    Restore { shop, name }
}

/// In a cluster without KubeVirt: a machine cannot be had, and that is said before anything is written. Claims can.
pub(super) fn without_kubevirt_disks_go_to_claims_and_a_machine_is_refused(shop: &Shop) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    shop.cluster.api.create(&shop.core("serviceaccounts"), &account);
    let point = make_point(shop, &shop.namespace, &definition());
    let run = restore(shop, "machine", &point, &json!({"virtualMachine": {"name": "copy"}}));
    let message = run.waits_for("Failed", "NoKubeVirt");
    assert!(message.contains("Install KubeVirt 1.8") && message.contains("restore the disks to claims"), "{message}");
    shop.tells("RestoreRun", "machine", "NoKubeVirt");
    wait_until("the finalizer stays", SOON, || run.is_done());
    let list = |plural| shop.names(&shop.core(plural));
    assert_eq!((list("persistentvolumeclaims"), list("pods"), list("secrets")), (vec![], vec![], vec![]));
    restore(shop, "claims", &point, &to("copy")).worker().runs();
}

/// A point of machine `web` of a namespace, by the tenant of a namespace.
fn make_point(shop: &Shop, of: &str, definition: &Value) -> String {
    let place = format!("file://{}/repository", shop.cluster.controller.folder().display());
    let making = async {
        let secret = Secret::Passphrase(Passphrase::new(b"correct horse battery staple".to_vec()));
        let keyring = Keyring::open(&place.parse::<Location>().unwrap(), &secret).await.unwrap();
        let tenant: Tenant = shop.namespace.parse().unwrap();
        let added = keyring.add_tenant(&tenant).await;
        assert!(added.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Exists), "{added:?}");
        let vault = keyring.vault(&tenant, VaultOptions::default()).await.unwrap();
        let time = jiff::Timestamp::now();
        let identity = DiskIdentity {
            vm_uuid: "u".into(),
            path: format!("{}/root", shop.namespace),
            inode: None,
            data_file: None,
        };
        let disk = NewDisk {
            name: DiskName::new("root").unwrap(),
            size: BLOCK_SIZE,
            identity,
            lineage: LineageId::random(),
            checkpoint: None,
            instance: None,
            read_in_full: time,
            decision: Decision::Full,
            reason: "the first".into(),
        };
        let point = NewPoint {
            vm: VmName::new(format!("{of}/web")).unwrap(),
            time,
            parent: None,
            quiesced: Quiesced::Skipped,
            definition: definition.to_string(),
            tool: "tests".into(),
            origin: None,
            disks: vec![disk],
        };
        let writer = vault.begin(point).await.unwrap();
        writer.write(DiskIndex(0), 0, Bytes::from(vec![1; BLOCK_SIZE as usize])).await.unwrap();
        writer.commit(&[DiskReads::default()]).await.unwrap().id.to_string()
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(making)
}

impl Restore<'_> {
    fn path(&self) -> String {
        format!("{}/{}", self.shop.list("remora.dev/v1alpha1", "restoreruns"), self.name)
    }

    fn get(&self) -> Value {
        self.shop.cluster.api.get(&self.path())
    }

    #[track_caller]
    fn waits_for(&self, kind: &str, reason: &str) -> String {
        let mut said = Value::Null;
        wait_until(format_args!("{} does not say {kind}={reason}", self.path()), SOON, || {
            said = remora_tests::condition(&self.get(), kind).unwrap_or_default();
            said["reason"] == reason
        });
        said["message"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until it has failed for that reason, with these words; an event says so too.
    #[track_caller]
    fn fails(&self, reason: &str, words: &str) {
        says(&self.waits_for("Failed", reason), words);
        self.shop.tells("RestoreRun", self.name, reason);
    }

    fn worker(&self) -> Worker<'_> {
        Worker { shop: self.shop, run: self.get() }
    }

    /// What the agent of a node writes into the status.
    fn write(&self, node: &str, status: &Value) -> Answer {
        let token = self.shop.cluster.agent(node, None);
        self.shop.cluster.api.merge_as(&token, &format!("{}/status", self.path()), &json!({"status": status}))
    }

    /// The agent of node `one` claims it.
    #[track_caller]
    fn claim(&self) {
        self.waits_for("Assigned", "Assigned");
        let since = "2026-01-01T00:00:00Z";
        self.write("one", &json!({"agent": self.shop.cluster.agent_uid("one"), "heartbeat": 1, "startTime": since}))
            .ok();
        self.shop.cluster.beats(&self.path());
    }

    /// Its conditions with one more.
    fn with(&self, kind: &str, status: &str, reason: &str) -> Value {
        let mut conditions = self.get()["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let since = "2026-01-01T00:00:00Z";
        conditions.push(json!({"type": kind, "status": status, "reason": reason, "message": "So it is.", "lastTransitionTime": since}));
        json!({"conditions": conditions})
    }

    fn is_done(&self) -> bool {
        self.get()["metadata"]["finalizers"].is_null()
    }
}

fn to(claim: &str) -> Value {
    json!({"disks": [{"disk": "root", "claim": claim}]})
}

/// The claims of a shop, after whoever protects them from going has let go.
fn claims(shop: &Shop) -> Vec<String> {
    let list = shop.core("persistentvolumeclaims");
    for claim in shop.cluster.api.get(&list)["items"].as_array().unwrap() {
        if !claim["metadata"]["deletionTimestamp"].is_null() {
            let path = format!("{list}/{}", claim["metadata"]["name"].as_str().unwrap());
            shop.cluster.api.merge(&path, &json!({"metadata": {"finalizers": null}}));
        }
    }
    shop.names(&list)
}

#[test]
pub(super) fn a_restore_has_a_claim_and_a_worker_made_and_leaves_the_claim() {
    let scene = Scene::new();
    let (shop, cluster) = (&scene.shop, scene.shop.cluster);
    let run = scene.restore("run", &to("copy"));
    let worker = run.worker().runs();
    let spec = &worker["spec"];
    assert_eq!(
        (&spec["automountServiceAccountToken"], &spec["securityContext"]["runAsUser"]),
        (&json!(false), &json!(107))
    );
    assert_eq!(spec["containers"][0]["image"], "remora:tests");
    let claim = cluster.api.get(&format!("{}/copy", shop.core("persistentvolumeclaims")));
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi", "{claim:#}");
    assert!(claim["metadata"]["ownerReferences"].is_null(), "{claim:#}");
    run.claim();
    assert_eq!(run.get()["status"]["node"], "one");

    let ask = |node: &str| {
        let agent = cluster.agent(node, AUDIENCE);
        cluster.controller.restore_keys(&cluster.api, Some(&agent), &shop.namespace, "run")
    };
    let given = ask("one");
    assert_eq!((given.code, &given.body["worker"]["address"]), (200, &json!("192.0.2.7:8444")), "{given:?}");
    assert!(given.body["worker"]["key"].as_str().unwrap().contains("PRIVATE KEY") && given.body["grant"].is_string());
    assert_eq!((ask("two").code, &ask("two").body["reason"]), (403, &json!("NotThisNode")));

    run.write("one", &run.with("Written", "True", "Verified")).ok();
    run.worker().goes();
    run.waits_for("Complete", "Restored");
    wait_until("the finalizer stays", SOON, || run.is_done());
    assert!(claims(shop).contains(&"copy".to_owned()) && shop.made().is_empty(), "{:?}", shop.made());
    assert_eq!(ask("one").code, 409);
    for reason in ["Assigned", "Restored"] {
        shop.tells("RestoreRun", "run", reason);
    }
}

#[test]
fn a_machine_that_starts_with_a_claim_that_is_being_written_ends_the_restore() {
    let scene = Scene::new();
    let shop = &scene.shop;
    let run = scene.restore("run", &to("copy"));
    run.worker().runs();
    run.claim();
    let instance = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "db"},
        "spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "copy"}}]},
    });
    shop.cluster.api.create(&shop.list("kubevirt.io/v1", "virtualmachineinstances"), &instance).ok();
    says(&run.waits_for("Failed", "ClaimInUse"), "copy is used by VirtualMachineInstance db");
    run.worker().goes();
    wait_until("something half-made is left", SOON, || {
        claims(shop) == ["root"] && shop.made().is_empty() && run.is_done()
    });
}

#[test]
fn of_two_restores_to_one_claim_the_older_goes_on_and_the_other_leaves_nothing() {
    let scene = Scene::new();
    let shop = &scene.shop;
    let [first, second] = ["first", "second"].map(|name| scene.restore(name, &to("copy")));
    says(&second.waits_for("Failed", "ClaimInUse"), "RestoreRun first was first to write PersistentVolumeClaim copy");
    wait_until("something of the second is left", SOON, || {
        claims(shop);
        second.is_done()
    });
    first.worker().runs();
    first.claim();
    let claim = shop.cluster.api.get(&format!("{}/copy", shop.core("persistentvolumeclaims")));
    assert_eq!(claim["metadata"]["labels"]["remora.dev/run"], first.get()["metadata"]["uid"], "{claim:#}");

    // Once it has ended, the claim may be restored to again.
    first.write("one", &first.with("Written", "True", "Verified")).ok();
    first.worker().goes();
    first.waits_for("Complete", "Restored");
    scene.restore("third", &to("copy")).worker().runs();
}

#[test]
fn what_cannot_be_restored_fails_with_the_reason_and_leaves_nothing() {
    let scene = Scene::new();
    let shop = &scene.shop;
    // The machine runs with it.
    let used = scene.restore("used", &to("root"));
    used.fails("ClaimInUse", "VirtualMachineInstance web. Stop what uses it");
    let none = scene.restore("none", &json!({"disks": [{"disk": "swap", "claim": "copy"}]}));
    none.fails("NoSuchDisk", "it has root. Create another RestoreRun");
    scene.restore_of("gone", "0011223344556677-9", &to("copy")).fails("NoSuchPoint", "Create another RestoreRun");
    scene.restore_of("word", "yesterday", &to("copy")).fails("NoSuchPoint", "16 hexadecimal digits");
    // Not of this namespace's machines, whoever could read it.
    let theirs = make_point(shop, "bank", &json!({}));
    scene.restore_of("theirs", &theirs, &to("copy")).fails("NoSuchPoint", "Create another RestoreRun");
    let taken = scene.restore("taken", &json!({"virtualMachine": {"name": "web"}}));
    taken.fails("NameTaken", "VirtualMachine web already. Delete it, or create a RestoreRun with another name");
    let twin = scene.restore("twin", &json!({"virtualMachine": {"name": "twin", "keepIdentity": true}}));
    twin.fails("OriginalExists", "create a RestoreRun without keepIdentity");
    let class = json!({"disks": [{"disk": "root", "claim": "copy", "storageClassName": "thick"}]});
    scene.restore("class", &class).fails("NoStorageClass", "one of: thin");
    shop.uses_up("pods");
    let refused = scene.restore("refused", &to("copy"));
    refused.fails("WorkerRefused", "exceeded quota");
    wait_until("something half-made is left", SOON, || {
        claims(shop) == ["root"] && shop.made().is_empty() && refused.is_done()
    });
}

#[test]
fn a_claim_that_is_too_small_is_refused_with_what_to_do_and_stays_as_it_was() {
    let scene = Scene::new();
    let (shop, api) = (&scene.shop, &scene.shop.cluster.api);
    let list = shop.core("persistentvolumeclaims");
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Ki"}}});
    let small =
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "small"}, "spec": spec});
    api.create(&list, &small).ok();
    let path = format!("{list}/small");
    let has = |size: &str| {
        let status = json!({"phase": "Bound", "capacity": {"storage": size}});
        api.merge(&format!("{path}/status"), &json!({"status": status})).ok()
    };
    let before = has("1Ki");
    let run = scene.restore("run", &to("small"));
    let message = run.waits_for("Failed", "ClaimTooSmall");
    let sizes = format!("PersistentVolumeClaim small has 1024 bytes, and disk root has {BLOCK_SIZE}.");
    for words in [sizes.as_str(), "Expand it, or restore to a claim of another name", "create another RestoreRun"] {
        assert!(message.contains(words), "wanted {words:?} in {message:?}");
    }
    shop.tells("RestoreRun", "run", "ClaimTooSmall");
    wait_until("the finalizer stays", SOON, || run.is_done());
    assert_eq!((claims(shop), shop.made()), (vec!["root".to_owned(), "small".to_owned()], vec![]));
    assert_eq!(shop.names(&shop.core("pods")), [""; 0]);
    assert_eq!(api.get(&path)["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);

    // Expanded, it takes another run.
    has("1Gi");
    scene.restore("again", &to("small")).worker().runs();
}

#[test]
pub(super) fn a_restore_that_fails_or_is_cancelled_takes_its_claim_with_it() {
    let scene = Scene::new();
    let shop = &scene.shop;
    for name in ["failed", "cancelled", "deleted", "evicted"] {
        let run = scene.restore(name, &to("copy"));
        run.worker().runs();
        run.claim();
        assert!(claims(shop).contains(&"copy".to_owned()));
        let reason = match name {
            "failed" => {
                run.write("one", &run.with("Written", "False", "NoSpace")).ok();
                "NoSpace"
            }
            "cancelled" => {
                shop.cluster.api.merge(&run.path(), &json!({"spec": {"cancel": true}})).ok();
                "Cancelled"
            }
            "evicted" => {
                let status = json!({"status": {"phase": "Failed", "reason": "Evicted", "containerStatuses": null}});
                shop.cluster.api.merge(&format!("{}/status", run.worker().path()), &status).ok();
                "WorkerLost"
            }
            _ => {
                shop.cluster.api.delete(&run.path()).ok();
                ""
            }
        };
        if reason.is_empty() {
            let path = run.worker().path();
            wait_until("it is not gone", SOON, || {
                claims(shop);
                shop.cluster.api.delete(&format!("{path}?gracePeriodSeconds=0"));
                shop.cluster.api.look(&run.path()).code == 404
            });
        } else {
            run.waits_for("Failed", reason);
            run.worker().goes();
            wait_until("something is left", SOON, || {
                claims(shop);
                run.is_done()
            });
        }
        assert_eq!(claims(shop), ["root"], "{name}");
    }
}

#[test]
pub(super) fn a_machine_is_made_when_its_disks_are_written() {
    let scene = Scene::new();
    let shop = &scene.shop;
    let run = scene.restore("run", &json!({"virtualMachine": {"name": "copy", "start": true}}));
    run.worker().runs();
    run.claim();
    let machines = shop.list("kubevirt.io/v1", "virtualmachines");
    assert_eq!(shop.names(&machines), ["web"], "it is made too early");
    run.write("one", &run.with("Written", "True", "Verified")).ok();
    run.worker().goes();
    assert!(run.waits_for("Complete", "Restored").contains("VirtualMachine copy"));
    let spec = shop.cluster.api.get(&format!("{machines}/copy"))["spec"].take();
    assert_eq!(spec["runStrategy"], "Always", "{spec:#}");
    let volume = json!({"name": "root", "persistentVolumeClaim": {"claimName": "copy-root"}});
    assert_eq!(spec["template"]["spec"]["volumes"], json!([volume]));
}

/// What is written by then stays: it can be made a machine of by hand.
#[test]
fn a_machine_that_the_cluster_refuses_leaves_the_claims_and_one_whose_claims_it_refuses_leaves_nothing() {
    let scene = Scene::new();
    let (shop, machines) = (&scene.shop, scene.shop.list("kubevirt.io/v1", "virtualmachines"));
    let run = scene.restore("machine", &json!({"virtualMachine": {"name": "copy"}}));
    run.worker().runs();
    run.claim();
    shop.uses_up("virtualmachines.kubevirt.io");
    run.write("one", &run.with("Written", "True", "Verified")).ok();
    run.worker().goes();
    let message = run.waits_for("Failed", "MachineRefused");
    for words in ["quota", "create another RestoreRun", "All disks are written, and their claims stay."] {
        assert!(message.contains(words), "wanted {words:?} in {message:?}");
    }
    shop.tells("RestoreRun", "machine", "MachineRefused");
    wait_until("the finalizer stays", SOON, || run.is_done());
    assert_eq!((claims(shop), shop.made()), (vec!["copy-root".to_owned(), "root".to_owned()], vec![]));
    assert_eq!(shop.names(&machines), ["web"]);

    shop.uses_up("persistentvolumeclaims");
    let run = scene.restore("claims", &to("more"));
    assert!(run.waits_for("Failed", "ClaimRefused").contains("quota"));
    shop.tells("RestoreRun", "claims", "ClaimRefused");
    wait_until("the finalizer stays", SOON, || run.is_done());
    assert_eq!((claims(shop), shop.made()), (vec!["copy-root".to_owned(), "root".to_owned()], vec![]));
}

#[test]
fn the_controller_makes_and_removes_no_pods_but_workers_without_privilege() {
    let scene = Scene::new();
    let (shop, api) = (&scene.shop, &scene.shop.cluster.api);
    let worker = scene.restore("run", &to("copy")).worker().runs();
    let controller = api.token("remora", "remora-controller", None, None);
    // A worker of another name would do; so much as one thing more is refused.
    let mut like = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "remora-worker-more"}});
    like["metadata"]["labels"] = worker["metadata"]["labels"].clone();
    like["spec"] = worker["spec"].clone();
    like["spec"]["nodeName"] = Value::Null;
    let with = |path: &str, value: Value| {
        let mut pod = like.clone();
        let (parent, field) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[field] = value;
        pod
    };
    let host = json!({"name": "host", "hostPath": {"path": "/"}});
    let volumes = worker["spec"]["volumes"].as_array().unwrap().iter().cloned().chain([host]).collect::<Vec<_>>();
    let mut first = worker["spec"]["containers"][0].clone();
    first["name"] = json!("first");
    let (unconfined, of_host) = (json!({"type": "Unconfined"}), json!({"type": "spc_t"}));
    let mut early = with("/spec/hostPID", json!(true));
    early["metadata"]["name"] = json!("remora-worker-early");
    wait_until("the policy is not in force", SOON, || {
        api.create_as(&controller, &shop.core("pods"), &early).code == 422
    });
    for (path, value) in [
        ("/spec/automountServiceAccountToken", json!(true)),
        ("/spec/hostNetwork", json!(true)),
        ("/spec/hostPID", json!(true)),
        ("/spec/hostIPC", json!(true)),
        ("/spec/securityContext", Value::Null),
        ("/spec/securityContext/runAsNonRoot", Value::Null),
        ("/spec/securityContext/runAsUser", json!(0)),
        ("/spec/securityContext/seccompProfile", Value::Null),
        ("/spec/securityContext/seccompProfile", unconfined.clone()),
        ("/spec/securityContext/appArmorProfile", unconfined.clone()),
        ("/spec/securityContext/seLinuxOptions", of_host.clone()),
        ("/spec/volumes", json!(volumes)),
        ("/spec/initContainers", json!([first])),
        // What the pod says, its container says otherwise.
        ("/spec/containers/0/securityContext", Value::Null),
        ("/spec/containers/0/securityContext/runAsNonRoot", json!(false)),
        ("/spec/containers/0/securityContext/runAsUser", json!(0)),
        ("/spec/containers/0/securityContext/allowPrivilegeEscalation", json!(true)),
        ("/spec/containers/0/securityContext/allowPrivilegeEscalation", Value::Null),
        ("/spec/containers/0/securityContext/capabilities", Value::Null),
        ("/spec/containers/0/securityContext/capabilities", json!({"drop": ["NET_RAW"]})),
        ("/spec/containers/0/securityContext/capabilities/add", json!(["SYS_ADMIN"])),
        ("/spec/containers/0/securityContext/seccompProfile", unconfined.clone()),
        ("/spec/containers/0/securityContext/appArmorProfile", unconfined),
        ("/spec/containers/0/securityContext/seLinuxOptions", of_host),
        ("/spec/containers/0/ports/0/hostPort", json!(8444)),
    ] {
        let refused = api.create_as(&controller, &shop.core("pods"), &with(path, value));
        assert!(refused.code != 201, "it may set {path}");
        says(&refused.refused(), "without any privilege only");
    }
    let level = with("/spec/securityContext/seLinuxOptions", json!({"level": "s0:c26,c5"}));
    api.create_as(&controller, &format!("{}?dryRun=All", shop.core("pods")), &level).ok();
    let named = api.create_as(&controller, &shop.core("pods"), &with("/metadata/name", json!("web-0")));
    says(&named.refused(), "workers of runs only");
    let theirs = with("/metadata/name", json!("web-0"));
    api.create(&shop.core("pods"), &theirs).ok();
    let removed = api.delete_as(&controller, &format!("{}/web-0", shop.core("pods")));
    says(&removed.refused(), "workers of runs only");
    api.create_as(&controller, &shop.core("pods"), &like).ok();
}

#[test]
fn an_agent_says_how_the_writing_goes_and_nothing_else() {
    let scene = Scene::new();
    let run = scene.restore("run", &to("copy"));
    run.worker().runs();
    run.waits_for("Assigned", "Assigned");
    wait_until("the policy is not in force", SOON, || run.write("two", &json!({"heartbeat": 0})).code == 422);
    says(&run.write("two", &json!({"heartbeat": 1})).refused(), "the restores of its own node only");
    says(&run.write("one", &json!({"node": "two"})).refused(), "which node has a restore is the controller's");
    for kind in ["Complete", "Failed"] {
        says(&run.write("one", &run.with(kind, "True", "R")).refused(), "all conditions but Claimed and Written");
    }
    says(&run.write("one", &json!({"completionTime": "2026-01-01T00:00:00Z"})).refused(), "when a restore has ended");
    let agent = scene.shop.cluster.agent("one", None);
    let cancel = json!({"spec": {"cancel": true}});
    says(&scene.shop.cluster.api.merge_as(&agent, &run.path(), &cancel).refused(), "the status of restores only");
    let controller = scene.shop.cluster.api.token("remora", "remora-controller", None, None);
    let forged = json!({"status": run.with("Written", "True", "Verified")});
    let status = format!("{}/status", run.path());
    says(&scene.shop.cluster.api.merge_as(&controller, &status, &forged).refused(), "whether a restore is written");
    run.claim();
    run.write("one", &run.with("Written", "False", "NoSpace")).ok();
    run.worker().goes();
    run.waits_for("Failed", "NoSpace");
    says(&run.write("one", &json!({"heartbeat": 9})).refused(), "a restore that has ended stays as it is");
}
