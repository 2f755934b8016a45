//! remora in the cluster, as it is deployed: its image, `deploy/base`, and a store that its pods reach.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::thread;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};

use crate::cache::cached;
use crate::process::{Must, run, wait_until};
use crate::remora::{PASSPHRASE, Remora, program};
use crate::s3::S3;

use super::objects::is;
use super::{Cluster, Pod, Vm};

/// The namespace that it is deployed to.
pub const NAMESPACE: &str = "remora";

const PROGRAMS: [&str; 4] = ["remora", "remora-agent", "remora-controller", "remora-plugin-host"];
/// Not `latest`, which would be pulled always.
const TAG: &str = "test";
/// How long its pods may take to be ready on a busy machine.
const READY: Duration = Duration::from_mins(15);
/// How long a run may take.
const RUN: Duration = Duration::from_mins(20);

/// Whose runs may be disturbed: see [`Product::alone`].
static DISTURBED: RwLock<()> = RwLock::new(());

/// remora in a cluster.
pub struct Product {
    cluster: &'static Cluster,
    s3: S3,
}

impl Product {
    /// The one of the shared cluster, deployed when it is first asked for.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Product> = OnceLock::new();
        SHARED.get_or_init(|| Self::deploy(Cluster::shared()))
    }

    fn deploy(cluster: &'static Cluster) -> Self {
        let folder = tempfile::tempdir().must("make a folder for what is deployed");
        cluster.import_image(&image(folder.path()));
        run(Command::new("cp").arg("-r").arg(deploy().join("base")).arg(folder.path().join("base"))).ok();
        // Tests stop the agent's process for as long as they need: the kubelet is not to take it for dead, and once it was ready it
        // is, for hours: a run is given to no other.
        let agent = "/spec/template/spec/containers/0";
        let patient = json!([
            {"op": "remove", "path": format!("{agent}/livenessProbe")},
            {"op": "add", "path": format!("{agent}/readinessProbe/failureThreshold"), "value": 1000},
        ]);
        let overlay = json!({
            "resources": ["base"], "images": [{"name": "remora", "newTag": TAG}],
            "patches": [{"target": {"kind": "DaemonSet", "name": "remora-agent"}, "patch": patient.to_string()}],
        });
        fs::write(folder.path().join("kustomization.yaml"), overlay.to_string()).must("write what is deployed");
        let path = folder.path().to_string_lossy().into_owned();
        cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "--kustomize", &path]);
        let product = Self { cluster, s3: Self::store(cluster) };
        product.wait_for_pods();
        product
    }

    /// As long as it is held, nobody disturbs the agent or what all machines need.
    pub fn undisturbed() -> RwLockReadGuard<'static, ()> {
        DISTURBED.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As long as it is held, nobody else's runs are there to be disturbed.
    pub fn alone() -> RwLockWriteGuard<'static, ()> {
        DISTURBED.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster that it is deployed to.
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// Waits until its controller and the agents of the nodes are ready.
    #[track_caller]
    pub fn wait_for_pods(&self) {
        let available = |object: Option<&Value>| object.is_some_and(|one| is(one, "Available", "True"));
        let what = "the controller is not ready";
        self.cluster.wait_for("deployment", NAMESPACE, "remora-controller", what, READY, available);
        let ready = |object: Option<&Value>| {
            let number = |field: &str| object.and_then(|one| one["status"][field].as_u64()).unwrap_or_default();
            number("numberReady") > 0 && number("numberReady") == number("desiredNumberScheduled")
        };
        self.cluster.wait_for("daemonset", NAMESPACE, "remora-agent", "an agent is not ready", READY, ready);
    }

    /// Waits until the agent of a node is ready, and not one that was killed just before: a pod is called ready for a moment longer
    /// than its process lives.
    #[track_caller]
    pub fn wait_for_agent(&self, node: &str) {
        wait_until(format_args!("no agent is ready on {node}"), READY, || {
            let is_ready = |pod: &Pod<'_>| {
                let object = pod.object();
                object["spec"]["nodeName"] == node && is(object, "Ready", "True") && pod.runs("agent")
            };
            self.cluster.pods(NAMESPACE, "app.kubernetes.io/name=remora-agent").iter().any(is_ready)
        });
    }

    /// Makes a repository of the administrators that serves a namespace, in a bucket of its own, and waits until it is
    /// ready. Gives the command line that opens it.
    #[track_caller]
    pub fn repository(&self, name: &str, serves: &str, folder: &Path) -> Remora {
        self.repository_in(&self.s3, name, serves, folder)
    }

    /// The same, in a store of the caller's that pods reach.
    #[track_caller]
    pub fn repository_in(&self, store: &S3, name: &str, serves: &str, folder: &Path) -> Remora {
        self.repository_at(store, store.address(), name, serves, folder)
    }

    /// The same, in a store that pods reach at another address: that of a [`crate::Meddler`]. The command line does not.
    #[track_caller]
    pub fn repository_at(&self, store: &S3, address: SocketAddr, name: &str, serves: &str, folder: &Path) -> Remora {
        let bucket = store.bucket(name);
        let credentials = fs::read_to_string(store.credentials()).must("read the credentials");
        self.make_secret(&format!("{name}-credentials"), "cloud", &credentials);
        let secret = json!({"name": format!("{name}-credentials")});
        let url = store.url_at(&bucket, address);
        self.make_repository(name, serves, &json!({"url": url, "credentialsSecret": secret}));
        store.owner(Remora::bare(folder, store.url(&bucket))).with("REMORA_PASSPHRASE", PASSPHRASE)
    }

    /// Makes one in the store of a mover, `plugin:`, whose document the pods have.
    #[track_caller]
    pub fn make_repository_of(&self, url: &str, name: &str, serves: &str) {
        self.make_repository(name, serves, &json!({"url": url}));
    }

    /// Makes one with the usual passphrase, and waits until it is ready; `spec` has more of its fields.
    #[track_caller]
    fn make_repository(&self, name: &str, serves: &str, spec: &Value) {
        let passphrase = format!("{name}-passphrase");
        self.make_secret(&passphrase, "passphrase", PASSPHRASE);
        let mut object = json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "Repository",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"allowedNamespaces": [serves], "passphraseSecret": {"name": passphrase}},
        });
        add_fields(&mut object["spec"], spec);
        self.cluster.apply(&object);
        let ready = |object: Option<&Value>| object.is_some_and(|one| is(one, "Ready", "True"));
        self.cluster.wait_for("repository", NAMESPACE, name, "the repository is not ready", READY, ready);
    }

    /// A store that pods reach, until it is dropped or the process ends: it goes with the thread that has started it, and
    /// those of tests end.
    pub fn store(cluster: &Cluster) -> S3 {
        let (address, (sender, started)) = (cluster.host_address(), mpsc::channel());
        thread::spawn(move || {
            sender.send(S3::start_at(address)).ok();
            loop {
                thread::park();
            }
        });
        started.recv().must("have a store")
    }

    fn make_secret(&self, name: &str, key: &str, value: &str) {
        self.cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
            "data": {key: Base64::encode_string(value.as_bytes())},
        }));
    }

    /// Backs a machine up to a repository of the administrators. Gives the run's status once it has a point.
    #[track_caller]
    pub fn back_up(&self, vm: &Vm, repository: &str, run: &str) -> Value {
        self.start_run(vm, repository, run, &json!({}));
        self.wait_for_run(vm, run, |status| is_true(status, "Complete"))
    }

    /// Starts a run; `spec` has more of its fields.
    #[track_caller]
    pub fn start_run(&self, vm: &Vm, repository: &str, run: &str, spec: &Value) {
        let mut object = json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun",
            "metadata": {"name": run, "namespace": vm.namespace()},
            "spec": {
                "virtualMachine": vm.name(),
                "repository": {"name": repository, "namespace": NAMESPACE},
            },
        });
        add_fields(&mut object["spec"], spec);
        self.cluster.apply(&object);
    }

    /// Waits until the status of a run is as wanted; panics with it if the run fails before.
    #[track_caller]
    pub fn wait_for_run(&self, vm: &Vm, run: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let ended = |object: Option<&Value>| {
            object.is_some_and(|one| ready(&one["status"]) || is_true(&one["status"], "Failed"))
        };
        let found = self.cluster.wait_for("backuprun", vm.namespace(), run, "the run is not as wanted", RUN, ended);
        let status = found.must("have a run")["status"].take();
        assert!(ready(&status), "the run has failed: {status:#}\n{}", self.logs());
        status
    }

    /// What its pods have logged, for messages.
    pub fn logs(&self) -> String {
        let of = |name: &str| {
            let selector = format!("app.kubernetes.io/name={name}");
            let args = ["logs", "--namespace", NAMESPACE, "--selector", &selector, "--tail", "40", "--prefix"];
            let ran = self.cluster.try_kubectl(&args);
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), ran.stderr)
        };
        of("remora-controller") + &of("remora-agent")
    }
}

/// Whether a condition of a status is true.
pub fn is_true(status: &Value, condition: &str) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == condition && one["status"] == "True"))
}

fn add_fields(spec: &mut Value, more: &Value) {
    for (name, value) in more.as_object().must("read fields of a spec") {
        spec[name] = value.clone();
    }
}

/// Makes the image that is deployed, from the programs that the tests have.
fn image(folder: &Path) -> PathBuf {
    let scripts = deploy().join("image");
    let inputs = ["debian", "packages"].map(|name| fs::read(scripts.join(name)).must("read how the image is made"));
    let base = cached("image", &[&inputs[0], &inputs[1]], |into| {
        run(Command::new(scripts.join("debian")).arg(into.join("debian.tar"))).ok();
    });
    let programs = folder.join("programs");
    fs::create_dir(&programs).must("make a folder for the programs");
    for name in PROGRAMS {
        symlink(program(name), programs.join(name)).must("gather the programs");
    }
    let image = folder.join("image.tar");
    let mut build = Command::new(scripts.join("build"));
    build.arg("--programs").arg(programs).arg("--base").arg(base.join("debian.tar"));
    run(build.args(["--name", &format!("docker.io/library/remora:{TAG}")]).arg(&image)).ok();
    image
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}
