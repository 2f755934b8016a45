//! SIGKILL at many instants. What is asserted holds at every instant, so that nothing depends on the timing.

use std::time::Instant;

use remora_tests::Agent;

use super::*;
use crate::cases::quiesce::was_slow;

/// Something that can be seen from outside when a backup has come so far. The killer waits for it, for at most as long
/// as the backup runs.
#[derive(Clone, Copy, Debug)]
enum Sign {
    /// So long after the start.
    After(Duration),
    /// The VM's lock has its process id in it.
    Lock,
    /// The folder for its socket is there: the watchdog is about to be started.
    SocketFolder,
    /// A scratch file is there: libvirt begins the job.
    Scratch,
    /// QEMU serves.
    Socket,
    /// So many new objects are in the repository, whole or being written.
    Objects(usize),
    /// The new manifest is there: the point exists, nothing was told to anybody.
    Manifest,
}

const SIGNS: [Sign; 8] = [
    Sign::Lock,
    Sign::SocketFolder,
    Sign::Scratch,
    Sign::Socket,
    Sign::Objects(1),
    Sign::Objects(2),
    Sign::Objects(3),
    Sign::Manifest,
];

/// What the next backup is told: libvirt may still be busy with the job that a dead run asked it for, which it cannot be told to end
/// before it has begun.
const PATIENT: [&str; 1] = ["--wait=5m"];

/// What costs or holds something, as it is when this is told.
struct Left<'a>(&'a Protected<'a>);

impl std::fmt::Display for Left<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, or the watchdog", self.0.harmful_left())
    }
}

/// What else dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victims {
    /// The backup alone; its watchdog lives.
    Backup,
    /// Both at once: nobody cleans up until the next run.
    WatchdogToo,
}

impl Sign {
    fn seen(self, protected: &Protected<'_>, before: &BTreeSet<PathBuf>, backup: Pid, start: Instant) -> bool {
        let lock = || protected.sockets().with_extension("lock");
        let new = || protected.objects().difference(before).cloned().collect::<Vec<_>>();
        match self {
            Self::After(time) => start.elapsed() >= time,
            Self::Lock => fs::read_to_string(lock()).is_ok_and(|text| text == backup.to_string()),
            Self::SocketFolder => protected.sockets().exists(),
            Self::Scratch => list(protected.domain.dir()).iter().any(|name| name.starts_with(".remora-scratch-")),
            Self::Socket => !list(&protected.sockets()).is_empty(),
            Self::Objects(count) => new().len() >= count,
            Self::Manifest => new().iter().any(|object| {
                let in_manifests = object.parent().is_some_and(|folder| folder.ends_with("m"));
                in_manifests && !object.to_string_lossy().contains('#')
            }),
        }
    }
}

impl Protected<'_> {
    /// Starts a backup, kills it when the sign is seen, and takes in the point if it was made all the same.
    fn kill_backup(&mut self, args: &[&str], sign: Sign, victims: Victims) {
        let (truth, before, start) = (self.domain.truth("vda"), self.objects(), Instant::now());
        let mut backup = self.remora.spawn(["backup", self.domain.name()].iter().chain(args));
        while !sign.seen(self, &before, pid(&backup), start) && backup.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        let watchdogs = Process::children(pid(&backup));
        if victims == Victims::WatchdogToo {
            // Stopped first, so that the watchdog has no time to notice.
            for process in watchdogs.iter().map(|watchdog| watchdog.pid).chain([pid(&backup)]) {
                kill(process, Signal::SIGSTOP).ok();
            }
            for watchdog in &watchdogs {
                kill(watchdog.pid, Signal::SIGKILL).ok();
            }
        }
        backup.kill().unwrap();
        backup.wait().unwrap();
        if victims == Victims::Backup {
            wait_until(format_args!("after {sign:?} there stays {}", Left(self)), CLEANED_UP, || {
                self.harmful_left().is_empty() && watchdogs.iter().all(Process::is_gone)
            });
        }
        let listed = ids(&self.remora.json(["points"]));
        if let Some(made) = listed.get(self.kept.len()) {
            self.kept.push(Kept { id: made.clone(), truth });
        }
        self.assert_listed();
    }

    /// After a kill: all is sound, the newest point restores, and so does the next, which is made as if nothing had
    /// happened. `round` makes what changes in between unlike what changed before.
    fn assert_goes_on(&mut self, round: u64) {
        self.remora.ok(["verify"]);
        if let Some(newest) = self.kept.last() {
            self.assert_restores(newest);
        }
        self.change(round);
        self.back_up(&PATIENT);
        self.assert_restores(self.kept.last().unwrap());
        self.assert_nothing_left();
        assert_eq!(self.checkpoints().len(), 1, "those of dead runs are gone with the next point");
        let collected = self.remora.json(["gc"])[0].clone();
        let waits = (&collected["sessions"], &collected["ended"], &collected["waiting"]["segments"]);
        assert_eq!(waits, (&0.into(), &0.into(), &0.into()), "the dead run's session has ended: {collected}");
    }

    fn change(&self, round: u64) {
        let (at, len) = ((round * 7) % 24 * MIB, 64 << 10);
        self.domain.write_bytes("vda", at, &random(&format!("round {round}"), 6 * len));
        self.domain.write("vda", (round % 250) as u8 + 1, at + 2 * MIB + len, len);
        self.domain.write_zeros("vda", (at + 5 * MIB) % (32 * MIB), len);
    }
}

/// The instants: all signs, and `sweep` more between the start and the end of an undisturbed backup.
fn instants(undisturbed: Duration, sweep: u32) -> impl Iterator<Item = Sign> {
    let part = undisturbed / (sweep + 1);
    SIGNS.into_iter().chain((1..=sweep).map(move |n| Sign::After(part * n)))
}

#[test]
fn a_first_backup_that_was_killed_is_no_point_and_the_next_one_is() {
    let start = Instant::now();
    let mut probe = Protected::new("killed first", 48 * MIB);
    probe.back_up(&[]);
    let undisturbed = start.elapsed();
    for (round, sign) in
        [Sign::SocketFolder, Sign::Socket, Sign::Objects(2), Sign::After(undisturbed / 2)].into_iter().enumerate()
    {
        // The VM's checkpoints of the other repositories stay, which is as it must be.
        let mut protected = Protected { domain: probe.domain, remora: Remora::init(Lab::shared()), kept: Vec::new() };
        let others = protected.checkpoints();
        let victims = if round % 2 == 0 { Victims::Backup } else { Victims::WatchdogToo };
        protected.kill_backup(&[], sign, victims);
        protected.change(round as u64);
        protected.back_up(&PATIENT);
        protected.assert_all_restore();
        protected.remora.ok(["verify"]);
        protected.assert_nothing_left();
        assert!(protected.checkpoints().is_superset(&others));
        assert_eq!(protected.checkpoints().len(), others.len() + 1);
        probe.domain = protected.domain;
    }
}

#[test]
fn full_backups_killed_at_many_instants_lose_nothing() {
    let mut protected = Protected::new("killed full", 32 * MIB);
    protected.back_up(&[]);
    let start = Instant::now();
    protected.back_up(&["--full"]);
    for (round, sign) in instants(start.elapsed(), 2).enumerate() {
        protected.kill_backup(&["--full"], sign, Victims::Backup);
        protected.assert_goes_on(round as u64);
    }
    protected.assert_all_restore();
}

#[test]
fn increments_killed_at_many_instants_lose_nothing() {
    let mut protected = Protected::new("killed increment", 32 * MIB);
    protected.back_up(&[]);
    protected.change(100);
    let start = Instant::now();
    assert_eq!(protected.back_up(&[])["decision"], "incremental");
    for (round, sign) in instants(start.elapsed(), 2).enumerate() {
        protected.change(200 + round as u64);
        protected.kill_backup(&[], sign, Victims::Backup);
        protected.assert_goes_on(round as u64);
    }
    protected.assert_all_restore();
}

#[test]
fn what_a_backup_killed_together_with_its_watchdog_leaves_is_ended_by_the_next() {
    let mut protected = Protected::new("killed both", 32 * MIB);
    protected.back_up(&[]);
    for (round, sign) in SIGNS.into_iter().enumerate() {
        protected.change(200 + round as u64);
        let args: &[&str] = if round % 2 == 0 { &[] } else { &["--full"] };
        protected.kill_backup(args, sign, Victims::WatchdogToo);
        protected.assert_goes_on(round as u64);
    }
    protected.assert_all_restore();
}

#[test]
fn a_guest_is_not_left_frozen_by_a_killed_backup() {
    let lab = Lab::shared();
    let domain = lab.domain("killed frozen").disk(DiskSpec::qcow2("vda", 16 * MIB)).booted(Agent::Works);
    let protected = Protected { domain, remora: Remora::init(lab), kept: Vec::new() };
    let guest = protected.domain.guest();
    for (round, delay) in [0, 20, 60, 120, 200, 320].into_iter().enumerate() {
        // That of the round before: this backup's is waited for.
        fs::remove_dir(protected.sockets()).ok();
        let mut backup = protected.remora.spawn(["backup", protected.domain.name(), "--quiesce", "required"]);
        wait_until("the backup does not come to its socket", SOON, || {
            protected.sockets().exists() || backup.try_wait().unwrap().is_some()
        });
        std::thread::sleep(Duration::from_millis(delay));
        backup.kill().unwrap();
        backup.wait().unwrap();
        wait_until("the guest stays frozen", Duration::from_mins(5), || !guest.frozen());
        wait_until("the watchdog does not clean up", CLEANED_UP, || protected.harmful_left().is_empty());
        assert_eq!(guest.sh(&format!("echo {round} > /file && cat /file")).trim(), round.to_string());
    }
    // Refused on a busy machine, where that takes too long.
    let whole = (0..100).find_map(|_| {
        let line = ["backup", protected.domain.name(), "--quiesce", "required", "-o", "json"];
        let ran = protected.remora.run(line.iter().chain(&PATIENT));
        (!was_slow(&ran)).then_some(ran)
    });
    let report = whole.expect("the guest is never frozen for long enough").ok().json();
    assert_eq!(protected.remora.json(["show", report["point"].as_str().unwrap()])["quiesced"], "frozen");
    assert!(!guest.frozen());
    protected.assert_nothing_left();
}
