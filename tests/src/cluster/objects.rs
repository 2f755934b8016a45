//! Objects of the cluster, as `kubectl` has them.

use std::io::BufReader;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Deserializer, Value};

use crate::process::{Must, Ran, run, run_with_input};

use super::{Cluster, patience};

/// How long one watch lasts; then what is there is looked at anew.
const WATCH: Duration = Duration::from_secs(20);

impl Cluster {
    /// `kubectl`, for this cluster.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).env("KUBECACHEDIR", self.node.dir().join("kubectl"));
        command.env_remove("HTTPS_PROXY").env_remove("https_proxy");
        command
    }

    /// Runs `kubectl` and gives what it printed.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).ok().text().to_owned()
    }

    /// Runs `kubectl`, which may fail.
    pub fn try_kubectl(&self, args: &[&str]) -> Ran {
        let command = || run(self.kubectl_command().args(args));
        if patience::is_repeatable(args) { patience::setting(command) } else { patience::changing(command) }
    }

    /// Creates an object, or makes it what this says.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.try_apply(object).ok();
    }

    /// The same, which may be refused.
    pub fn try_apply(&self, object: &Value) -> Ran {
        let object = object.to_string();
        patience::setting(|| {
            let mut command = self.kubectl_command();
            run_with_input(command.args(["apply", "--server-side", "--filename", "-"]), object.as_bytes())
        })
    }

    /// An object; `namespace` is empty for those that are in none.
    #[track_caller]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Value {
        self.find(kind, namespace, name).must(format_args!("find {kind} {namespace}/{name}"))
    }

    /// An object, if it is there.
    #[track_caller]
    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let ran = patience::reading(|| self.look(kind, namespace, name)).ok();
        (!ran.stdout.is_empty()).then(|| ran.json())
    }

    /// All objects of a kind in a namespace that have these labels.
    #[track_caller]
    pub fn list(&self, kind: &str, namespace: &str, labels: &str) -> Vec<Value> {
        let look = || {
            let mut command = self.kubectl_command();
            command.args(["get", kind, "--selector", labels, "--output", "json"]);
            run(in_namespace(&mut command, namespace))
        };
        let mut list = patience::reading(look).ok().json();
        list["items"].as_array_mut().map(std::mem::take).must("read a list")
    }

    /// Tells the API to delete an object, without waiting for its end.
    #[track_caller]
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let delete = || {
            let mut command = self.kubectl_command();
            command.args(["delete", kind, name, "--wait=false", "--ignore-not-found"]);
            run(in_namespace(&mut command, namespace))
        };
        patience::changing(delete).ok();
    }

    /// Watches an object until `ready` says that it is as wanted, and gives it. `ready` sees none while there is none.
    #[track_caller]
    pub fn wait_for(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        what: &str,
        limit: Duration,
        ready: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        let start = Instant::now();
        loop {
            let found = self.try_find(kind, namespace, name);
            if let Ok(object) = &found {
                if ready(object.as_ref()) {
                    return object.clone();
                }
                let left = limit.saturating_sub(start.elapsed());
                if let Ok(object) = self.watch(kind, namespace, name, left, &ready) {
                    return object;
                }
            }
            assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}: {kind} {namespace}/{name}: {found:#?}");
        }
    }

    /// Waits until an object is gone.
    #[track_caller]
    pub fn wait_gone(&self, kind: &str, namespace: &str, name: &str, limit: Duration) {
        self.wait_for(kind, namespace, name, "it is still there", limit, |object| object.is_none());
    }

    /// What is there, or why that cannot be known now: a definition may still be missing, a server on its way.
    fn try_find(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>, String> {
        let ran = self.look(kind, namespace, name);
        match (ran.status.success(), ran.stdout.is_empty()) {
            (false, _) => Err(ran.stderr),
            (true, true) => Ok(None),
            (true, false) => Ok(Some(ran.json())),
        }
    }

    /// One look at what is there.
    fn look(&self, kind: &str, namespace: &str, name: &str) -> Ran {
        let mut command = self.kubectl_command();
        command.args(["get", kind, name, "--ignore-not-found", "--output", "json"]);
        run(in_namespace(&mut command, namespace))
    }

    /// The object as soon as it is as wanted; an error if the watch ends before.
    fn watch(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        left: Duration,
        ready: &impl Fn(Option<&Value>) -> bool,
    ) -> Result<Option<Value>, WatchEnded> {
        let mut command = self.kubectl_command();
        command.args(["get", kind, "--watch", "--output-watch-events", "--output", "json"]);
        command.args(["--field-selector", &format!("metadata.name={name}")]);
        command.arg(format!("--request-timeout={}s", left.clamp(Duration::from_secs(1), WATCH).as_secs()));
        in_namespace(&mut command, namespace).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut watch = command.spawn().must("start kubectl");
        let output = BufReader::new(watch.stdout.take().must("have the output of kubectl"));
        let events = Deserializer::from_reader(output).into_iter::<Value>().map_while(Result::ok);
        // Why the API server ends a watch stands in the place of an object.
        let events = events.take_while(|event| event["type"] != "ERROR");
        let mut objects = events.map(|mut event| (event["type"] != "DELETED").then(|| event["object"].take()));
        let found = objects.find(|object| ready(object.as_ref()));
        watch.kill().ok();
        watch.wait().must("wait for kubectl");
        found.ok_or(WatchEnded)
    }
}

/// That a watch ended, and the object was not as wanted.
struct WatchEnded;

fn in_namespace<'a>(command: &'a mut Command, namespace: &str) -> &'a mut Command {
    if !namespace.is_empty() {
        command.args(["--namespace", namespace]);
    }
    command
}

/// A condition of an object, if it has it.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether a condition of an object has that status.
pub fn is(object: &Value, kind: &str, status: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == status)
}
