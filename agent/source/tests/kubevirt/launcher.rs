//! A folder like a launcher pod's on a node, and the processes in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use remora_tests::Lab;

/// A node with one launcher pod.
pub(crate) struct Node {
    dir: PathBuf,
    pub(crate) pod: String,
}

impl Node {
    /// A node whose pod has all folders and no socket.
    pub(crate) fn new() -> Self {
        // Long, as the paths of a real node are: beyond what a socket's path may have.
        let dir = Lab::shared().scratch("node");
        let node = Self { dir, pod: "3c0a2b1c-1111-4222-8333-444455556666".into() };
        for volume in ["sockets", "libvirt-runtime", "hotplug-disks"] {
            fs::create_dir_all(node.volume(volume)).unwrap();
        }
        fs::create_dir_all(node.proc()).unwrap();
        node
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.dir.join("pods")
    }

    pub(crate) fn proc(&self) -> PathBuf {
        self.dir.join("proc")
    }

    /// One of the pod's emptyDirs.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.pods().join(&self.pod).join("volumes/kubernetes.io~empty-dir").join(name)
    }

    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.volume("sockets").join("backup-nbd-sock")
    }

    /// A short path for a socket, which [`Node::move_in`] then moves.
    pub(crate) fn short_path(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Moves a socket from its short path to where a launcher's is, as if its process had made it there in a mount
    /// namespace of its own.
    pub(crate) fn move_in(&self) {
        fs::rename(self.short_path(), self.nbd_socket()).unwrap();
    }

    /// Says that a process is of the pod. (The tests cannot make cgroups everywhere.)
    pub(crate) fn adopt(&self, pid: u32) {
        let uid = self.pod.replace('-', "_");
        self.put(pid, &format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-12ab.scope\n"));
    }

    /// Says of what cgroups a process is.
    pub(crate) fn put(&self, pid: u32, cgroups: &str) {
        let process = self.proc().join(pid.to_string());
        fs::create_dir_all(&process).unwrap();
        fs::write(process.join("cgroup"), cgroups).unwrap();
        symlink(format!("/proc/{pid}/stat"), process.join("stat")).ok();
    }
}
