//! A real API server of Kubernetes with its etcd: objects are stored, validated and refused, and nobody acts on them.

mod audit;

use std::fmt;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

pub use self::audit::{Mark, Request};
use crate::cluster::built;
use crate::ports::free_ports;
use crate::process::{Must, run, run_with_input, wait_until};
use crate::relay::Relay;

/// How long it may take to start on a busy machine.
const START: Duration = Duration::from_mins(10);

/// How much later than itself what it serves of a definition may be there.
const SERVED: Duration = Duration::from_mins(10);

const ACCEPT_JSON: &str = "Accept: application/json";
const ACCEPT_TABLE: &str = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io";
const SEND_OBJECT: &str = "Content-Type: application/json";
const SEND_MERGE: &str = "Content-Type: application/merge-patch+json";
const SEND_APPLY: &str = "Content-Type: application/apply-patch+yaml";

/// An API server. It ends with its etcd when it is dropped or when the test process ends, however that happens.
pub struct ApiServer {
    dir: PathBuf,
    tools: PathBuf,
    port: u16,
    etcd: u16,
    servers: Child,
    input: Mutex<Option<ChildStdin>>,
    namespaces: AtomicU32,
}

/// What it answered.
#[derive(Debug)]
pub struct Answer {
    /// The status of HTTP.
    pub code: u16,
    /// The object, or why there is none.
    pub body: Value,
}

impl ApiServer {
    /// The one of this process, started when it is first asked for.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ApiServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts one with nothing in it.
    pub fn start() -> Self {
        Self::start_at(free_ports(), None)
    }

    /// The same, with a relay between it and its etcd.
    pub fn start_before_etcd() -> (Self, Relay) {
        let ports = free_ports();
        let etcd = Relay::before((Ipv4Addr::LOCALHOST, ports[1]).into());
        (Self::start_at(ports, Some(etcd.address().port())), etcd)
    }

    fn start_at(ports: [u16; 3], store: Option<u16>) -> Self {
        let dir = tempfile::Builder::new().prefix("remora-api-").tempdir().must("make the API server's folder");
        let [tools] = built(&["kubernetes"]);
        // What it starts removes it: also when this process is killed.
        let dir = dir.keep();
        let mut servers = Command::new(sources().join("serve"))
            .arg(&dir)
            .arg(&tools)
            .args(ports.iter().chain(&store).map(ToString::to_string))
            .current_dir("/")
            .stdin(Stdio::piped())
            .process_group(0) // A Ctrl-C is not for it.
            .spawn()
            .must("start the API server");
        let input = Mutex::new(servers.stdin.take());
        let server = Self { dir, tools, port: ports[0], etcd: ports[1], servers, input, namespaces: AtomicU32::new(0) };
        fs::write(server.owner_config(), server.kubeconfig(server.owner_token())).must("write a kubeconfig");
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&self) {
        wait_until(Log(&self.dir), START, || {
            TcpStream::connect(self.address()).is_ok()
                && self.try_send("GET", "/readyz", ACCEPT_JSON, "").is_some_and(|answer| answer.code == 200)
        });
    }

    fn order(&self, order: &str) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(input.as_mut().must("have its input"), "{order}").must("give the API server an order");
    }

    /// Kills it; its etcd stays.
    pub fn stop(&self) {
        self.order("stop");
        wait_until("the API server does not end", START, || TcpStream::connect(self.address()).is_err());
    }

    /// Starts it again after [`ApiServer::stop`].
    pub fn start_again(&self) {
        self.order("start");
        self.wait_until_ready();
    }

    /// No token of a `ServiceAccount` from before its next start is good any more, as if all had expired.
    pub fn renew_account_key(&self) {
        self.order("rekey");
    }

    /// Has etcd forget all that was before: who goes on from there is told 410.
    pub fn compact(&self) {
        let etcd = format!("http://127.0.0.1:{}/v3/kv", self.etcd);
        let post = |path: &str, body: &Value| {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--data", &body.to_string()]);
            run(curl.arg(format!("{etcd}/{path}"))).ok().json()
        };
        let revision = post("range", &json!({"key": "AA=="}))["header"]["revision"].clone();
        post("compaction", &json!({"revision": revision, "physical": true}));
    }

    /// The end of what it was asked so far.
    pub fn mark(&self) -> Mark {
        audit::end(&self.dir.join("audit.log"))
    }

    /// What it was asked between two such.
    pub fn asked(&self, from: Mark, to: Mark, each: impl FnMut(Request)) {
        audit::between(&self.dir.join("audit.log"), from, to, each);
    }

    /// The process itself.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The token of who may do anything.
    pub const fn owner_token(&self) -> &'static str {
        "owner"
    }

    /// A kubeconfig of whoever has that token.
    pub fn kubeconfig(&self, token: &str) -> String {
        self.kubeconfig_at(&self.url(), &json!({"token": token}))
    }

    /// A kubeconfig of a user who reaches it at a URL.
    pub fn kubeconfig_at(&self, url: &str, user: &Value) -> String {
        let cluster = json!({"server": url, "certificate-authority": self.certificate()});
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": user}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "current-context": "tests",
        })
        .to_string()
    }

    fn owner_config(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// `kubectl`, as who may do anything.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.tools.join("kubectl"));
        command.env("KUBECONFIG", self.owner_config()).env("KUBECACHEDIR", self.dir.join("kubectl"));
        command.env_remove("HTTPS_PROXY").env_remove("https_proxy");
        command
    }

    /// A token of a `ServiceAccount`, for an audience other than the API server if there is one, of a pod if there is one.
    #[track_caller]
    pub fn token(&self, namespace: &str, account: &str, audience: Option<&str>, pod: Option<&Value>) -> String {
        let bound = pod.map(|pod| json!({"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}));
        // For longer than all tests take on a busy machine: nobody renews it, as the kubelet would.
        let spec = json!({
            "audiences": audience.into_iter().collect::<Vec<_>>(), "boundObjectRef": bound, "expirationSeconds": 86400,
        });
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.create(&path, &request).ok();
        answer["status"]["token"].as_str().must("find a token").to_owned()
    }

    /// Merges fields into an object, as whoever has that token.
    #[track_caller]
    pub fn merge_as(&self, token: &str, path: &str, fields: &Value) -> Answer {
        let answer = self.try_send_as(token, "PATCH", path, SEND_MERGE, &fields.to_string());
        answer.must(format_args!("have an answer to PATCH {path}"))
    }

    /// Creates an object, as whoever has that token.
    #[track_caller]
    pub fn create_as(&self, token: &str, list: &str, object: &Value) -> Answer {
        let answer = self.try_send_as(token, "POST", list, SEND_OBJECT, &object.to_string());
        answer.must(format_args!("have an answer to POST {list}"))
    }

    /// Deletes an object, as whoever has that token.
    #[track_caller]
    pub fn delete_as(&self, token: &str, path: &str) -> Answer {
        self.try_send_as(token, "DELETE", path, ACCEPT_JSON, "").must(format_args!("have an answer to DELETE {path}"))
    }

    /// An object or a list, or why there is none.
    #[track_caller]
    pub fn look(&self, path: &str) -> Answer {
        self.send("GET", path, ACCEPT_JSON, "")
    }

    /// Whether the rules of access allow something to a `ServiceAccount` of remora's namespace; `what` are
    /// `resourceAttributes`.
    #[track_caller]
    pub fn may(&self, account: &str, what: &Value) -> bool {
        let spec = json!({"user": format!("system:serviceaccount:remora:{account}"), "resourceAttributes": what});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        self.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).ok()["status"]["allowed"] == true
    }

    /// The certificate of its CA.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("apiserver.crt")
    }

    /// A new namespace.
    #[track_caller]
    pub fn namespace(&self) -> String {
        let name = format!("test-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        self.make_namespace(&name);
        name
    }

    /// A namespace of that name.
    #[track_caller]
    pub fn make_namespace(&self, name: &str) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.create("/api/v1/namespaces", &object).ok();
    }

    /// Applies definitions of resources; they are served when it returns.
    #[track_caller]
    pub fn define(&self, definitions: &str) {
        for path in self.apply_all(DEFINITIONS, definitions) {
            wait_until(format_args!("{path} is not served"), SERVED, || {
                let definition = self.get(&path);
                condition(&definition, "Established").is_some_and(|condition| condition["status"] == "True")
                    && self.look(&list_of(&definition["spec"])).code == 200
                    && self.tells_of(&definition["spec"])
            });
        }
    }

    /// Whether who asks what there is hears of a resource: it may be served before.
    #[track_caller]
    fn tells_of(&self, spec: &Value) -> bool {
        let list = list_of(spec);
        let (version, plural) = list.rsplit_once('/').must("read a definition");
        let told = self.look(version).body;
        told["resources"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == plural))
    }

    /// An object or a list.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.send("GET", path, ACCEPT_JSON, "").ok()
    }

    /// A list as `kubectl get` shows it: its columns' names, and the cells of its rows.
    #[track_caller]
    pub fn table(&self, path: &str) -> Value {
        self.send("GET", path, ACCEPT_TABLE, "").ok()
    }

    /// Creates an object in a list, as strictly as `kubectl create`: a field that is not known is an error.
    #[track_caller]
    pub fn create(&self, list: &str, object: &Value) -> Answer {
        self.send("POST", &format!("{list}?fieldValidation=Strict"), SEND_OBJECT, &object.to_string())
    }

    /// Merges fields into an object.
    #[track_caller]
    pub fn merge(&self, path: &str, fields: &Value) -> Answer {
        let path = format!("{path}?fieldValidation=Strict");
        self.send("PATCH", &path, SEND_MERGE, &fields.to_string())
    }

    /// Deletes an object; one with finalizers stays until they are gone.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, ACCEPT_JSON, "")
    }

    /// Makes fields of an object what `owner` says, in JSON or YAML, and leaves those of others alone.
    #[track_caller]
    pub fn apply(&self, path: &str, owner: &str, object: &str) -> Answer {
        let path = format!("{path}?fieldManager={owner}&fieldValidation=Strict");
        self.send("PATCH", &path, SEND_APPLY, object)
    }

    /// Applies a stream of YAML to a list, as `kubectl apply --server-side` does; gives the objects' paths.
    #[track_caller]
    pub fn apply_all(&self, list: &str, stream: &str) -> Vec<String> {
        let objects = stream.split("---\n").filter(|text| text.contains("\nkind: "));
        let applied = objects.map(|object| {
            let name = object.split("\n  name: ").nth(1).and_then(|rest| rest.lines().next());
            let path = format!("{list}/{}", name.must("find the name of an object"));
            self.apply(&path, "tests", object).ok();
            path
        });
        applied.collect()
    }

    #[track_caller]
    fn send(&self, method: &str, path: &str, header: &str, body: &str) -> Answer {
        self.try_send(method, path, header, body).must(format_args!("have an answer to {method} {path}"))
    }

    /// None if there was no answer.
    fn try_send(&self, method: &str, path: &str, header: &str, body: &str) -> Option<Answer> {
        self.try_send_as("owner", method, path, header, body)
    }

    fn try_send_as(&self, token: &str, method: &str, path: &str, header: &str, body: &str) -> Option<Answer> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--write-out", "\n%{http_code}", "--request", method]);
        curl.arg("--cacert").arg(self.certificate());
        curl.args(["--header", &format!("Authorization: Bearer {token}"), "--header", header]);
        if !body.is_empty() {
            curl.args(["--data-binary", "@-"]);
        }
        let ran = run_with_input(curl.arg(format!("https://127.0.0.1:{}{path}", self.port)), body.as_bytes());
        let (body, code) = ran.text().rsplit_once('\n').filter(|_| ran.status.success())?;
        let body = serde_json::from_str(body).unwrap_or_else(|_| body.into());
        Some(Answer { code: code.parse().ok()?, body })
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.input.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        self.servers.wait().ok();
    }
}

impl Answer {
    /// The object; a panic with the reason if there is none.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.code < 300, "{}: {:#}", self.code, self.body);
        self.body
    }

    /// Why it was refused; a panic if it was not.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!((400..500).contains(&self.code), "wanted a refusal: {}: {:#}", self.code, self.body);
        self.body["message"].as_str().must("find the reason of a refusal").to_owned()
    }
}

/// Where the definitions of resources are.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// The list of all objects of a definition. Before it is ready to store them, its server answers 429.
fn list_of(spec: &Value) -> String {
    let text = |value: &Value| value.as_str().must("read a definition").to_owned();
    format!("/apis/{}/{}/{}", text(&spec["group"]), text(&spec["versions"][0]["name"]), text(&spec["names"]["plural"]))
}

/// A condition of an object.
pub fn condition(object: &Value, kind: &str) -> Option<Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind).cloned()
}

/// The log of a server that did not start, read when it is told.
struct Log<'a>(&'a Path);

impl fmt::Display for Log<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = fs::read_to_string(self.0.join("apiserver.log")).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(5).collect();
        write!(f, "the API server does not start: {last:#?}")
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes")
}
