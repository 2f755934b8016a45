//! SIGINT, SIGTERM and SIGHUP: exit code 130, and all is cleaned up before the command ends.

use super::*;

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// How often a command may be quicker than its signal.
const TRIES: usize = 40;

/// Waits for a sign of a command and sends it signals while it is stopped, so that it cannot end in between. None if it
/// ended before the sign; otherwise its exit code and what it said.
fn interrupt(mut child: Child, signals: &[Signal], sign: impl Fn() -> bool) -> Option<(i32, String)> {
    while !sign() {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        std::hint::spin_loop();
    }
    signal(&child, Signal::SIGSTOP);
    for each in signals {
        signal(&child, *each);
    }
    signal(&child, Signal::SIGCONT);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    Some((output.status.code().unwrap_or_else(|| panic!("{}: {said}", output.status)), said))
}

#[track_caller]
fn assert_cancelled(said: &str) {
    assert!(said.contains("error: ") && said.contains("cancelled") && !said.contains("panicked"), "{said}");
}

/// Whether the moment has come.
type Sign<'a> = Box<dyn Fn(&Protected<'_>, Pid, &BTreeSet<PathBuf>) -> bool + 'a>;

#[test]
fn an_interrupted_backup_leaves_nothing() {
    let mut protected = Protected::new("interrupted", 48 * MIB);
    protected.back_up(&[]);
    let lock = protected.sockets().with_extension("lock");
    let scratch = |p: &Protected<'_>| list(p.domain.dir()).iter().any(|name| name.starts_with(".remora-scratch-"));
    let signs: [(&str, Sign<'_>); 4] = [
        ("lock", Box::new(|_, pid, _| fs::read_to_string(&lock).is_ok_and(|text| text == pid.to_string()))),
        ("scratch", Box::new(|p, _, _| scratch(p))),
        ("socket", Box::new(|p, _, _| !list(&p.sockets()).is_empty())),
        ("objects", Box::new(|p, _, before| p.objects().difference(before).next().is_some())),
    ];
    for (round, (name, sign)) in signs.iter().enumerate() {
        let how = SIGNALS[round % SIGNALS.len()];
        let caught = (0..TRIES).any(|_| {
            let (before, checkpoints, truth) =
                (protected.objects(), protected.checkpoints(), protected.domain.truth("vda"));
            let child = protected.remora.spawn(["backup", protected.domain.name(), "--full"]);
            let process = pid(&child);
            let ended = interrupt(child, &[how], || sign(&protected, process, &before));
            protected.assert_nothing_left();
            if let Some((130, said)) = ended {
                assert_cancelled(&said);
                assert_eq!(protected.checkpoints(), checkpoints, "{name}: {said}");
                return true;
            }
            // Too late: then it is a point.
            assert!(matches!(ended, None | Some((0, _))), "{name}: {ended:?}");
            let id = ids(&protected.remora.json(["points"])).pop().unwrap();
            protected.kept.push(Kept { id, truth });
            false
        });
        assert!(caught, "{how} never came in time for {name}");
        protected.assert_listed();
    }
    protected.domain.write("vda", 0x77, MIB, MIB);
    assert_eq!(protected.back_up(&[])["decision"], "incremental");
    protected.assert_all_restore();
    protected.remora.ok(["verify"]);
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_watchdog_does_the_rest() {
    let mut protected = Protected::new("impatient", 48 * MIB);
    protected.back_up(&[]);
    let caught = (0..TRIES).any(|_| {
        let (before, truth) = (ids(&protected.remora.json(["points"])), protected.domain.truth("vda"));
        let child = protected.remora.spawn(["backup", protected.domain.name(), "--full"]);
        let ended = interrupt(child, &[Signal::SIGINT, Signal::SIGTERM], || !list(&protected.sockets()).is_empty());
        wait_until("something stays", CLEANED_UP, || protected.harmful_left().is_empty());
        if ids(&protected.remora.json(["points"])).len() > before.len() {
            let id = ids(&protected.remora.json(["points"])).pop().unwrap();
            protected.kept.push(Kept { id, truth });
        }
        matches!(ended, Some((130, _)))
    });
    assert!(caught, "the signals never came in time");
    protected.back_up(&[]);
    protected.assert_all_restore();
}

#[test]
fn an_interrupted_restore_leaves_no_file() {
    let mut protected = Protected::new("interrupted restore", 64 * MIB);
    protected.back_up(&[]);
    let id = protected.kept[0].id.clone();
    let folder = Lab::shared().scratch("interrupted");
    let file = folder.join("vda.raw");
    let (to, to_folder) = (file.to_str().unwrap(), folder.to_str().unwrap());
    let lines: [&[&str]; 3] = [
        &["restore", &id, "--to", to_folder],
        &["restore", &id, "--disk", "vda", "--to", to, "--format", "qcow2"],
        &["export", &id, "--disk", "vda", "--format", "raw", "--to", to],
    ];
    for (line, how) in lines.into_iter().zip(SIGNALS) {
        let caught = (0..TRIES).any(|_| {
            let ended = interrupt(protected.remora.spawn(line), &[how], || !list(&folder).is_empty());
            if let Some((130, said)) = ended {
                assert_cancelled(&said);
                assert_eq!(list(&folder), [""; 0], "{line:?}");
                return true;
            }
            fs::remove_file(&file).unwrap();
            false
        });
        assert!(caught, "{how} never came in time for {line:?}");
    }
    protected.assert_all_restore();
}

#[test]
fn a_mount_interrupted_while_its_appliance_boots_leaves_nothing() {
    let mut protected = Protected::new("interrupted mount", MIB);
    protected.back_up(&[]);
    let folder = Lab::shared().scratch("interrupted").join("mount");
    let caught = (0..TRIES).any(|_| {
        let mount = protected.remora.spawn(["mount", &protected.kept[0].id, folder.to_str().unwrap()]);
        let process = pid(&mount);
        wait_until("the appliance is not started", SOON, || !children(process).is_empty());
        let appliance = Process::children(process);
        let (code, said) = interrupt(mount, &[Signal::SIGTERM], || true).unwrap();
        assert!(!is_mounted(&folder) && !folder.exists());
        wait_until_gone(&appliance);
        if code == 130 {
            assert_cancelled(&said);
        } else {
            // Too late: it served already, of which this is the usual end.
            assert_eq!(code, 0, "{said}");
        }
        code == 130
    });
    assert!(caught, "the signal never came in time");
}
