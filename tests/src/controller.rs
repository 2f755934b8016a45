//! Running `remora-controller` beside an API server, under its own `ServiceAccount`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::config_map::MountedConfigMap;
use crate::ports::free_ports;
use crate::process::{Must, Ran, run, wait_until};
use crate::remora::program;

/// How long it may take to come up: it may wait for the lease of one that was killed.
const LIMIT: Duration = Duration::from_mins(10);

/// What its certificate is for: where the tests reach its keys.
const SERVICE: &str = "localhost";

/// Runs a program until standard input ends, then removes the folder that it had.
const SUPERVISE: &str =
    r#""$@" & read -r _; kill -9 $!; wait; [ -n "${REMORA_TEST_KEEP:-}" ] || rm -rf --one-file-system -- "$TMPDIR""#;

/// A running controller. Dropping it kills it.
pub struct Controller {
    folder: PathBuf,
    keys: u16,
    health: u16,
    arguments: Vec<String>,
    policies: MountedConfigMap,
    /// One for each time it was started; the last one is the one that runs.
    children: Mutex<Vec<Child>>,
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
        Self::start_at(server, &server.url())
    }

    /// The same, of one that reaches the API server at `url`.
    #[track_caller]
    pub fn start_at(server: &ApiServer, url: &str) -> Self {
        Self::start_with(server, url, &[])
    }

    /// The same, with further arguments.
    #[track_caller]
    pub fn start_with(server: &ApiServer, url: &str, further: &[&str]) -> Self {
        wait_for_rights(server);
        // What it runs under removes it: also when this process is killed.
        let folder = tempfile::Builder::new().prefix("remora-controller-").tempdir();
        let folder = folder.must("make the controller's folder").keep();
        let token = folder.join("token");
        write_token(server, &token);
        let user = json!({"tokenFile": token});
        fs::write(folder.join("kubeconfig"), server.kubeconfig_at(url, &user)).must("write a kubeconfig");
        let policies = MountedConfigMap::make(folder.join("policies"));
        let plugins = folder.join("plugins");
        fs::create_dir(&plugins).must("make the folder of plugins");
        let [keys, health] = free_ports();
        let own = [
            "--instance=tests".to_owned(),
            "--image=remora:tests".into(),
            "-v".into(),
            format!("--keys=127.0.0.1:{keys}"),
            format!("--health=127.0.0.1:{health}"),
            format!("--service={SERVICE}"),
            format!("--policies={}", policies.folder().display()),
            format!("--kept={}", folder.join("kept").display()),
            format!("--plugins={}", plugins.display()),
            format!("--state={}", folder.join("state").display()),
        ];
        let arguments = own.into_iter().chain(further.iter().map(|one| (*one).to_owned())).collect();
        let controller = Self { folder, keys, health, arguments, policies, children: Mutex::default() };
        controller.spawn();
        controller
    }

    #[track_caller]
    fn spawn(&self) {
        let log = fs::File::options().create(true).append(true).open(self.log()).must("open the controller's log");
        // It ends when this process does, however that happens: its standard input ends then.
        let child = Command::new("sh")
            .args(["-c", SUPERVISE, "sh"])
            .arg(program("remora-controller"))
            .args(&self.arguments)
            .env("KUBECONFIG", self.folder.join("kubeconfig"))
            .env("TMPDIR", &self.folder)
            .env_remove("REMORA_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .must("start remora-controller");
        self.children().push(child);
        wait_until(format_args!("the controller is not ready: {}", self.log().display()), LIMIT, || {
            self.asked("readyz").status.success()
        });
    }

    /// Kills it, as a node that is lost does, and starts it anew.
    #[track_caller]
    pub fn start_again(&self) {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGKILL).must("kill the controller");
        wait_until("the controller does not end", LIMIT, || !self.asked("healthz").status.success());
        self.spawn();
    }

    /// The folder of plugins.
    pub fn plugins(&self) -> PathBuf {
        self.folder.join("plugins")
    }

    /// The `ConfigMap` of policies.
    pub fn policies(&self) -> &MountedConfigMap {
        &self.policies
    }

    fn children(&self) -> MutexGuard<'_, Vec<Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self, path: &str) -> Ran {
        let url = format!("http://127.0.0.1:{}/{path}", self.health);
        run(Command::new("curl").args(["--silent", "--show-error", "--fail", "--noproxy", "*", &url]))
    }

    /// The value of a metric, with its labels if it has any; none if it is not told of.
    #[track_caller]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let told = self.asked("metrics").ok();
        let mut lines = told.text().lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        lines.next().map(|value| value.parse().must(format_args!("read the value of {name}")))
    }

    /// Its key service.
    pub fn keys_url(&self) -> String {
        format!("https://{SERVICE}:{}", self.keys)
    }

    /// Gives it a new token, as the kubelet does.
    #[track_caller]
    pub fn renew_token(&self, server: &ApiServer) {
        write_token(server, &self.folder.join("token"));
    }

    /// Its process.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let shell = self.children().last().map(Child::id).must("know the controller");
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).must("find the controller");
        let is_it =
            |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("remora-"));
        let pid = children.split_whitespace().find(is_it);
        pid.and_then(|pid| pid.parse().ok()).must(format_args!("find the controller in {children:?}"))
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// A folder that goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Asks its key service for the keys of a run, trusting the CA that it published.
    #[track_caller]
    pub fn keys(&self, server: &ApiServer, token: Option<&str>, namespace: &str, name: &str) -> KeyAnswer {
        self.ask(server, token, &format!("/v1/runs/{namespace}/{name}"))
    }

    /// The same of a restore.
    #[track_caller]
    pub fn restore_keys(&self, server: &ApiServer, token: Option<&str>, namespace: &str, name: &str) -> KeyAnswer {
        self.ask(server, token, &format!("/v1/restores/{namespace}/{name}"))
    }

    #[track_caller]
    fn ask(&self, server: &ApiServer, token: Option<&str>, path: &str) -> KeyAnswer {
        let published = server.get("/api/v1/namespaces/remora/configmaps/remora-controller-ca");
        // A file of its own: several ask at once.
        let ca = tempfile::NamedTempFile::new_in(&self.folder).must("make a file for the CA");
        fs::write(&ca, published["data"]["ca.crt"].as_str().must("find the CA")).must("write the CA");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--write-out", "\n%{http_code}", "--cacert"])
            .arg(ca.path());
        curl.args(["--resolve", &format!("{SERVICE}:{}:127.0.0.1", self.keys)]);
        if let Some(token) = token {
            curl.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        let ran = run(curl.arg(format!("{}{path}", self.keys_url()))).ok();
        let (body, code) = ran.text().rsplit_once('\n').must("find the status of HTTP");
        KeyAnswer {
            code: code.parse().must("read the status of HTTP"),
            body: serde_json::from_str(body).unwrap_or_default(),
        }
    }
}

/// The API server decides by what it was told of roles and their bindings, a moment after they are stored, and of each kind for
/// itself. A controller that is refused something at its start ends, and here nobody starts it again.
#[track_caller]
fn wait_for_rights(server: &ApiServer) {
    let of_the_cluster = json!({"verb": "list", "group": "remora.dev", "resource": "backupruns"});
    let of_its_namespace =
        json!({"verb": "create", "group": "coordination.k8s.io", "resource": "leases", "namespace": "remora"});
    wait_until("the controller's rights are not in force", LIMIT, || {
        [&of_the_cluster, &of_its_namespace].iter().all(|what| server.may("remora-controller", what))
    });
}

fn write_token(server: &ApiServer, file: &Path) {
    fs::write(file, server.token("remora", "remora-controller", None, None)).must("write a token");
}

impl Drop for Controller {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the controller's log:\n{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
        for child in self.children().iter_mut() {
            drop(child.stdin.take());
            child.wait().ok();
        }
    }
}
