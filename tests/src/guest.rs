//! A real small Linux in a domain, spoken to through its guest agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};

use crate::cache::cached;
use crate::process::{Must, Ran, run, run_until_heard, wait_until};

/// How long a guest may take to boot in software emulation on a busy machine.
const BOOT: Duration = Duration::from_mins(10);
/// How long a command may take in the guest.
const COMMAND: Duration = Duration::from_mins(10);
/// How long an agent is waited for that may hang before it answers.
const HANG: Duration = Duration::from_secs(30);
/// What the guest says on its console once its agent hangs.
const HANGS: &str = "the agent hangs";
/// What libvirt says when it did not get as far as to ask an agent.
const UNASKED: [&str; 2] = ["Guest agent is not responding", LOCKED];
/// What libvirt says once it has waited for half a minute while something else is done with a domain. It has done nothing then.
pub(crate) const LOCKED: &str = "cannot acquire state change lock";
/// How many bytes go to the guest at a time: a command line of the host must hold them, wrapped.
const PIECE: usize = 64 << 10;

/// What the guest's agent is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// The domain has no channel for one.
    Absent,
    /// It does all that it is asked.
    Works,
    /// It answers, but refuses to freeze filesystems.
    RefusesToFreeze,
}

impl Agent {
    /// What the guest's command line says of it.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Absent => "agent=none",
            Self::Works => "agent=works",
            Self::RefusesToFreeze => "agent=refuses",
        }
    }
}

/// The kernel and the initial file system of the guest.
pub(crate) struct GuestImage {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

impl GuestImage {
    /// Those of the packages that are installed now; built when first asked for.
    pub(crate) fn get() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
        let mut query = Command::new("dpkg-query");
        query.args(["--show", "linux-image-cloud-amd64", "busybox-static", "kmod", "lvm2", "qemu-utils"]);
        let packages = run(&mut query).ok();
        let sources = ["build", "init", "lvm.conf", "shutdown"]
            .map(|name| fs::read(dir.join(name)).must(format_args!("read the guest's {name}")));
        let mut inputs: Vec<&[u8]> = sources.iter().map(Vec::as_slice).collect();
        inputs.push(&packages.stdout);
        let built = cached("guest", &inputs, |into| {
            run(Command::new(dir.join("build")).arg(into)).ok();
        });
        Self { kernel: built.join("vmlinuz"), initrd: built.join("initrd.img") }
    }
}

/// What a command in the guest did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRan {
    /// Its exit code.
    pub code: i64,
    /// What it wrote to standard output, without white space at its end.
    pub stdout: String,
    /// What it wrote to standard error, without white space at its end.
    pub stderr: String,
}

/// A domain that has a guest.
pub(crate) trait Host {
    /// Runs `virsh COMMAND DOMAIN ARGUMENT…`, which may fail.
    fn try_virsh(&self, command: &str, args: &[&str]) -> Ran;

    /// The file that has what the guest said on its console, if there is one.
    fn console(&self) -> Option<PathBuf>;
}

/// The guest in a domain.
pub struct Guest<'host> {
    host: &'host dyn Host,
}

impl<'host> Guest<'host> {
    pub(crate) fn new(host: &'host dyn Host) -> Self {
        Self { host }
    }

    /// Waits until it is up and its filesystems are mounted, and until its agent answers if it has one.
    #[track_caller]
    pub fn wait(&self, agent: Agent) {
        if let Some(console) = self.host.console() {
            wait_until(format_args!("the guest does not come up: {}", console.display()), BOOT, || {
                said(&console).contains("guest up")
            });
        }
        if agent != Agent::Absent {
            wait_until("the guest's agent does not answer", BOOT, || {
                self.try_agent("guest-ping", &json!({}), Duration::from_secs(5)).status.success()
            });
        }
    }

    /// Runs a shell script in the guest and gives what it printed; panics if it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let ran = self.try_sh(script);
        assert_eq!(ran.code, 0, "in the guest: {script}\n{ran:?}");
        ran.stdout
    }

    /// Runs a shell script in the guest.
    #[track_caller]
    pub fn try_sh(&self, script: &str) -> GuestRan {
        let shell =
            self.agent("guest-exec", &json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true}));
        let mut status = Value::Null;
        wait_until(format_args!("the guest's command does not end: {script}"), COMMAND, || {
            status = self.agent("guest-exec-status", &json!({"pid": shell["pid"]}));
            status["exited"] == true
        });
        let text = |name: &str| {
            let bytes = status[name].as_str().map(decode).unwrap_or_default();
            String::from_utf8_lossy(&bytes).trim_end().to_owned()
        };
        let code = status["exitcode"].as_i64().must(format_args!("take an exit code of {script} from {status}"));
        GuestRan { code, stdout: text("out-data"), stderr: text("err-data") }
    }

    /// Writes a file in the guest and brings it to the disk.
    #[track_caller]
    pub fn write_file(&self, path: &str, bytes: &[u8]) {
        let file = self.agent("guest-file-open", &json!({"path": path, "mode": "w"}));
        for piece in bytes.chunks(PIECE) {
            let wrapped = Base64::encode_string(piece);
            let written = self.agent("guest-file-write", &json!({"handle": file, "buf-b64": wrapped}));
            assert_eq!(written["count"], piece.len(), "{path} in the guest");
        }
        self.agent("guest-file-close", &json!({"handle": file}));
        self.sh("sync");
    }

    /// Reads a file in the guest.
    #[track_caller]
    pub fn read_file(&self, path: &str) -> Vec<u8> {
        let file = self.agent("guest-file-open", &json!({"path": path, "mode": "r"}));
        let mut bytes = Vec::new();
        loop {
            let read = self.agent("guest-file-read", &json!({"handle": file, "count": 1 << 20}));
            bytes.extend(decode(read["buf-b64"].as_str().must("read a piece of a guest's file")));
            if read["eof"] == true {
                break;
            }
        }
        self.agent("guest-file-close", &json!({"handle": file}));
        bytes
    }

    /// Freezes all of its filesystems.
    #[track_caller]
    pub fn freeze(&self) {
        self.ask("domfsfreeze", &[]).ok();
    }

    /// Thaws them.
    #[track_caller]
    pub fn thaw(&self) {
        self.ask("domfsthaw", &[]).ok();
    }

    /// Whether they are frozen.
    #[track_caller]
    pub fn frozen(&self) -> bool {
        match self.agent("guest-fsfreeze-status", &json!({})).as_str() {
            Some("frozen") => true,
            Some("thawed") => false,
            other => panic!("the guest's agent says {other:?}"),
        }
    }

    /// Stops the agent so that it answers nothing any more, while its channel stays open. For good: only a restart of
    /// the domain helps.
    #[track_caller]
    pub fn hang_agent(&self) {
        self.stop_agent("");
    }

    /// As [`Guest::hang_agent`], until a disk of this name is attached.
    #[track_caller]
    pub fn hang_agent_until_a_disk_comes(&self, disk: &str) {
        self.stop_agent(&format!(
            "; until [ -e /sys/block/{disk} ]; do usleep 50000; done; kill -CONT $(pidof qemu-ga)"
        ));
    }

    #[track_caller]
    fn stop_agent(&self, then: &str) {
        let console = self.host.console().must("find the guest's console, on which it tells that its agent hangs");
        // A moment later, so that the agent still answers this; whether it did is of no matter.
        let script = format!("usleep 200000; kill -STOP $(pidof qemu-ga); echo '{HANGS}' >/dev/console{then}");
        let shell = json!({"path": "/bin/sh", "arg": ["-c", script]});
        let mut told = false;
        // That it does not answer would say nothing: so it may be with one that has no processor, and then it was told nothing.
        wait_until("the guest's agent does not hang", COMMAND, || {
            told = told || self.try_agent("guest-exec", &shell, HANG).status.success();
            said(&console).contains(HANGS)
        });
        let ping = self.try_agent("guest-ping", &json!({}), Duration::from_secs(1));
        assert!(!ping.status.success(), "an agent that hangs answers: {ping:?}");
    }

    /// Gives the agent a command and takes its answer.
    #[track_caller]
    pub fn agent(&self, command: &str, arguments: &Value) -> Value {
        self.ask("qemu-agent-command", &words(command, arguments, COMMAND).each_ref().map(String::as_str)).ok().json()
            ["return"]
            .take()
    }

    /// Has virsh ask the agent for something. libvirt asks before whether it is there, and gives it five seconds to say so, which
    /// a guest on a busy machine does not always have; and it waits half a minute for what somebody else asks, such as a run that
    /// was killed meanwhile. In either case the agent was told nothing of the rest, and is asked again.
    #[track_caller]
    pub fn ask(&self, command: &str, args: &[&str]) -> Ran {
        let what = format_args!("the guest's agent does not respond to {command}");
        let unasked = |said: &str| UNASKED.iter().any(|why| said.contains(why));
        run_until_heard(what, COMMAND, || self.host.try_virsh(command, args), unasked)
    }

    /// Gives the agent a command that may fail, or not be answered within `limit`.
    pub fn try_agent(&self, command: &str, arguments: &Value, limit: Duration) -> Ran {
        self.host.try_virsh("qemu-agent-command", &words(command, arguments, limit).each_ref().map(String::as_str))
    }
}

/// What `virsh qemu-agent-command` is given.
fn words(command: &str, arguments: &Value, limit: Duration) -> [String; 3] {
    let request = json!({"execute": command, "arguments": arguments}).to_string();
    ["--timeout".into(), limit.as_secs().to_string(), request]
}

/// What a guest has said on its console so far.
fn said(console: &Path) -> String {
    fs::read(console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[track_caller]
fn decode(wrapped: &str) -> Vec<u8> {
    Base64::decode_vec(wrapped).must(format_args!("unwrap {} characters of the guest's agent", wrapped.len()))
}
