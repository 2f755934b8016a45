//! What this node has of what backups of VMs of KubeVirt need.

use std::fs;
use std::path::Path;

use kube::Client;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use remora_kube::node::clock;
use remora_kube::resources::Capability;
use remora_source::kubevirt::KubevirtOptions;

/// All of it.
pub(super) async fn capabilities(client: &Client, options: &KubevirtOptions, state: Option<&Path>) -> Vec<Capability> {
    let (pods, processes) = (pods(&options.pods), processes(&options.proc));
    vec![pods, processes, resolving(&options.pods), memory(state), clock(client).await]
}

fn capability(name: &str, tried: Result<String, String>) -> Capability {
    let available = tried.is_ok();
    Capability { name: name.into(), available, message: tried.unwrap_or_else(|why| why) }
}

/// The kubelet's folder, in which the sockets of virt-launcher pods are.
fn pods(folder: &Path) -> Capability {
    let shown = folder.display();
    let tried = fs::read_dir(folder).map_err(|e| format!("{shown}: {e}: mount the kubelet's folder of pods there"));
    capability("pods-folder", tried.map(|_| format!("{shown} can be read")))
}

/// Where it is remembered what was seen of repositories. Runs go on without it, so nobody else would notice.
fn memory(folder: Option<&Path>) -> Capability {
    let lost = "that a store was put back to an earlier state goes unnoticed: mount a folder of the node there";
    let tried = folder.ok_or_else(|| format!("there is no folder for it (--state), so {lost}")).and_then(|folder| {
        let shown = folder.display();
        let tried = tempfile::tempfile_in(folder);
        tried.map(|_| format!("{shown} can be written")).map_err(|e| format!("{shown}: {e}: {lost}"))
    });
    capability("state-folder", tried)
}

/// Processes of other pods: of whoever serves a socket it is asked which pod it is of.
fn processes(proc: &Path) -> Capability {
    let own = fs::read_link(proc.join("self")).ok().and_then(|link| link.to_str()?.parse::<u32>().ok());
    let tried = match own {
        Some(1) => Err("this process is the first of its namespace: set hostPID in the agent's pod".into()),
        Some(_) if own != Some(std::process::id()) => Err(format!("{} is of another namespace", proc.display())),
        Some(_) => Ok("processes of the node are seen".into()),
        None => Err(format!("{} cannot be read", proc.display())),
    };
    capability("host-processes", tried)
}

/// The kernel's way to open what a hostile pod may have exchanged for a link.
fn resolving(folder: &Path) -> Capability {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let opened = fs::File::open(folder).map_err(|e| e.to_string()).and_then(|folder| {
        openat2(&folder, ".", how).map(drop).map_err(|errno| match errno {
            Errno::ENOSYS => "the kernel has no openat2: 5.6 or later is needed".into(),
            Errno::EPERM => "openat2 is forbidden: allow it in the seccomp profile".into(),
            other => other.to_string(),
        })
    });
    capability("openat2", opened.map(|()| "files of pods can be opened without following links".into()))
}
