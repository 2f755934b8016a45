//! The folder of a virt-launcher pod on this node. Who runs in the pod may put there what he likes, so no symbolic link
//! is followed, nothing outside is reached, and who serves a socket must be a process of that very pod.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::Uid;
use remora_core::{Error, ErrorKind, Result};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Where the kubelet keeps a pod's emptyDirs.
const EMPTY_DIRS: &str = "volumes/kubernetes.io~empty-dir";

/// The socket of a Pull backup's NBD server.
pub(super) const NBD: InPod = InPod { volume: "sockets", path: "backup-nbd-sock" };

/// The socket of the pod's libvirt.
pub(super) const LIBVIRT: InPod = InPod { volume: "libvirt-runtime", path: "virtqemud-sock" };

/// The folder in which PVCs that are attached later appear, the scratch PVC among them.
const HOTPLUGGED: &str = "hotplug-disks";

/// How long a socket may take to accept.
const ACCEPT: Duration = Duration::from_secs(20);

/// A file in one of the pod's emptyDirs.
#[derive(Clone, Copy, Debug)]
pub(super) struct InPod {
    volume: &'static str,
    path: &'static str,
}

/// A launcher pod's folder.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    /// The pods' folder; paths below it are opened anew each time, for mounts come and go.
    pods: Arc<OwnedFd>,
    pod: String,
    /// For messages.
    folder: PathBuf,
    proc: PathBuf,
}

/// A connection to a socket of the pod.
#[derive(Debug)]
pub(super) struct Connected {
    /// The connection.
    pub(super) stream: UnixStream,
    /// Who listens: a process of the pod.
    pub(super) server: u32,
    /// The user that it was when it began to listen, as the kernel saw it.
    pub(super) user: Uid,
}

impl Launcher {
    /// The folder of the pod with the UID `pod` below `pods`. `proc` is a procfs of the host's process namespace.
    pub(super) fn open(pods: &Path, pod: &str, proc: &Path) -> Result<Self> {
        if !is_uid(pod) {
            return Err(Error::new(ErrorKind::Invalid, format!("{pod:?} is no pod's UID")));
        }
        // The agent's own mount, so it may be reached through links.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let pods_folder = open(pods, flags, Mode::empty()).map_err(|error| {
            Error::io(format!("opening the kubelet's folder of pods {}", pods.display()), error.into())
                .advise("Mount the kubelet's folder of pods into the agent's pod, and name it with --pods.")
        })?;
        Ok(Self { pods: Arc::new(pods_folder), pod: pod.into(), folder: pods.join(pod), proc: proc.into() })
    }

    /// Connects to a socket, and makes sure that a process of the pod listens on it.
    pub(super) async fn connect(&self, at: InPod) -> Result<Connected> {
        let socket = self.socket(at).map_err(|error| error.within(self.connecting(at)))?;
        self.connect_to(&socket, at).await
    }

    /// The same of a socket that is held.
    pub(super) async fn connect_to(&self, socket: &OwnedFd, at: InPod) -> Result<Connected> {
        let within = |error: Error| error.within(self.connecting(at));
        let failed = |source| within(Error::new(ErrorKind::Unavailable, "the socket does not answer").because(source));
        // The path through /proc names the very file that was checked, and is short: a socket's has 107 bytes at most.
        let connecting = timeout(ACCEPT, UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())));
        let stream = match connecting.await {
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => return Err(within(forbidden())),
            Ok(connected) => connected.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed(format!("nobody accepted within {} s", ACCEPT.as_secs()))),
        };
        let (server, user) = self.check_peer(&stream).map_err(within)?;
        Ok(Connected { stream, server, user })
    }

    /// What is done, for messages.
    fn connecting(&self, at: InPod) -> String {
        format!("connecting to {}/{} of launcher pod {}", at.volume, at.path, self.pod)
    }

    /// A socket, held by its path: what is put in its place later is another one.
    pub(super) fn socket(&self, at: InPod) -> Result<OwnedFd> {
        let socket = self.open_below(&Path::new(at.volume).join(at.path), OFlag::O_PATH)?;
        let kind =
            fstat(&socket).map_err(|error| Error::io("looking at it", error.into()))?.st_mode & SFlag::S_IFMT.bits();
        if kind != SFlag::S_IFSOCK.bits() {
            return Err(planted("it is no socket"));
        }
        Ok(socket)
    }

    /// Bytes free on the attached volume of that name, for users that are not root.
    pub(super) fn free(&self, volume: &str) -> Result<u64> {
        if volume.is_empty() || volume == ".." || volume.contains('/') {
            return Err(Error::new(ErrorKind::Invalid, format!("{volume:?} is no volume's name")));
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let attached = self.open_below(Path::new(HOTPLUGGED), flags)?;
        let beside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(beside);
        // The folder is there before the volume is mounted on it, and its room is the node's.
        if openat2(&attached, volume, how).is_ok() {
            return Err(Error::new(ErrorKind::NotFound, "nothing is mounted on its folder"));
        }
        let folder = self.open_below(&Path::new(HOTPLUGGED).join(volume), flags)?;
        let stat = fstatvfs(&folder).map_err(|error| Error::io("asking for its room", error.into()))?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    fn open_below(&self, path: &Path, flags: OFlag) -> Result<OwnedFd> {
        let path = Path::new(&self.pod).join(EMPTY_DIRS).join(path);
        let resolve =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        openat2(&*self.pods, &path, how).map_err(|error| match error {
            nix::errno::Errno::ELOOP => planted("a symbolic link stands on the way"),
            nix::errno::Errno::EXDEV => planted("it leads out of the pod's folder"),
            nix::errno::Errno::EACCES => forbidden(),
            error => Error::io("opening it", error.into()),
        })
    }

    /// The process that listens, if it is one of the pod, and its user.
    fn check_peer(&self, stream: &UnixStream) -> Result<(u32, Uid)> {
        let peer = stream.peer_cred().map_err(|error| Error::io("asking who listens", error))?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        if pid == 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "who listens is not to be seen from this process namespace",
            )
            .advise("The agent's pod needs hostPID: true."));
        }
        let file = self.proc.join(pid.to_string()).join("cgroup");
        let cgroups = std::fs::read_to_string(&file)
            .map_err(|error| Error::io(format!("asking for the cgroup of process {pid}, which listens"), error))?;
        if !is_of_pod(&cgroups, &self.pod) {
            let theirs = cgroups.lines().next().unwrap_or("no cgroup at all").chars().take(200).collect::<String>();
            return Err(planted(&format!("process {pid} listens there, which is not of this pod but of {theirs:?}")));
        }
        Ok((pid, Uid::from_raw(peer.uid())))
    }

    /// Where it is, for messages.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// What is there belongs to another user.
fn forbidden() -> Error {
    Error::new(ErrorKind::Refused, "permission denied").advise(
        "The agent needs uid 0 and the capability DAC_OVERRIDE, and SELinux type spc_t where SELinux is on: see deploy/base/agent.yaml.",
    )
}

/// Somebody in the pod wants us to look elsewhere.
fn planted(what: &str) -> Error {
    Error::new(ErrorKind::Refused, what.to_owned()).advise(
        "A virt-launcher of KubeVirt has no such thing: look into the pod, for somebody in it may try to break out of the VM.",
    )
}

fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Whether one of a process's cgroups (the text of `/proc/<pid>/cgroup`) is of the pod or below it.
///
/// The kubelet names a pod's cgroup `pod<uid>` (driver cgroupfs) or `kubepods-<class>-pod<uid with underscores>.slice`
/// (driver systemd), in version 1 of cgroups as in version 2.
fn is_of_pod(cgroups: &str, pod: &str) -> bool {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).any(|part| {
        let name = part.strip_suffix(".slice").unwrap_or(part);
        let uid = name.rsplit_once("-pod").map_or_else(|| name.strip_prefix("pod"), |(_, uid)| Some(uid));
        uid.is_some_and(|uid| uid.replace('_', "-") == pod)
    })
}
