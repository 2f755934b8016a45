//! At a terminal: the passphrase is asked for and never shown, and progress is a bar that tells rate and time left. Where
//! there is none, progress is plain lines.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use remora_tests::{DiskSpec, Lab, MIB, Remora, content, run, wait_until};

use crate::hostile::children;

/// Runs a command at a terminal (util-linux' `script` makes one) that shows what is typed unless it is told not to. Types
/// each line when its question has been asked and typing is not shown any more. Gives the exit code and all that the
/// terminal showed.
#[track_caller]
fn at_a_terminal(remora: &Remora, args: &[&str], answers: &[(&str, &str)]) -> (i32, String) {
    let command = remora.command(args);
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let line = words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--echo", "always", "--command", &line, "/dev/null"]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let mut running = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (running.stdin.take().unwrap(), running.stdout.take().unwrap());
    let mut shown = Vec::new();
    for (question, answer) in answers {
        let from = shown.len();
        while !String::from_utf8_lossy(&shown[from..]).contains(question) {
            let mut some = [0; 4096];
            let count = screen.read(&mut some).unwrap();
            assert!(count > 0, "{question:?} is not asked: {}", String::from_utf8_lossy(&shown));
            shown.extend_from_slice(&some[..count]);
        }
        wait_until("the terminal shows what is typed", Duration::from_mins(5), || !shows_typing(&running));
        writeln!(keys, "{answer}").unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    let code = running.wait().unwrap().code().unwrap();
    (code, String::from_utf8(shown).unwrap())
}

/// Whether the terminal that `script` made shows what is typed.
fn shows_typing(script: &Child) -> bool {
    let settings = run(Command::new("stty").arg("-F").arg(terminal(script).unwrap()).arg("-a")).ok();
    !settings.text().split_whitespace().any(|setting| setting == "-echo")
}

/// The terminal that `script` made, once its command has it.
fn terminal(script: &Child) -> Option<PathBuf> {
    let command = *children(Pid::from_raw(script.id().try_into().unwrap())).first()?;
    fs::read_link(format!("/proc/{command}/fd/0")).ok().filter(|path| path.starts_with("/dev/pts"))
}

#[test]
fn a_terminal_of_these_tests_shows_what_is_typed_where_nobody_hides_it() {
    let mut script = Command::new("script");
    script.args(["--quiet", "--echo", "always", "--command", "read typed", "/dev/null"]);
    let mut running = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_until("nobody reads what is typed", Duration::from_mins(5), || terminal(&running).is_some());
    assert!(shows_typing(&running));
    running.stdin.take().unwrap().write_all(b"typed in secret\n").unwrap();
    let shown = running.wait_with_output().unwrap();
    assert!(String::from_utf8(shown.stdout).unwrap().contains("typed in secret"));
}

#[test]
fn a_passphrase_is_asked_for_and_never_shown() {
    let lab = Lab::shared();
    let remora = Remora::new(lab, lab.scratch("asked").join("repo")).without("REMORA_KEY_FILE");
    let twice = |one, other| [("Passphrase of the repository: ", one), ("Once more: ", other)];
    let (code, shown) = at_a_terminal(&remora, &["repo", "init"], &twice("typed in secret", "typed in secrte"));
    assert_eq!(code, 2, "{shown}");
    assert!(shown.contains("the two passphrases differ") && !shown.contains("typed in"), "{shown}");
    let (code, shown) = at_a_terminal(&remora, &["repo", "init"], &twice("typed in secret", "typed in secret"));
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains("typed in"), "{shown}");
    for (typed, code) in [("typed in secret", 0), ("typed in vain", 5), ("", 2)] {
        let (ended, shown) = at_a_terminal(&remora, &["points"], &[("Passphrase of the repository: ", typed)]);
        assert_eq!(ended, code, "{shown}");
        assert!(!shown.contains("typed in"), "{shown}");
    }
    // Nor a new one, with which the old one is exchanged.
    let of_a_new = [("New passphrase of the repository: ", "typed in anew"), ("Once more: ", "typed in anew")];
    let old = remora.clone().with("REMORA_PASSPHRASE", "typed in secret");
    let (code, shown) = at_a_terminal(&old, &["key", "change-passphrase"], &of_a_new);
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains("typed in"), "{shown}");
    old.fails(["points"], 5, "passphrase");
    remora.with("REMORA_PASSPHRASE", "typed in anew").ok(["points"]);
}

#[test]
fn progress_is_a_bar_with_rate_and_time_left_unless_nobody_wants_one() {
    let lab = Lab::shared();
    let domain = lab.domain("barred").disk(DiskSpec::qcow2("vda", 256 * MIB)).paused();
    domain.write_bytes("vda", 0, &content::noise(1, 256 << 20));
    let remora = Remora::init(lab);
    let backup = ["backup", "barred", "--quiesce=never", "--full"];
    let (code, shown) = at_a_terminal(&remora, &backup, &[]);
    assert_eq!(code, 0, "{shown}");
    for part in ["backing up [", " %  ", " of 256.00 MiB  ", "/s  ", " left"] {
        assert!(shown.contains(part), "{part:?} is not in {shown:?}");
    }
    for quiet in [&["--quiet"][..], &["-o", "json"]] {
        let (code, shown) = at_a_terminal(&remora, &[&backup[..], quiet].concat(), &[]);
        assert_eq!(code, 0, "{shown}");
        assert!(!shown.contains(" left") && !shown.contains('\u{1b}'), "{shown:?}");
    }
}

/// What a line of progress says: percent, bytes done, bytes of all. Panics if it is not
/// `DOING: 40 %, 4.00 MiB of 10.00 MiB, 2.00 MiB/s, 3 s left`, with the time left out where nobody can know it.
#[track_caller]
fn progress(line: &str, doing: &str) -> (u32, String, String) {
    let parts: Vec<_> =
        line.strip_prefix(doing).and_then(|line| line.strip_prefix(": ")).unwrap().split(", ").collect();
    let ([percent, bytes, rate], left) = parts.split_first_chunk().unwrap_or_else(|| panic!("{line:?}"));
    let (done, all) = bytes.split_once(" of ").unwrap();
    for amount in [done, all, rate.strip_suffix("/s").unwrap()] {
        let (number, unit) = amount.split_once(' ').unwrap();
        assert!(number.parse::<f64>().is_ok() && ["B", "KiB", "MiB", "GiB"].contains(&unit), "{line:?}");
    }
    match left {
        [] => {}
        [left] => assert!(left.strip_suffix(" s left").unwrap().parse::<u64>().is_ok(), "{line:?}"),
        _ => panic!("{line:?}"),
    }
    (percent.strip_suffix(" %").unwrap().parse().unwrap(), done.to_owned(), all.to_owned())
}

#[track_caller]
fn took_at_least<T>(least: Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    let took = start.elapsed();
    assert!(took >= least, "it took {took:?}, a limit asks for {least:?} at least");
    done
}

#[test]
fn progress_without_a_terminal_is_plain_lines_unless_nobody_wants_them() {
    let lab = Lab::shared();
    let domain = lab.domain("lined").disk(DiskSpec::qcow2("vda", 256 * MIB)).paused();
    domain.write_bytes("vda", 0, &content::noise(1, 256 << 20));
    let remora = Remora::init(lab);
    let id = remora.json(["backup", "lined", "--quiesce=never"])["point"].as_str().unwrap().to_owned();
    let folder = lab.scratch("lined");
    // Slow enough for some lines, which come every five seconds; all at the same time.
    let restore = |to: &str, quiet: &[&str]| {
        let to = folder.join(to);
        let args = ["restore", &id, "--limit-download", "24MiB", "--to", to.to_str().unwrap()];
        // A fetch of a MiB waits until all that came before it have had their time.
        took_at_least(Duration::from_secs(10), || remora.ok([&args[..], quiet].concat()))
    };
    let backup = || {
        let args = ["backup", "lined", "--quiesce=never", "--full", "--limit-upload", "16MiB"];
        // So do objects: the manifest, the last one, for all segments.
        took_at_least(Duration::from_secs(15), || remora.ok(args))
    };
    let (restored, backed_up, silent) = thread::scope(|scope| {
        let audible = (scope.spawn(|| restore("audible", &[])), scope.spawn(backup));
        let silent = [&["--quiet"][..], &["-o", "json"]];
        let silent = silent.map(|quiet| scope.spawn(move || restore(quiet[0], quiet)));
        (audible.0.join().unwrap(), audible.1.join().unwrap(), silent.map(|silent| silent.join().unwrap()))
    });
    for (ran, doing) in [(&restored, "restoring"), (&backed_up, "backing up")] {
        for text in [ran.text(), &ran.stderr] {
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{ran:?}");
        }
        let told: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with(doing)).collect();
        let told: Vec<_> = told.into_iter().map(|line| progress(line, doing)).collect();
        assert!(!told.is_empty(), "no line tells the progress of {ran:?}");
        assert!(told.is_sorted_by_key(|(percent, ..)| percent), "{told:?}");
        for (percent, done, all) in told {
            assert_eq!(all, "256.00 MiB", "{ran:?}");
            let done = done.strip_suffix(" MiB").unwrap().parse::<f64>().unwrap();
            assert!((done / 256.0 * 100.0 - f64::from(percent)).abs() <= 1.0, "{percent} % and {done} MiB of {ran:?}");
        }
    }
    assert!(silent.iter().all(|ran| ran.stderr.is_empty()), "{silent:?}");
}
