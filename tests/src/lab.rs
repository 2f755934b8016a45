//! A libvirt of our own: virtlogd and libvirtd in a mount namespace, with their own configuration, sockets and state.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::capabilities;
use crate::domain::DomainBuilder;
use crate::namespace::Namespace;
use crate::process::{Must, Ran, run, wait_until};

/// How long a daemon may take to start: the first start asks every QEMU binary what it can do.
const DAEMON_START: Duration = Duration::from_mins(5);

/// The folders of the host that the daemons must not touch, and the lab's own in their places.
const OWN_FOLDERS: [(&str, &str); 5] = [
    ("etc", "/etc/libvirt"),
    ("run", "/run/libvirt"),
    ("lib", "/var/lib/libvirt"),
    ("cache", "/var/cache/libvirt"),
    ("log", "/var/log/libvirt"),
];

const QEMU_CONF: &str = r#"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "logd"
"#;

/// A private libvirt. Many labs run side by side; each ends with all its processes when it is dropped or when the test
/// process ends, however that happens.
pub struct Lab {
    dir: PathBuf,
    uri: String,
    daemons: Mutex<Daemons>,
    namespace: Option<Namespace>,
    counter: AtomicU32,
}

struct Daemons {
    virtlogd: Child,
    libvirtd: Child,
}

impl Lab {
    /// The one lab of this process, started when it is first asked for.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Lab> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a lab in a new folder below `REMORA_TEST_DIR` or the system's folder for temporary files.
    pub fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the lab needs root: it makes mount namespaces");
        let dir = tempfile::Builder::new()
            .prefix("remora-lab-")
            .tempdir_in(scratch_root())
            .must("make the lab's folder")
            // Its namespace removes it: also when this process is killed.
            .keep();
        for folder in ["sockets", "images", "scratch"] {
            fs::create_dir(dir.join(folder)).must("make the lab's folders");
        }
        let namespace = own_namespace(&dir);
        configure(&dir);
        let known = capabilities::restore(&dir);
        let virtlogd = start_daemon(&namespace, &dir, "virtlogd", &dir.join("own/run/virtlogd-sock"));
        let libvirtd = start_libvirtd(&namespace, &dir);
        let uri = format!("qemu+unix:///system?socket={}", libvirt_socket(&dir).display());
        let daemons = Mutex::new(Daemons { virtlogd, libvirtd });
        let lab = Self { dir, uri, daemons, namespace: Some(namespace), counter: AtomicU32::new(0) };
        lab.virsh(&["capabilities"]); // It takes connections before it is ready.
        capabilities::keep(&lab.dir, &known);
        lab
    }

    /// What to give to `--connect` or `LIBVIRT_DEFAULT_URI`.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The lab's folder, gone with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder that the lab's libvirt knows as `/run/libvirt`.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("own/run")
    }

    /// A new empty folder below the lab's; gone with the lab.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.new_dir("scratch", name)
    }

    /// A new empty folder for a domain's images.
    pub(crate) fn new_image_dir(&self) -> PathBuf {
        self.new_dir("images", "domain")
    }

    fn new_dir(&self, parent: &str, name: &str) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(parent).join(format!("{name}-{number}"));
        fs::create_dir(&dir).must(format_args!("make {}", dir.display()));
        dir
    }

    /// Starts the definition of a domain.
    pub fn domain(&self, name: &str) -> DomainBuilder<'_> {
        DomainBuilder::new(self, name)
    }

    /// Runs `virsh` against this lab; a failure is left to the caller.
    pub fn try_virsh<A: AsRef<OsStr>>(&self, args: &[A]) -> Ran {
        // So many times 5 s a libvirtd may be silent, which may get no processor, or wait for the disk; virsh gives it 6 of them.
        let patience = ["--keepalive-count", "60"];
        run(Command::new("virsh").args(["--quiet", "--connect", &self.uri]).args(patience).args(args))
    }

    /// Runs `virsh` against this lab and gives what it printed.
    #[track_caller]
    pub fn virsh<A: AsRef<OsStr>>(&self, args: &[A]) -> String {
        self.try_virsh(args).ok().text().to_owned()
    }

    /// Runs a command to its end where it sees the lab's `/etc/libvirt`, `/run/libvirt` and so on instead of the host's.
    pub fn run_inside(&self, command: &mut Command) -> Ran {
        let command = command.env("LIBVIRT_DEFAULT_URI", &self.uri);
        self.namespace().enter(|| run(command))
    }

    /// Ends libvirtd in the orderly way and starts it again. Domains keep running.
    pub fn restart_libvirtd(&self) {
        self.replace_libvirtd(Signal::SIGTERM);
    }

    /// Kills libvirtd without a warning and starts it again. Domains keep running.
    pub fn crash_libvirtd(&self) {
        self.replace_libvirtd(Signal::SIGKILL);
    }

    fn replace_libvirtd(&self, signal: Signal) {
        let mut daemons = self.daemons.lock().unwrap_or_else(PoisonError::into_inner);
        kill(pid(&daemons.libvirtd), signal).must("signal libvirtd");
        daemons.libvirtd.wait().must("wait for the end of libvirtd");
        daemons.libvirtd = start_libvirtd(self.namespace(), &self.dir);
    }

    fn namespace(&self) -> &Namespace {
        self.namespace.as_ref().expect("only Drop takes it")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.namespace.take());
        let daemons = self.daemons.get_mut().unwrap_or_else(PoisonError::into_inner);
        for daemon in [&mut daemons.libvirtd, &mut daemons.virtlogd] {
            if let Err(error) = daemon.wait() {
                eprintln!("a daemon of the lab: {error}");
            }
        }
    }
}

/// Where labs and scratch folders are made.
fn scratch_root() -> PathBuf {
    let root = std::env::var_os("REMORA_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    fs::create_dir_all(&root).must(format_args!("make {}", root.display()));
    root
}

fn own_namespace(dir: &Path) -> Namespace {
    let own = OWN_FOLDERS.map(|(ours, host)| (dir.join("own").join(ours), host));
    for (ours, _) in &own {
        fs::create_dir_all(ours).must(format_args!("make {}", ours.display()));
    }
    let binds: Vec<_> = own.iter().map(|(ours, host)| (ours.as_path(), Path::new(*host))).collect();
    Namespace::new(dir, &binds)
}

fn configure(dir: &Path) {
    fs::write(dir.join("own/etc/qemu.conf"), QEMU_CONF).must("write qemu.conf");
    let root = dir.display();
    let libvirtd = format!(
        "unix_sock_dir = \"{root}/sockets\"\nunix_sock_rw_perms = \"0700\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n\
         max_clients = 200\nlog_outputs = \"2:file:{root}/libvirtd.log\"\n"
    );
    fs::write(dir.join("libvirtd.conf"), libvirtd).must("write libvirtd.conf");
    let virtlogd = format!("log_outputs = \"2:file:{root}/virtlogd.log\"\n");
    fs::write(dir.join("virtlogd.conf"), virtlogd).must("write virtlogd.conf");
}

fn libvirt_socket(dir: &Path) -> PathBuf {
    dir.join("sockets/libvirt-sock")
}

fn start_libvirtd(namespace: &Namespace, dir: &Path) -> Child {
    start_daemon(namespace, dir, "libvirtd", &libvirt_socket(dir))
}

/// Starts a daemon in the foreground and waits until it takes connections.
fn start_daemon(namespace: &Namespace, dir: &Path, name: &str, socket: &Path) -> Child {
    let output = dir.join(format!("{name}.out"));
    let file = File::create(&output).must("make a daemon's output file");
    let errors = file.try_clone().must("share a daemon's output file");
    let mut daemon = namespace.enter(|| {
        Command::new(Path::new("/usr/sbin").join(name))
            .arg("-f")
            .arg(dir.join(format!("{name}.conf")))
            .arg("-p")
            .arg(dir.join(format!("{name}.pid")))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .must(format_args!("start {name} (package libvirt-daemon-system; `make setup` installs it)"))
    });
    wait_until(format_args!("{name} takes no connections at {}", socket.display()), DAEMON_START, || {
        if let Some(status) = daemon.try_wait().must("look after a daemon") {
            panic!("{name} ended with {status}: {}", fs::read_to_string(&output).unwrap_or_default());
        }
        UnixStream::connect(socket).is_ok()
    });
    daemon
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id fits into pid_t"))
}
