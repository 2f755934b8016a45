//! A cluster by hand: `cluster COMMAND…` runs a command (a shell, if none is given) with `KUBECONFIG` set to a cluster with
//! KubeVirt, `kubectl` in its path, and in `REMORA_CLUSTER` the folder of its first node. With `--worker NAME` before the
//! command it has another node. The cluster ends with the command.

use std::process::{Command, ExitCode};

use remora_tests::{Cluster, Must};

fn main() -> ExitCode {
    let cluster = Cluster::start();
    let mut command: Vec<_> = std::env::args_os().skip(1).collect();
    let mut workers = Vec::new();
    while command.len() > 1 && command[0] == "--worker" {
        workers.push(cluster.worker(&command[1].to_string_lossy()));
        command.drain(..2);
    }
    if command.is_empty() {
        command.push(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    }
    let tools = cluster.kubectl_program().parent().must("find the folder of kubectl");
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(tools.into()).chain(std::env::split_paths(&others)));
    let mut command_line = Command::new(&command[0]);
    command_line.args(&command[1..]).env("KUBECONFIG", cluster.kubeconfig()).env("REMORA_CLUSTER", cluster.folder());
    let status = command_line.env("PATH", path.must("set PATH")).status();
    let status = status.must(format_args!("run {}", command[0].display()));
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
