//! At a terminal: the passphrase is asked for and never shown, and progress is a bar that tells rate and time left.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
        wait_until("the terminal shows what is typed", Duration::from_secs(20), || !shows_typing(&running));
        writeln!(keys, "{answer}").unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    let code = running.wait().unwrap().code().unwrap();
    (code, String::from_utf8(shown).unwrap())
}

/// Whether the terminal that `script` made shows what is typed.
fn shows_typing(script: &Child) -> bool {
    let command = children(Pid::from_raw(script.id().try_into().unwrap()))[0];
    let terminal = fs::read_link(format!("/proc/{command}/fd/0")).unwrap();
    let settings = run(Command::new("stty").arg("-F").arg(terminal).arg("-a")).ok();
    !settings.text().split_whitespace().any(|setting| setting == "-echo")
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
    // What is no terminal gets no bar.
    let ran = remora.ok(backup);
    assert!(!ran.stderr.contains('\u{1b}') && !ran.text().contains('\u{1b}'), "{ran:?}");
}
