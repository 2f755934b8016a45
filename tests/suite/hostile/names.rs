//! Names that would like to be something else: a flag, a path, a command for the terminal.

use super::*;

/// Spaces, quotes, a shell's substitution, a tab, an override that turns the line around, and more than ASCII.
const NAME: &str = "--force ..\u{202e}\t'$(id)' \"ünï\" 🦀";

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
    protected.assert_all_restore();
    protected.assert_nothing_left();
    // For people, nothing of it reaches the terminal as a command.
    for args in [&["points"][..], &["show", &id], &["points", "--", NAME], &["backup", "--", NAME]] {
        let ran = protected.remora.ok(args);
        let (out, err) = (ran.text(), &ran.stderr);
        assert!(out.contains("--force ..\\u{202e}\\t'$(id)' \"ünï\" 🦀"), "{ran:?}");
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
