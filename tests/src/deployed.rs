//! remora at an API server, as `deploy` has it: its resources, rules and policies, KubeVirt's definitions, a controller, and a
//! repository of the administrators that is ready. Nodes there are none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api_server::{ApiServer, condition};
use crate::controller::Controller;
use crate::process::{Must, run, wait_until};

/// How long what is applied may take to be in force on a busy machine, and the repository to be opened.
const SOON: Duration = Duration::from_mins(10);

/// The namespace of remora.
const NAMESPACE: &str = "remora";

/// The definitions of KubeVirt's that remora needs.
const DEFINITIONS: [&str; 3] = [
    "machines.yaml",
    "backup.kubevirt.io_virtualmachinebackups.yaml",
    "backup.kubevirt.io_virtualmachinebackuptrackers.yaml",
];

/// An API server with remora.
pub struct Deployed {
    /// The API server.
    pub api: ApiServer,
    /// The controller.
    pub controller: Controller,
}

impl Deployed {
    /// The name of the repository.
    pub const REPOSITORY: &str = "offsite";

    /// Deploys it; the controller reaches the API server at `url`.
    pub fn start(api: ApiServer, url: &str) -> Self {
        for name in DEFINITIONS {
            let path = here().join("kubernetes/kubevirt").join(name);
            api.define(&std::fs::read_to_string(&path).must(format_args!("read {}", path.display())));
        }
        let mut kubectl = api.kubectl();
        kubectl.args(["apply", "--server-side", "--kustomize"]);
        run(kubectl.arg(here().join("../deploy/overlays/plain"))).ok();
        let runs = json!({"verb": "list", "group": "remora.dev", "resource": "backupruns"});
        wait_until("remora is not served", SOON, || {
            api.look("/apis/remora.dev/v1alpha1/backupruns").code == 200
                && ["remora-controller", "remora-agent"].iter().all(|account| api.may(account, &runs))
        });
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.org/none",
            "metadata": {"name": "thin", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        });
        api.create("/apis/storage.k8s.io/v1/storageclasses", &class).ok();
        let controller = Controller::start_at(&api, url);
        let deployed = Self { api, controller };
        deployed.make_repository();
        deployed
    }

    fn make_repository(&self) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "passphrase"},
            "stringData": {"passphrase": "correct horse battery staple"},
        });
        self.api.create(&format!("/api/v1/namespaces/{NAMESPACE}/secrets"), &secret).ok();
        let url = format!("file://{}/repository", self.controller.folder().display());
        let repository = json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "Repository", "metadata": {"name": Self::REPOSITORY},
            "spec": {"url": url, "passphraseSecret": {"name": "passphrase"}},
        });
        let list = format!("/apis/remora.dev/v1alpha1/namespaces/{NAMESPACE}/repositories");
        self.api.create(&list, &repository).ok();
        let path = format!("{list}/{}", Self::REPOSITORY);
        let ready = |object: &Value| condition(object, "Ready").is_some_and(|one| one["status"] == "True");
        wait_until("the repository is not opened", SOON, || ready(&self.api.get(&path)));
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
