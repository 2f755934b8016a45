//! Running `remora-controller` beside an API server, under its own ServiceAccount.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::api_server::{ApiServer, free_ports};
use crate::process::{Must, run, wait_until};
use crate::remora::program;

/// How long it may take to come up: it may wait for the lease of one that was killed.
const LIMIT: Duration = Duration::from_mins(2);

/// A running controller. Dropping it kills it.
pub struct Controller {
    folder: tempfile::TempDir,
    keys: u16,
    child: Child,
}

/// What its key service answered.
#[derive(Debug)]
pub struct KeyAnswer {
    /// The status of HTTP.
    pub code: u16,
    /// The keys, or why there are none.
    pub body: Value,
}

impl Controller {
    /// Starts one; `deploy/base/controller.yaml` must be applied.
    #[track_caller]
    pub fn start(server: &ApiServer) -> Self {
        let folder = tempfile::tempdir().must("make the controller's folder");
        let token = server.token("remora", "remora-controller", None, None);
        let kubeconfig = folder.path().join("kubeconfig");
        fs::write(&kubeconfig, server.kubeconfig(&token)).must("write a kubeconfig");
        let [keys, health] = free_ports();
        let log = fs::File::create(folder.path().join("log")).must("open the controller's log");
        let child = Command::new(program("remora-controller"))
            .args(["--instance", "tests", "-v", "--keys", &format!("127.0.0.1:{keys}")])
            .args(["--health", &format!("127.0.0.1:{health}")])
            .env("KUBECONFIG", &kubeconfig)
            .env("TMPDIR", folder.path())
            .env_remove("REMORA_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .must("start remora-controller");
        let controller = Self { folder, keys, child };
        let ready = format!("http://127.0.0.1:{health}/readyz");
        wait_until(format_args!("the controller is not ready: {}", controller.log().display()), LIMIT, || {
            run(Command::new("curl").args(["--silent", "--fail", &ready])).status.success()
        });
        controller
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Asks its key service for the keys of a run, trusting the CA that it published.
    #[track_caller]
    pub fn keys(&self, server: &ApiServer, token: Option<&str>, namespace: &str, name: &str) -> KeyAnswer {
        let published = server.get("/api/v1/namespaces/remora/configmaps/remora-controller-ca");
        let ca = self.folder.path().join("ca.crt");
        fs::write(&ca, published["data"]["ca.crt"].as_str().must("find the CA")).must("write the CA");
        let host = "remora-controller.remora.svc";
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--write-out", "\n%{http_code}", "--cacert"]).arg(ca);
        curl.args(["--resolve", &format!("{host}:{}:127.0.0.1", self.keys)]);
        if let Some(token) = token {
            curl.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        let ran = run(curl.arg(format!("https://{host}:{}/v1/runs/{namespace}/{name}", self.keys))).ok();
        let (body, code) = ran.text().rsplit_once('\n').must("find the status of HTTP");
        KeyAnswer {
            code: code.parse().must("read the status of HTTP"),
            body: serde_json::from_str(body).unwrap_or_default(),
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("the controller's log:\n{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
    }
}
