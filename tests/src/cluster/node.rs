//! A node: a process with namespaces of its own in which everything runs, and how to get at it.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::process::{Must, wait_until};

use super::sources;

/// The first node's name, as `tests/cluster/node/serve` has it.
pub(super) const NAME: &str = "node";

/// How long a node may take to be there on a busy machine.
pub(super) const START: Duration = Duration::from_mins(15);

/// As many nodes as a cluster has addresses for.
const MOST_NODES: u8 = 16;

/// A node. It ends with all that runs in it when it is dropped or when the test process ends, however that happens.
pub(super) struct Node {
    dir: PathBuf,
    number: u8,
    process: String,
    /// None if another process keeps it.
    keeper: Option<Child>,
    input: Option<ChildStdin>,
}

impl Node {
    /// Starts the first one of a cluster, of that Kubernetes, whose containerd has those images. The cluster begins with
    /// a state that was kept.
    pub(super) fn start(kube: &Path, images: &Path, state: &Path) -> Self {
        let number =
            free(|number| format!("remora-node-{number}"), std::iter::repeat_with(|| fastrand::u8(..)).take(1000));
        Self::serve(kube, images, number, |command| command.arg(state))
    }

    /// Starts one that joins the cluster of this one, by that name.
    pub(super) fn join(&self, kube: &Path, images: &Path, name: &str) -> Self {
        let number = self.number;
        let index = free(|index| format!("remora-{number}-{index}"), 1..MOST_NODES);
        Self::serve(kube, images, number, |command| {
            command.arg("--join").arg(&self.dir).args([name, &index.to_string()])
        })
    }

    fn serve(kube: &Path, images: &Path, number: u8, as_what: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let root = std::env::var_os("REMORA_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        // What it starts removes it: also when this process is killed.
        let dir =
            tempfile::Builder::new().prefix("remora-cluster-").tempdir_in(root).must("make the node's folder").keep();
        let mut command = Command::new(sources().join("node/serve"));
        command.arg(&dir).args([kube, images]).arg(number.to_string());
        let mut keeper = as_what(&mut command)
            .current_dir("/")
            .stdin(Stdio::piped())
            .process_group(0) // A Ctrl-C is not for it.
            .spawn()
            .must("start the node");
        let input = keeper.stdin.take();
        let mut process = String::new();
        wait_until("the node does not start", START, || {
            let ended = keeper.try_wait().must("look after the node");
            assert!(ended.is_none(), "the node does not start: {}", log(&dir));
            process = fs::read_to_string(dir.join("node.pid")).unwrap_or_default();
            !process.is_empty()
        });
        let process = process.trim().to_owned();
        Self { dir, number, process, keeper: Some(keeper), input }
    }

    /// One that another process keeps, by its folder.
    pub(super) fn of(dir: &Path) -> Self {
        let read = |name: &str| {
            fs::read_to_string(dir.join(name)).must(format_args!("read {name} of a node")).trim().to_owned()
        };
        let number = read("number").parse().must("read the number of a node");
        Self { dir: dir.to_owned(), number, process: read("node.pid"), keeper: None, input: None }
    }

    /// Its folder: state, keys, logs.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of this host that is its `/var/lib`, without what is mounted there.
    pub(super) fn var_lib(&self) -> PathBuf {
        self.dir.join("data/lib")
    }

    /// The host's end of its network.
    pub(super) fn host_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 1)
    }

    /// A command that runs in its namespaces.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.process, "--mount", "--net", "--pid", "--uts", "--ipc", "--", program]);
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Some(mut keeper) = self.keeper.take() {
            keeper.wait().ok();
        }
    }
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log/node")).unwrap_or_default()
}

/// The first of these numbers whose network nobody on this host has. Should another take it first, the start fails.
fn free(link: impl Fn(u8) -> String, mut numbers: impl Iterator<Item = u8>) -> u8 {
    let free = |number: &u8| !Path::new("/sys/class/net").join(link(*number)).exists();
    numbers.find(free).must("find a free network for the node")
}
