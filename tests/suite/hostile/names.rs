//! Names that would like to be something else: a flag, a path, a command for the terminal.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use remora_tests::Layout;
use remora_tests::files::Holes;

use super::mounts::Serving;
use super::*;

/// Spaces, quotes, a shell's substitution, a tab, a second line, an override that turns the line around, and more than
/// ASCII.
const NAME: &str = "--force ..\u{202e}\t'$(id)'\n\"ünï\" 🦀";

#[test]
fn a_vm_of_a_strange_name_is_backed_up_listed_and_restored() {
    let mut protected = Protected::new(NAME, MIB);
    let truth = protected.domain.truth("vda");
    // What follows "--" is a name, whatever it looks like.
    let json = |args: &[&str]| protected.remora.ok(["-o", "json"].iter().chain(args)).json();
    let report = json(&["backup", "--", NAME]);
    let id = report["point"].as_str().unwrap().to_owned();
    assert_eq!(report["vm"], NAME);
    assert_eq!(json(&["points", "--", NAME])[0]["vm"], NAME);
    assert_eq!(json(&["show", &id])["vm"], NAME);
    protected.kept.push(Kept { id: id.clone(), truth });
    protected.domain.write_bytes("vda", 0, &random("changed", 65536));
    let truth = protected.domain.truth("vda");
    let next = json(&["backup", "--", NAME]);
    assert_eq!(next["decision"], "incremental", "{next}");
    protected.kept.push(Kept { id: next["point"].as_str().unwrap().to_owned(), truth });
    protected.assert_all_restore();
    protected.assert_nothing_left();
    // For people, nothing of it reaches the terminal as a command.
    for args in [&["points"][..], &["show", &id], &["points", "--", NAME], &["backup", "--", NAME]] {
        let ran = protected.remora.ok(args);
        let (out, err) = (ran.text(), &ran.stderr);
        assert!(out.contains("--force ..\\u{202e}\\t'$(id)'\\n\"ünï\" 🦀"), "{ran:?}");
        for text in [out, err] {
            assert!(!text.chars().any(|c| c == '\u{202e}' || (c.is_control() && c != '\n')), "{ran:?}");
        }
    }
}

#[test]
fn control_characters_of_a_name_are_escaped_in_errors() {
    let remora = Remora::init(Lab::shared());
    for (name, shown) in [
        ("two\nlines", "two\\nlines"),
        ("\u{1b}[2J\u{1b}]0;owned\u{7}", "\\u{1b}[2J\\u{1b}]0;owned\\u{7}"),
        ("../../etc", "../../etc"),
        (" ", "\" \""),
        ("größe", "größe"),
    ] {
        for command in ["backup", "points"] {
            let ran = remora.run([command, name]);
            assert_refused(&ran, 3, &[shown]);
            assert!(!ran.stderr.chars().any(|c| c.is_control() && c != '\n'), "{ran:?}");
            assert_eq!(ran.stderr.lines().count(), 2, "{ran:?}");
        }
    }
    assert_eq!(remora.run(["backup", ""]).code(), 2);
    assert_eq!(remora.json(["points"]), Value::Array(Vec::new()));
}

/// Folders of strange names: of the repository, of scratch files and sockets (which go through libvirt's XML and QEMU's
/// commands), of a restored disk, and of a mount with the guest's files.
#[test]
fn folders_may_have_strange_names() {
    const STRANGE: &str = "two\nlines, größer & 'quoted' \"<too>\"";
    let lab = Lab::shared();
    let prepared = Layout::Whole.prepare();
    let domain =
        lab.domain("strange folders").disk(DiskSpec::holding("vda", Format::Qcow2, &prepared.disks[0])).paused();
    let folder = lab.scratch("f").join(STRANGE);
    // libvirt takes no path of two lines; and a socket's path is 107 bytes at most.
    let [run_dir, scratch] = ["ü <&,", "größer & 'quoted', \"too\""].map(|name| lab.scratch("r").join(name));
    let at = |name: &str| folder.join(name);
    fs::create_dir_all(&run_dir).unwrap();
    fs::create_dir_all(&scratch).unwrap();
    let remora = Remora::new(lab, at("repository")).with("REMORA_RUN_DIR", &run_dir).with("REMORA_SCRATCH", &scratch);
    remora.ok(["repo", "init"]);
    for (variable, what) in [("REMORA_RUN_DIR", "run folder"), ("REMORA_SCRATCH", "scratch folder")] {
        let refused = remora.clone().with(variable, folder.join("of libvirt")).run(["backup", domain.name()]);
        assert_refused(&refused, 2, &[what, "two\\nlines", "one line of text"]);
    }
    let first = remora.json(["backup", domain.name()]);
    assert_eq!(first["decision"], "full");
    // Not in a file: the filesystem stays as it is.
    domain.write("vda", 0x5a, 127 * MIB, 4096);
    let second = remora.json(["backup", domain.name()]);
    assert_eq!(second["decision"], "incremental", "{second}");
    let id = second["point"].as_str().unwrap();
    assert_eq!((list(&scratch), list(&run_dir).len()), (vec![], 1), "only the lock stays");
    remora.ok(["verify"]);

    let restored = remora.json(["restore", id, "--to", at("restored").to_str().unwrap()]);
    let path = at("restored").join("vda.raw");
    assert_eq!(restored["disks"][0]["path"], path.to_str().unwrap());
    assert_same(&path, &domain.truth("vda"));

    let mut command = remora.command(["mount", id, at("mounted").to_str().unwrap()]);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let serving = Serving { process, folder: at("mounted") };
    assert_eq!(line, "ready\n");
    assert_same(&serving.disk(), &path);
    prepared.filesystems[0].assert_at(&at("mounted/files/vda"), Holes::MayBeFilled);
    serving.end(Signal::SIGTERM);
    assert!(!at("mounted").exists(), "the folder was made by the mount, and goes with it");
}
