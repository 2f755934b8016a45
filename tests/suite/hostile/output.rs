//! Readers that go away: `remora points | head -1`, a program that an image was streamed to and that died.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use super::*;

/// The end of a pipe to write into that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    OwnedFd::from(writer).into()
}

#[test]
fn a_reader_that_went_away_is_no_panic() {
    let mut protected = Protected::new("closed", 4 * MIB);
    protected.back_up(&[]);
    let (id, remora) = (protected.kept[0].id.clone(), &protected.remora);
    let run = |args: &[&str]| {
        remora.command(args).stdin(Stdio::null()).stdout(closed()).stderr(Stdio::piped()).output().unwrap()
    };
    let lists: [&[&str]; 7] = [
        &["points"],
        &["points", "-o", "json"],
        &["show", &id],
        &["verify"],
        &["repo", "status"],
        &["completions", "bash"],
        &["--help"],
    ];
    for args in lists {
        let ran = run(args);
        assert_eq!((ran.status.code(), String::from_utf8(ran.stderr).unwrap()), (Some(0), String::new()), "{args:?}");
    }
    // An image of which nobody knows whether it arrived is a failure, in words.
    for format in ["raw", "qcow2"] {
        let ran = run(&["export", &id, "--disk", "vda", "--format", format]);
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{said}");
        assert!(said.contains("error: ") && !said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_listener_that_went_away_costs_no_backup() {
    let mut protected = Protected::new("deaf", 4 * MIB);
    for verbosity in ["-v", "-vvv"] {
        let truth = protected.domain.truth("vda");
        let mut command = protected.remora.command(["backup", protected.domain.name(), "-o", "json", verbosity]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(closed()).spawn().unwrap();
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let report: Value = serde_json::from_str(&out).unwrap();
        protected.kept.push(Kept { id: report["point"].as_str().unwrap().to_owned(), truth });
    }
    // Notes for people, too.
    let truth = protected.domain.truth("vda");
    let mut command = protected.remora.command(["backup", protected.domain.name()]);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(closed()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let id = ids(&protected.remora.json(["points"])).pop().unwrap();
    protected.kept.push(Kept { id, truth });
    protected.assert_all_restore();
    // And of a failure the exit code remains.
    for format in ["text", "json"] {
        let mut command = protected.remora.command(["show", "0011223344556677-1", "-o", format]);
        assert_eq!(command.stdin(Stdio::null()).stdout(closed()).stderr(closed()).status().unwrap().code(), Some(3));
        let mut command = protected.remora.command(["show", "banana", "-o", format]);
        assert_eq!(command.stdin(Stdio::null()).stdout(closed()).stderr(closed()).status().unwrap().code(), Some(2));
    }
}
