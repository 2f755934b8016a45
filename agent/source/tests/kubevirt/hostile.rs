//! A launcher pod that plants things where we look, and servers that lie: contained, and said so.

use std::collections::BTreeSet;
use std::fs;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::Mode;
use remora_core::plan::Asked;
use remora_core::ports::{Mover, NoProgress, Patience, Source};
use remora_core::testing::FakeMover;
use remora_core::{Error, ErrorKind, PointId, RepositoryId, Result, VmName};
use remora_engine::{BackupReport, BackupRequest, backup};
use remora_source::kubevirt::{KubevirtOptions, KubevirtSource};
use remora_tests::MIB;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::bench::{After, Bench};
use crate::cluster::{FakeCluster, Hypervisor, LEFT_OUT};
use crate::launcher::Node;
use crate::liar::{Lie, serve};
use crate::wait_for;

/// Nothing runs jobs: what is in the folder was put there.
struct Planted;

impl Hypervisor for Planted {
    fn start(&self, _: &str, _: Option<&str>) {}
    fn stop(&self) {}
}

/// A VM of one disk of a MiB, and a node whose launcher pod is hostile.
struct Trap {
    node: Node,
    cluster: Arc<FakeCluster>,
    mover: FakeMover,
    answer_within: Duration,
}

/// How long an answer may take that comes, on a busy machine.
const ANSWERS: Duration = Duration::from_mins(5);

/// How long one is waited for that never comes.
const NEVER_ANSWERS: Duration = Duration::from_secs(2);

/// How long one is waited for by a run that is to outlast others.
const OUTLASTS: Duration = Duration::from_hours(1);

impl Trap {
    fn new() -> Self {
        let node = Node::new();
        let cluster = FakeCluster::new("tenant/vm", &node.pod, &[("disk", MIB)], Box::new(Planted));
        Self { node, cluster, mover: FakeMover::default(), answer_within: ANSWERS }
    }

    /// With a server of our own in the pod.
    fn served(lie: Lie) -> Self {
        Self::watched(lie).0
    }

    /// The same, and the connections on which it is waited for in vain.
    fn watched(lie: Lie) -> (Self, mpsc::Receiver<UnixStream>) {
        let mut trap = Self::new();
        if matches!(lie, Lie::Mute | Lie::NoReads(_)) {
            trap.answer_within = NEVER_ANSWERS;
        }
        let waits = serve(&trap.node.short_path(), lie);
        trap.node.adopt(std::process::id());
        trap.node.move_in();
        (trap, waits)
    }

    fn source(&self) -> KubevirtSource {
        let options = KubevirtOptions {
            pods: self.node.pods(),
            proc: self.node.proc(),
            start_within: Duration::from_secs(2),
            answer_within: self.answer_within,
            retirer: crate::retirer(),
        };
        KubevirtSource::new(Arc::clone(&self.cluster) as _, options)
    }

    /// All checkpoints of a repository are to go.
    async fn retire(&self) -> Result<()> {
        let claimed = self.source().claim(&VmName::new("tenant/vm").unwrap(), Patience::None).await?;
        claimed.retire(RepositoryId::random(), &BTreeSet::new()).await
    }

    /// A socket of the launcher's libvirt, on which a process of this user began to listen.
    fn libvirt_of(&self, user: u32) -> UnixListener {
        let path = self.node.short_path();
        let socket = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "listener_process", crate::LISTENER, "--quiet"]).uid(user).gid(user);
        command.stdin(OwnedFd::from(socket.try_clone().unwrap())).stdout(Stdio::null());
        let mut process = command.spawn().unwrap();
        assert!(process.wait().unwrap().success());
        self.node.adopt(process.id());
        fs::rename(path, self.node.volume("libvirt-runtime").join("virtqemud-sock")).unwrap();
        socket
    }

    async fn run(&self) -> Result<BackupReport> {
        self.run_into(&self.mover).await
    }

    async fn run_into(&self, mover: &dyn Mover) -> Result<BackupReport> {
        let source = self.source();
        let request = BackupRequest {
            vm: self.cluster.state().facts.vm.clone(),
            disks: None,
            asked: Asked::Auto,
            quiesce: remora_core::point::Quiesce::Preferred,
            patience: remora_core::ports::Patience::None,
            spot_checks: 4,
            memory: remora_core::MemoryBudget::new(16 * MIB),
        };
        let done = backup(&source, mover, request, Arc::new(NoProgress), CancellationToken::new()).await;
        assert!(!self.cluster.has_backup(), "a backup is left behind");
        done
    }

    /// A run that fails and makes no point.
    #[track_caller]
    fn assert_refused(&self, kind: ErrorKind, word: &str) -> Error {
        let run = async { timeout(Duration::from_mins(10), self.run()).await.expect("a run must end") };
        let error = wait_for(run).map(|report| report.point).unwrap_err();
        assert!(error.kind() == kind && error.chain().contains(word), "{:?}: {}", error.kind(), error.chain());
        assert!(wait_for(self.mover.list(None)).unwrap().points.is_empty());
        error
    }
}

#[test]
fn an_honest_server_in_the_pod_is_read() {
    let trap = Trap::served(Lie::None(MIB));
    assert!(trap.node.nbd_socket().as_os_str().len() > 108, "the path is as long as on a node");
    let report = wait_for(trap.run()).unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(trap.mover.bytes(&report.point.id, 0).unwrap(), vec![0x5a; MIB as usize]);
}

#[test]
fn a_symbolic_link_is_followed_nowhere_on_the_way() {
    let pod = PathBuf::from("3c0a2b1c-1111-4222-8333-444455556666");
    let components = [
        "",
        "volumes",
        "volumes/kubernetes.io~empty-dir",
        "volumes/kubernetes.io~empty-dir/sockets",
        "volumes/kubernetes.io~empty-dir/sockets/backup-nbd-sock",
    ];
    for component in components {
        for target in ["away", "relative"] {
            let trap = Trap::served(Lie::None(MIB));
            let linked = trap.node.pods().join(&pod).join(component);
            let linked = linked.components().collect::<PathBuf>();
            let away = trap.node.pods().parent().unwrap().join("away");
            let beside = linked.with_file_name("beside");
            // What it leads to is all right: only that it is a link is not.
            let real = if target == "away" { &away } else { &beside };
            fs::rename(&linked, real).unwrap();
            symlink(if target == "away" { away.clone() } else { "beside".into() }, &linked).unwrap();
            trap.assert_refused(ErrorKind::Refused, "a symbolic link stands on the way");
        }
    }
}

#[test]
fn what_is_no_socket_is_not_opened() {
    for plant in ["file", "fifo", "folder"] {
        let trap = Trap::new();
        let socket = trap.node.nbd_socket();
        match plant {
            "file" => fs::write(&socket, "x").unwrap(),
            // One that nobody writes to would hold up who opens it.
            "fifo" => nix::unistd::mkfifo(&socket, Mode::from_bits_truncate(0o666)).unwrap(),
            _ => fs::create_dir(&socket).unwrap(),
        }
        trap.assert_refused(ErrorKind::Refused, "it is no socket");
    }
    let trap = Trap::new();
    trap.assert_refused(ErrorKind::NotFound, "backup-nbd-sock of launcher pod 3c0a2b1c");
    // A socket that a process left behind. Shut down: a program that another test starts has a copy until its exec.
    let left = UnixStream::from(OwnedFd::from(UnixListener::bind(trap.node.short_path()).unwrap()));
    left.shutdown(Shutdown::Both).unwrap();
    trap.node.move_in();
    trap.assert_refused(ErrorKind::Unavailable, "does not answer");
}

#[test]
fn a_listener_that_is_not_of_the_pod_is_refused_and_named() {
    let other = "9c0a2b1c-1111-4222-8333-444455556666";
    let uid = "3c0a2b1c-1111-4222-8333-444455556666";
    for cgroups in [
        format!("0::/kubepods/burstable/pod{other}/0123\n"),
        format!("0::/kubepods/burstable/pod{uid}0/0123\n"),
        format!("0::/kubepods/burstable/xpod{uid}/0123\n"),
        format!("0::/system.slice/{uid}.service\n"),
        String::new(),
    ] {
        let trap = Trap::served(Lie::None(MIB));
        trap.node.put(std::process::id(), &cgroups);
        let error = trap.assert_refused(ErrorKind::Refused, "which is not of this pod");
        assert!(error.chain().contains(cgroups.trim()) && error.advice().is_some(), "{}", error.chain());
    }
    // In the ways of cgroups 1 and 2, and of both drivers of the kubelet.
    let under = uid.replace('-', "_");
    for cgroups in [
        format!("0::/kubepods/burstable/pod{uid}/0123\n"),
        format!("0::/../../kubepods-pod{under}.slice/cri-containerd-0123.scope\n"),
        format!("12:pids:/kubepods/pod{uid}/0123\n1:name=systemd:/kubepods/pod{uid}/0123\n"),
        format!(
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice:cri-containerd:0123\n0::/pod{uid}\n"
        ),
    ] {
        let trap = Trap::served(Lie::None(MIB));
        trap.node.put(std::process::id(), &cgroups);
        wait_for(trap.run()).unwrap_or_else(|error| panic!("{cgroups}: {}", error.chain()));
    }
}

#[test]
fn a_pods_uid_is_no_path() {
    for uid in ["..", "", "a/b", "../x", "a\0b", &"a".repeat(65)] {
        let trap = Trap::new();
        trap.cluster.state().facts.instance.as_mut().unwrap().pod = uid.into();
        trap.assert_refused(ErrorKind::Invalid, "is no pod's UID");
        assert!(trap.cluster.state().wishes.is_empty());
    }
}

#[test]
fn a_server_that_lies_about_a_disks_size_is_not_believed() {
    Trap::served(Lie::None(u64::MAX)).assert_refused(ErrorKind::Unavailable, "larger than any disk");
    for size in [1 << 62, 65 << 40, 18 * MIB + (1 << 30), 0] {
        let trap = Trap::served(Lie::None(size));
        trap.assert_refused(ErrorKind::Refused, &format!("is said to have {size} bytes"));
    }
}

#[test]
fn a_server_that_lies_about_what_its_exports_can_do_is_refused_or_only_read() {
    Trap::served(Lie::Flags(MIB, 0xfffe)).assert_refused(ErrorKind::Unavailable, "broke the protocol");
    // Writable, or with all that there is and will be: nothing is made of it.
    for flags in [1, 0xffff] {
        let trap = Trap::served(Lie::Flags(MIB, flags));
        let report = wait_for(trap.run()).unwrap_or_else(|error| panic!("{flags:#x}: {}", error.chain()));
        assert_eq!(trap.mover.bytes(&report.point.id, 0).unwrap(), vec![0x5a; MIB as usize]);
    }
}

#[test]
fn a_server_that_stalls_hangs_up_or_never_ends_costs_bounded_time_and_no_point() {
    // Beside each other: each run looks for half a minute whether the end of its job was the cause.
    std::thread::scope(|scope| {
        for (lie, word) in [
            (Lie::Mute, "did not answer the handshake within 2 s"),
            (Lie::NoReads(MIB), "within 2 s"),
            (Lie::HangsUp(MIB), "broke off"),
            (Lie::EndlessExtents(MIB), "broke the protocol"),
        ] {
            scope.spawn(move || {
                Trap::served(lie).assert_refused(ErrorKind::Unavailable, word);
            });
        }
    });
}

/// A run into a bench's repository that waits in vain for its server.
struct Stuck {
    trap: Arc<Trap>,
    run: JoinHandle<Result<PointId>>,
    connection: UnixStream,
}

impl Stuck {
    /// One that waits already.
    fn new(bench: &Arc<Bench>, vm: &str, lie: Lie) -> Self {
        let (mut trap, waits) = Trap::watched(lie);
        trap.answer_within = OUTLASTS;
        trap.cluster.state().facts.vm = VmName::new(vm).unwrap();
        let (trap, bench) = (Arc::new(trap), Arc::clone(bench));
        let running = Arc::clone(&trap);
        let run = tokio::spawn(async move { running.run_into(&bench.vault).await.map(|report| report.point.id) });
        let connection = block_in_place(|| waits.recv_timeout(ANSWERS)).expect("its server is not asked");
        Self { trap, run, connection }
    }

    /// It waits still. Now its job ends, and its server hangs up.
    async fn end(self) -> Error {
        assert!(!self.run.is_finished());
        self.trap.cluster.end_job("it is completed");
        self.connection.shutdown(Shutdown::Both).unwrap();
        self.run.await.unwrap().unwrap_err()
    }
}

#[test]
fn hostile_servers_hurt_no_run_beside_theirs() {
    wait_for(async {
        let bench = Arc::new(Bench::new().await);
        let stuck = [("tenant/mute", Lie::Mute), ("tenant/unread", Lie::NoReads(MIB))]
            .map(|(vm, lie)| Stuck::new(&bench, vm, lie));
        // In the midst of an honest server's run that of another hostile one fails.
        let (tell, failed) = mpsc::channel();
        let fail = move || {
            let done = Handle::current().block_on(Trap::served(Lie::EndlessExtents(MIB)).run());
            tell.send(done.map(|report| report.point.id)).unwrap();
        };
        let done = bench.try_run(bench.request(), After::first_bytes(fail)).await;
        let report = done.unwrap_or_else(|error| panic!("{}", error.chain()));
        bench.assert_is_now(&report.point);
        let failed = failed.try_recv().unwrap().unwrap_err();
        assert!(failed.chain().contains("broke the protocol"), "{}", failed.chain());
        for stuck in stuck {
            let error = stuck.end().await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
            assert!(error.chain().contains("ended by somebody else"), "{}", error.chain());
        }
        let points: Vec<_> = bench.points().await.into_iter().map(|point| point.id).collect();
        assert_eq!(points, [report.point.id]);
    });
}

#[test]
fn another_process_that_answers_for_the_second_disk_is_noticed() {
    wait_for(async {
        let bench = Bench::new().await;
        bench.run().await;
        let node = Arc::clone(&bench.node);
        bench.cluster.state().on_latest = Some(Box::new(move || {
            serve(&node.short_path(), Lie::None(8 * MIB));
            node.adopt(std::process::id());
            node.move_in();
        }));
        let error = bench.fail(Asked::Auto, Arc::new(NoProgress)).await;
        let own = std::process::id();
        assert!(error.chain().contains(&format!("and is of process {own} now")), "{}", error.chain());
    });
}

#[test]
fn a_launchers_libvirt_that_cannot_be_had_costs_a_note_and_no_run() {
    wait_for(async {
        let mut bench = Bench::new().await;
        bench.run().await;
        let socket = bench.node.volume("libvirt-runtime").join("virtqemud-sock");
        fs::rename(&socket, socket.with_file_name("real")).unwrap();
        symlink("real", &socket).unwrap();
        bench.domain.write("vda", 5, 9 * MIB, MIB);
        let next = bench.run().await;
        assert!(next.notes[1].contains("a symbolic link stands on the way"), "{:?}", next.notes);
        assert_eq!(bench.checkpoints().len(), 2);
        fs::rename(socket.with_file_name("real"), &socket).unwrap();
        let retirer =
            std::mem::replace(&mut bench.options.retirer, vec!["sh".into(), "-c".into(), "echo no >&2; exit 3".into()]);
        let next = bench.run().await;
        assert!(next.notes[1].contains("it failed: no (exit status: 3)"), "{:?}", next.notes);
        bench.options.retirer = retirer;
        let next = bench.run().await;
        assert_eq!((next.notes.as_slice(), bench.checkpoints().len()), (&[LEFT_OUT.to_owned()][..], 1));
        bench.assert_is_now(&next.point);
    });
}

/// What the kernel knows of who came to a socket, as he waits for an answer.
struct Came {
    command: String,
    /// Of each thread but the first one, which is the test harness's.
    threads: Vec<String>,
    open: Vec<PathBuf>,
}

/// Who comes first that is not this process, and is then sent away.
fn who_comes(socket: UnixListener) -> mpsc::Receiver<Came> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let (stream, _) = socket.accept().unwrap();
            let peer = getsockopt(&stream, sockopt::PeerCredentials).unwrap().pid();
            if peer.unsigned_abs() == std::process::id() {
                continue;
            }
            let of = PathBuf::from(format!("/proc/{peer}"));
            let list = |what: &str| fs::read_dir(of.join(what)).unwrap().map(|entry| entry.unwrap().path());
            let others = list("task").filter(|task| task.file_name() != of.file_name());
            // What is listed may be gone already.
            let threads = others.filter_map(|task| fs::read_to_string(task.join("status")).ok()).collect();
            let open = list("fd").filter_map(|fd| fs::read_link(fd).ok()).collect();
            let command = fs::read_to_string(of.join("cmdline")).unwrap();
            tell.send(Came { command, threads, open }).unwrap();
            return;
        }
    });
    told
}

#[test]
fn who_removes_checkpoints_is_root_only_where_root_listens_and_never_has_a_capability() {
    for (user, driver) in [(107, "session"), (0, "system")] {
        let trap = Trap::new();
        // Something of the agent's that each child of its inherits.
        let inherited = fs::canonicalize(trap.node.proc()).unwrap();
        let open = fs::File::open(&inherited).unwrap();
        fcntl(&open, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let told = who_comes(trap.libvirt_of(user));
        let error = wait_for(trap.retire()).unwrap_err();
        let came = told.try_recv().unwrap_or_else(|_| panic!("nobody came: {}", error.chain()));
        assert!(came.command.contains(&format!("\"driver\":\"{driver}\"")), "{}", came.command);
        assert!(!came.open.contains(&inherited), "{:?}", came.open);
        assert!(!came.threads.is_empty());
        for thread in &came.threads {
            let value = |name: &str| thread.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
            let users = vec![user.to_string(); 4].join("\t");
            assert_eq!((value("Uid:"), value("Gid:"), value("NoNewPrivs:")), (&*users, &*users, "1"));
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                assert_eq!(value(set), "0000000000000000", "{set} of user {user}");
            }
        }
    }
}
