//! Running `remora-agent` as a service manager does.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config_map::MountedConfigMap;
use crate::lab::Lab;
use crate::plugin::Plugin;
use crate::ports::free_ports;
use crate::process::{Must, run, wait_until};
use crate::remora::{KEY_FILE, Remora, program};

/// How long the agent may take to come up, or to end what it is at.
const LIMIT: Duration = Duration::from_mins(5);

/// A running agent, with a folder of its own. Dropping it kills it.
pub struct RemoraAgent {
    folder: PathBuf,
    address: SocketAddr,
    uri: String,
    policies: MountedConfigMap,
    child: Option<Child>,
}

impl RemoraAgent {
    /// Starts one for the lab's libvirt and the repository of `remora`, without policies.
    #[track_caller]
    pub fn start(lab: &Lab, remora: &Remora) -> Self {
        Self::start_with(lab, Some(remora), None)
    }

    /// Likewise, with a mover; and with no repository, if none is given.
    #[track_caller]
    pub fn start_with(lab: &Lab, remora: Option<&Remora>, plugin: Option<&Plugin>) -> Self {
        Self::start_as(lab, remora, plugin, "")
    }

    /// Starts one for the lab's libvirt and the repository of `remora`, which makes so many backups at once.
    #[track_caller]
    pub fn start_parallel(lab: &Lab, remora: &Remora, parallel: usize) -> Self {
        Self::start_as(lab, Some(remora), None, &format!("parallel = {parallel}\n"))
    }

    /// `settings` are lines of its agent.toml.
    #[track_caller]
    fn start_as(lab: &Lab, remora: Option<&Remora>, plugin: Option<&Plugin>, settings: &str) -> Self {
        let folder = lab.scratch("agent");
        let [port] = free_ports();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        fs::write(folder.join("key"), KEY_FILE).must("write a key file");
        if let Some(plugin) = plugin {
            symlink(plugin.folder(), folder.join("plugins")).must("link the folder of plugins");
        }
        let run_dir = lab.dir().join("remora");
        let main = |remora: &Remora| {
            format!("[repositories.main]\nurl = '{}'\nkey_file = 'key'\n", remora.repository().display())
        };
        let config = format!(
            "state = 'state'\nrun_dir = '{}'\nlisten = '{address}'\n{settings}{}",
            run_dir.display(),
            remora.map(main).unwrap_or_default(),
        );
        fs::write(folder.join("agent.toml"), config).must("write agent.toml");
        let policies = MountedConfigMap::make(folder.join("policies"));
        let mut agent = Self { folder, address, uri: lab.uri().to_owned(), policies, child: None };
        agent.spawn();
        agent
    }

    /// Starts it again after it was stopped.
    #[track_caller]
    pub fn spawn(&mut self) {
        let mut command = Command::new(program("remora-agent"));
        command.arg("--config").arg(&self.folder).env("LIBVIRT_DEFAULT_URI", &self.uri).env_remove("REMORA_LOG");
        let log = fs::File::options().create(true).append(true).open(self.log()).must("open the agent's log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().must(format_args!("start {command:?}")));
        let ready = || run(Command::new("curl").args(["--silent", "--fail", &self.url("readyz")])).status.success();
        wait_until(format_args!("the agent is not ready: {}", self.log_text()), LIMIT, ready);
    }

    /// Puts documents, by file name, in place of all others, as the swap of a mounted `ConfigMap` does.
    #[track_caller]
    pub fn put(&self, documents: &[(&str, &str)]) {
        self.policies.put(documents);
    }

    /// Likewise, with modules beside the documents.
    #[track_caller]
    pub fn put_bytes(&self, files: &[(&str, &[u8])]) {
        self.policies.put_bytes(files);
    }

    /// The value of a metric, by its name with its labels.
    #[track_caller]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = run(Command::new("curl").args(["--silent", "--show-error", "--fail", &self.url("metrics")])).ok();
        let line = text.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.to_owned();
        Some(line.trim().parse().must(format_args!("read the number {line:?}")))
    }

    /// Ends it as a service manager does, and waits.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.stop_while(|| {})
    }

    /// Likewise; `meanwhile` happens once it has been told to end.
    #[track_caller]
    pub fn stop_while(&mut self, meanwhile: impl FnOnce()) -> ExitStatus {
        let mut child = self.child.take().must("find the agent: it was stopped before");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).must("send SIGTERM to the agent");
        meanwhile();
        let mut ended = None;
        wait_until(format_args!("the agent does not end: {}", self.log_text()), LIMIT, || {
            ended = child.try_wait().must("wait for the agent");
            ended.is_some()
        });
        ended.must("know how the agent ended")
    }

    /// What it has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for RemoraAgent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
