//! A server that goes down, sends half an answer, none, or is slow, in the middle of a command: what was committed stays,
//! the message says what was tried and what to do, and the next command is right.

use std::thread;

use remora_tests::{Fault, Ran, wait_until};

use super::*;

/// How long the server takes to hear of each request where it is slow.
const SLOW: Duration = Duration::from_millis(200);

/// For ever.
const ALWAYS: usize = usize::MAX;

/// So many connections in vain do not make a backup give up: more than a store's client, or a mover's host, repeats what fails
/// otherwise.
const IN_VAIN: usize = 20;

/// A VM, and `remora` that reaches its repository through a meddler.
struct Meddled {
    vm: Protected,
    meddler: Meddler,
    through: Remora,
    _plugin: Option<Plugin>,
}

impl Meddled {
    fn new(name: &str) -> Self {
        let vm = Protected::new(name);
        let meddler = Meddler::before(vm.s3.address());
        let through = vm.remora.clone().with("REMORA_REPO", vm.s3.url_at("backups", meddler.address()));
        Self { vm, meddler, through, _plugin: None }
    }

    /// With the same bucket behind the mover of the SDK's example, which reaches it through the meddler.
    fn behind_a_plugin(name: &str) -> Self {
        let vm = Protected::behind_a_plugin(name);
        let meddler = Meddler::before(vm.s3.address());
        let plugin = Plugin::of_bucket(meddler.address(), "backups");
        let through = vm.remora.clone().with("REMORA_PLUGINS", plugin.folder());
        Self { vm, meddler, through, _plugin: Some(plugin) }
    }

    fn backup(&self) -> Ran {
        self.through.run(["backup", self.vm.domain.name(), "--quiesce", "never", "-o", "json"])
    }

    /// A backup through the meddler that succeeds.
    fn back_up(&self) -> Kept {
        let truth = self.vm.domain.truth("vda");
        Kept { report: self.backup().ok().json(), truth }
    }

    /// Changes 20 MiB, which are two segments.
    fn change(&self, seed: &str) {
        self.vm.domain.write_bytes("vda", 10 * MIB, &random_bytes(seed, 20 << 20));
    }

    /// A restore fails whose server does this to each answer that has data of the disk, and makes no file. The server is well
    /// otherwise: to others it answers.
    #[track_caller]
    fn fails_to_restore(&self, point: &str, fault: Fault) {
        let meddler = Meddler::before(self.vm.s3.address());
        let through = self.vm.remora.clone().with("REMORA_REPO", self.vm.s3.url_at("backups", meddler.address()));
        let folder = Lab::shared().scratch("broken off");
        let to = folder.join("vda.raw");
        meddler.meddle("GET", "/s/", fault, ALWAYS);
        let ran = through.run(["restore", point, "--disk", "vda", "--to", to.to_str().unwrap()]);
        assert!(meddler.left() < ALWAYS, "{fault:?}");
        self.assert_unavailable(&meddler, &ran);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{fault:?}");
    }

    /// Failed because of the store, which is named as it was reached; says what to do; and of the VM nothing is held any more.
    #[track_caller]
    fn assert_unavailable(&self, meddler: &Meddler, ran: &Ran) {
        assert_eq!(ran.code(), 9, "{ran:?}");
        let address = meddler.address().to_string();
        let (store, why, advice) = match self.vm.plugin {
            Some(_) => ("mover s3: ", "the store was waited for in vain for ", "Check the store"),
            None => (address.as_str(), "", "Check the endpoint"),
        };
        for words in [store, " object ", why, advice, "what was committed is safe"] {
            assert!(ran.stderr.contains(words), "{words:?} is not in {ran:?}");
        }
        assert!(!ran.stderr.contains("panicked") && ran.stdout.is_empty(), "{ran:?}");
        let job = self.vm.domain.try_virsh("backup-dumpxml", &[]);
        assert!(!job.status.success(), "a backup job stays: {job:?}");
        let scratch = fs::read_dir(self.vm.domain.dir()).unwrap().map(|entry| entry.unwrap().file_name());
        let scratch: Vec<_> = scratch.filter(|name| name.to_string_lossy().starts_with(".remora")).collect();
        assert!(scratch.is_empty(), "{scratch:?} stay");
    }

    /// These points are there, no other ones, and each is what the hypervisor held.
    #[track_caller]
    fn assert_kept(&self, kept: &[Kept]) {
        let listed = self.vm.remora.json(["points"]);
        let listed: Vec<_> = listed.as_array().unwrap().iter().map(|point| point["point"].as_str().unwrap()).collect();
        assert_eq!(listed, kept.iter().map(Kept::point).collect::<Vec<_>>());
        for kept in kept {
            self.vm.assert_restores(kept);
        }
        self.vm.remora.ok(["verify"]);
    }
}

#[test]
fn a_server_that_goes_down_in_mid_backup_for_good_costs_no_committed_point() {
    // Beside each other: each is waited for during two minutes.
    thread::scope(|scope| {
        for (name, (path, fault)) in ["on s3 gone", "on s3 uncommitted", "on s3 committed"].into_iter().zip(GOING) {
            scope.spawn(move || goes_for_good(&Meddled::new(name), path, fault));
        }
    });
}

#[test]
fn a_server_behind_a_plugin_that_goes_down_in_mid_backup_for_good_costs_no_committed_point() {
    thread::scope(|scope| {
        let names = ["by plugin gone", "by plugin uncommitted", "by plugin committed"];
        for (name, (path, fault)) in names.into_iter().zip(GOING) {
            scope.spawn(move || goes_for_good(&Meddled::behind_a_plugin(name), path, fault));
        }
    });
}

/// Before the first segment is stored, and just before and after the commit.
const GOING: [(&str, Fault); 3] = [("/s/", Fault::GoDown), ("/m/", Fault::GoDown), ("/m/", Fault::LoseAnswerAndGoDown)];

/// A backup fails, for the server goes down when it is asked to store this, and stays away for longer than it is waited for.
fn goes_for_good(bench: &Meddled, path: &str, fault: Fault) {
    bench.change("at first");
    let mut kept = vec![bench.back_up()];
    bench.change("then");
    let truth = bench.vm.domain.truth("vda");
    bench.meddler.meddle("PUT", path, fault, 1);
    let ran = bench.backup();
    assert!(bench.meddler.is_down(), "it never came to {path}");
    bench.assert_unavailable(&bench.meddler, &ran);
    bench.meddler.come_back();
    // The backup could not know that it was committed; the point counts all the same.
    let points = bench.vm.remora.json(["points"]);
    if fault == Fault::LoseAnswerAndGoDown {
        kept.push(Kept { report: points[kept.len()].clone(), truth });
    }
    bench.assert_kept(&kept);
    bench.vm.domain.write("vda", 0x5a, 100 * MIB, MIB);
    kept.push(bench.back_up());
    bench.assert_kept(&kept);
}

#[test]
fn a_server_that_is_away_for_a_while_costs_a_backup_nothing_but_time() {
    is_away_for_a_while(&Meddled::new("on s3 away"));
}

#[test]
fn a_server_behind_a_plugin_that_is_away_for_a_while_costs_a_backup_nothing_but_time() {
    is_away_for_a_while(&Meddled::behind_a_plugin("by plugin away"));
}

fn is_away_for_a_while(bench: &Meddled) {
    bench.change("at first");
    let mut kept = vec![bench.back_up()];
    for (path, fault) in GOING {
        bench.change(&format!("{path} {fault:?}"));
        let before = bench.meddler.turned_away();
        bench.meddler.meddle("PUT", path, fault, 1);
        kept.push(thread::scope(|scope| {
            let backup = scope.spawn(|| bench.back_up());
            let waits = || bench.meddler.turned_away() > before + IN_VAIN || backup.is_finished();
            wait_until(format_args!("nobody waits for {path}"), Duration::from_mins(5), waits);
            bench.meddler.come_back();
            backup.join().unwrap()
        }));
    }
    bench.assert_kept(&kept);
}

#[test]
fn answers_that_break_off_now_and_then_are_asked_for_again() {
    // A restore goes on with a chunk where its last answer broke off.
    asks_again(&Meddled::new("on s3 torn"), ALWAYS);
}

#[test]
fn answers_that_break_off_behind_a_plugin_are_asked_for_again() {
    // A restore asks for a chunk from its beginning.
    asks_again(&Meddled::behind_a_plugin("by plugin torn"), 3);
}

/// Backups, and a restore of which so many answers break off, come to their end.
fn asks_again(bench: &Meddled, broken_off: usize) {
    let mut kept = Vec::new();
    for (method, path, fault, times) in [
        ("PUT", "/s/", Fault::LoseAnswer, 2),
        ("PUT", "/m/", Fault::LoseAnswer, 1),
        ("GET", "/m/", Fault::CutAnswer(100), 2),
        ("GET", "list-type", Fault::CutAnswer(300), 2),
        ("GET", "", Fault::Delay(SLOW), ALWAYS),
        ("PUT", "", Fault::Delay(SLOW), ALWAYS),
    ] {
        bench.change(&format!("{method} {path} {fault:?}"));
        bench.meddler.meddle(method, path, fault, times);
        kept.push(bench.back_up());
        let left = bench.meddler.left();
        assert!(left == 0 || (times == ALWAYS && left < ALWAYS), "{fault:?} was never done to a {method} of {path:?}");
        bench.meddler.come_back();
    }
    bench.assert_kept(&kept);
    let cut = (Fault::CutAnswer(300_000), broken_off);
    for (fault, times) in [cut, (Fault::LoseAnswer, 3), (Fault::Delay(SLOW), ALWAYS)] {
        bench.meddler.meddle("GET", "/s/", fault, times);
        let to = Lab::shared().scratch("restored").join("vda.raw");
        bench.through.ok(["restore", kept[0].point(), "--disk", "vda", "--to", to.to_str().unwrap()]);
        assert_same(&to, &kept[0].truth);
        fs::remove_file(to).unwrap();
        assert!(bench.meddler.left() < times, "{fault:?}");
        bench.meddler.come_back();
    }
}

#[test]
fn a_restore_from_a_server_that_breaks_off_or_hangs_fails_and_makes_no_file() {
    let bench = Meddled::new("on s3 restored");
    bench.change("all");
    let kept = [bench.back_up()];
    // Beside each other: a server that is gone, and one that says nothing, are waited for during two minutes each.
    thread::scope(|scope| {
        for fault in [Fault::CutAnswer(100), Fault::GoDown, Fault::Hang] {
            let (bench, point) = (&bench, kept[0].point());
            scope.spawn(move || bench.fails_to_restore(point, fault));
        }
    });
    bench.assert_kept(&kept);
}
