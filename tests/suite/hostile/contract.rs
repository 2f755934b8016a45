//! The JSON that scripts rely on: every key with its type, and no other; and every key is in `docs/cli.md`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::damage::flip;
use super::mounts::Serving;
use super::*;
use crate::documented::{documented, the_documented};

/// A value's shape: its type, and for an object its keys with theirs, in order of their names.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(number) if number.is_u64() => "int".into(),
        Value::Number(_) => "float".into(),
        Value::String(text) if is_time(text) => "time".into(),
        Value::String(_) => "text".into(),
        Value::Array(items) => {
            let kinds: BTreeSet<_> = items.iter().map(shape).collect();
            format!("[{}]", kinds.into_iter().collect::<Vec<_>>().join(" or "))
        }
        Value::Object(fields) => {
            let fields: BTreeSet<_> = fields.iter().map(|(name, value)| format!("{name} {}", shape(value))).collect();
            format!("{{{}}}", fields.into_iter().collect::<Vec<_>>().join(", "))
        }
    }
}

/// RFC 3339 in UTC: `2026-01-02T03:04:05Z`, with or without a fraction.
fn is_time(text: &str) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd";
    let Some((start, rest)) = text.split_at_checked(pattern.len()) else { return false };
    let fits = start.chars().zip(pattern.chars()).all(|(c, p)| if p == 'd' { c.is_ascii_digit() } else { c == p });
    let fraction = rest.strip_suffix('Z').map(|rest| rest.strip_prefix('.').unwrap_or("0"));
    fits && fraction.is_some_and(|f| rest == "Z" || (!f.is_empty() && f.chars().all(|c| c.is_ascii_digit())))
}

#[test]
fn every_shape_is_the_documented_one() {
    let mut protected = Protected::new("contract", 2 * MIB);
    let first = protected.back_up(&[]);
    protected.domain.write("vda", 0x5a, MIB + 4096, 4096);
    let second = protected.back_up(&[]);
    let third = protected.back_up(&["--reread"]);
    let remora = &protected.remora;
    let [one, two] = [&first, &second].map(|report| report["point"].as_str().unwrap());

    let report = "{decision text, disks [{decision text, name text, read int, size int, stored int}], \
                  point text, reason text, seconds float, vm text}";
    for (made, decision) in [(&first, "full"), (&second, "incremental"), (&third, "reread")] {
        assert_eq!(shape(made), report);
        the_documented("remora backup VM").without(&["immutable"]).assert_of(made);
        assert_eq!((&made["decision"], &made["disks"][0]["decision"]), (&decision.into(), &decision.into()));
        assert_eq!((&made["vm"], &made["disks"][0]["name"]), (&"contract".into(), &"vda".into()));
        assert_eq!(made["disks"][0]["size"], 2 * MIB);
    }
    assert_eq!((&first["disks"][0]["read"], &third["disks"][0]["read"]), (&(2 * MIB).into(), &(2 * MIB).into()));
    assert_eq!(third["disks"][0]["stored"].as_u64().unwrap(), 0, "{third:#}");

    let points = remora.json(["points"]);
    let [root, child] = ["null", "text"].map(|parent| {
        format!("{{decision text, parent {parent}, point text, size int, stored int, time time, vm text}}")
    });
    assert_eq!(shape(&points), format!("[{root} or {child}]"));
    the_documented("remora points [VM]").assert_of(&points);
    assert_eq!(ids(&points), protected.kept.iter().map(|kept| kept.id.clone()).collect::<Vec<_>>(), "oldest first");
    assert_eq!((&points[0]["parent"], &points[1]["parent"]), (&Value::Null, &one.into()));
    assert_eq!((&points[2]["parent"], &points[1]["size"]), (&two.into(), &(2 * MIB).into()));
    assert_eq!(remora.json(["points", "contract"]), points);

    let shown = remora.json(["show", two]);
    the_documented("remora show POINT").assert_of(&shown);
    assert_eq!(
        shape(&shown),
        "{copy_of null, decision text, definition text, disks [{checkpoint text, decision text, lineage text, name text, path text, \
         read int, read_in_full time, reason text, rewritten int, size int, stored int}], parent text, point text, \
         quiesced text, reason text, repository text, size int, stored int, time time, tool text, vm text}"
    );
    let diff = remora.json(["diff", one, two]);
    the_documented("remora diff POINT POINT").assert_of(&diff);
    assert_eq!(shape(&diff), "[{bytes int, disk text, only_in null, ranges [{end int, start int}]}]");
    assert_eq!(diff[0]["ranges"], serde_json::json!([{"start": MIB, "end": MIB + 65536}]));
    assert_eq!(diff[0]["bytes"], 65536);
    assert_eq!(remora.json(["diff", one, one])[0]["ranges"], Value::Array(Vec::new()));
    let verified = remora.json(["verify"]);
    the_documented("remora verify [POINT]").assert_of(&verified);
    assert_eq!(
        shape(&verified),
        "[{checked int, damage [], not_repaired [], ok bool, point text, repair_noted bool, repaired [], unreadable null}]"
    );
    assert_eq!(ids(&remora.json(["verify", two])), [two]);
    let status = remora.json(["repo", "status"]);
    let expected = "{bytes int, created time, format int, id text, immutable_days null, key_slots int, locked_until null, objects int, points int, vms int}";
    assert_eq!(shape(&status), expected);
    the_documented("remora repo status").assert_of(&status);
    assert_eq!((&status["points"], &status["vms"], &status["format"]), (&3.into(), &1.into(), &1.into()));
    let to = Lab::shared().scratch("contract");
    let restored = remora.json(["restore".as_ref(), one.as_ref(), "--to".as_ref(), to.as_os_str()]);
    assert_eq!(shape(&restored), "{disks [{format text, name text, path text, size int}], point text, seconds float}");
    documented("remora restore POINT --to DIR")[0].assert_of(&restored);
    assert_eq!(restored["disks"][0]["path"], to.join("vda.raw").to_str().unwrap());
    protected.assert_all_restore();
}

#[test]
fn the_shapes_of_what_is_not_daily_are_the_documented_ones_too() {
    let mut protected = Protected::new("contract, rarely", 2 * MIB);
    let id = protected.back_up(&[])["point"].as_str().unwrap().to_owned();
    let (remora, scratch) = (&protected.remora, Lab::shared().scratch("contract"));
    let path = |name: &str| scratch.join(name).to_str().unwrap().to_owned();

    let made = Remora::new(Lab::shared(), path("another")).json(["repo", "init"]);
    assert_eq!(shape(&made), "{id text, immutable_days null, repo text}");
    the_documented("remora repo init").assert_of(&made);
    let to = path("vda.qcow2");
    let exported = remora.json(["export", &id, "--disk", "vda", "--format", "qcow2", "--to", &to]);
    the_documented("remora export POINT --disk DISK --format raw|qcow2").assert_of(&exported);
    assert_eq!(shape(&exported), "{format text, name text, path text, size int}");
    let copied = remora.json(["copy", "--to", &path("another")]);
    the_documented("remora copy --from URL --to URL [POINT…]").assert_of(&copied);
    assert_eq!(
        shape(&copied),
        "{copied [{decision text, from text, point text, read int, stored int}], damaged [], there int}"
    );
    let held = remora.json(["hold", &id, "--until", "2100-01-01T00:00:00Z"]);
    the_documented("remora hold POINT").assert_of(&held);
    assert_eq!(held, serde_json::json!({"point": id, "until": "2100-01-01T00:00:00Z"}));
    let amount = "{bytes int, segments int}";
    let collected = format!(
        "[{{emptied int, ended int, folder text, immutable null, later {amount}, locked {amount}, locked_until null, \
         missing [], removed {amount}, rewritten {amount}, sessions int, vm text, waiting {amount}}}]"
    );
    let found = remora.json(["gc"]);
    assert_eq!(shape(&found), collected);
    the_documented("remora gc [VM]").assert_of(&found);
    let points = "[{fate text, point text, reason text, time time, vm text}]";
    let pruned = remora.json(["prune", "--keep-last", "1", "--dry-run"]);
    the_documented("remora prune [VM]").assert_of(&pruned);
    the_documented("remora gc [VM]").assert_of(&pruned["collected"]);
    assert_eq!(shape(&pruned), format!("{{collected {collected}, dry_run bool, points {points}}}"));

    let doctor = remora.json(["doctor"]);
    assert_eq!(doctor["ok"], true, "{doctor:#}");
    the_documented("remora doctor [REPO]").assert_of(&doctor);
    for check in doctor["checks"].as_array().unwrap() {
        let shape = shape(check).replace("advice null", "advice text").replace("detail time", "detail text");
        assert_eq!(shape, "{advice text, detail text, name text, ok bool, optional bool}", "{check}");
    }

    let mut command = remora.command(["mount", &id, &path("mounted"), "--disks-only", "-o", "json"]);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let serving = Serving { process, folder: scratch.join("mounted") };
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready, serde_json::json!({"ready": true, "disks": path("mounted/disks"), "files": null}));
    assert_same(&serving.disk(), &protected.kept[0].truth);
    serving.end(Signal::SIGTERM);
}

const LOST: &str = "[{disk text, effect text, end int, object text, start int, why text}]";

#[test]
fn the_shapes_of_what_is_damaged_are_the_documented_ones_too() {
    let mut protected = Protected::new("contract, damaged", 2 * MIB);
    let id = protected.back_up(&[])["point"].as_str().unwrap().to_owned();
    let (remora, scratch) = (&protected.remora, Lab::shared().scratch("contract"));
    let path = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
    let path_of = |object: PathBuf| remora.repository().join(object);
    let chunks =
        protected.objects().into_iter().map(path_of).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let sound = fs::read(&chunks).unwrap();
    // With `-o json`, whatever the exit code.
    let json = |args: &[&str], code: i32| {
        let ran = remora.run(args.iter().chain(&["-o", "json"]));
        assert_eq!(ran.code(), code, "{ran:?}");
        ran.json()
    };
    let verify = |args: &[&str], code: i32| {
        let report = json(&[&["verify"], args].concat(), code);
        the_documented("remora verify [POINT]").assert_of(&report);
        report[0].clone()
    };

    // The magic number of the object: nothing that a restore needs.
    flip(&chunks, 0);
    let report = verify(&[], 7);
    assert_eq!((shape(&report["damage"]).as_str(), &report["damage"][0]["effect"]), (LOST, &"readable".into()));
    // Half of the second chunk of 1 MiB.
    fs::write(&chunks, &sound).unwrap();
    flip(&chunks, MIB + MIB / 2);
    let report = verify(&[], 7);
    assert_eq!((shape(&report["damage"]).as_str(), &report["damage"][0]["effect"]), (LOST, &"lost".into()));
    assert_eq!((shape(&report["repaired"]), shape(&report["not_repaired"])), ("[]".into(), "[]".into()));

    let restored = json(&["restore", &id, "--allow-damaged", "--to", &path("damaged")], 12);
    let [whole, more, file] = documented("remora restore POINT --to DIR").try_into().unwrap();
    whole.items("disks").and(more).assert_of(&restored["disks"][0]);
    let disk = format!("{{format text, lost {LOST}, lost_file text, name text, path text, size int}}");
    assert_eq!(shape(&restored), format!("{{disks [{disk}], point text, seconds float}}"));
    let told: Value = serde_json::from_slice(&fs::read(path("damaged/vda.raw.lost.json")).unwrap()).unwrap();
    file.assert_of(&told);
    assert_eq!(shape(&told), format!("{{lost {LOST}, point text, target text}}"));
    assert_eq!(restored["disks"][0]["lost_file"], path("damaged/vda.raw.lost.json"));

    Remora::new(Lab::shared(), path("another")).ok(["repo", "init"]);
    let copied = json(&["copy", "--to", &path("another")], 7);
    the_documented("remora copy --from URL --to URL [POINT…]").assert_of(&copied);
    assert_eq!(shape(&copied["damaged"]), "[{point text, why text}]");
    assert_eq!(copied["damaged"][0]["point"], id.as_str());

    // One block of the lost chunk has changed since, the others have not.
    let lost = report["damage"][0]["start"].as_u64().unwrap();
    protected.domain.write_bytes("vda", lost, &random("since", 64 << 10));
    let report = verify(&["--repair"], 7);
    assert_eq!(shape(&report["repaired"]), "[{disk text, end int, start int}]");
    assert_eq!(shape(&report["not_repaired"]), "[{disk text, end int, start int, why text}]");
    assert_eq!((&report["ok"], &report["repair_noted"]), (&false.into(), &true.into()));

    // What points need and is gone: its name. (Of a repair there is a later generation, of the same name but for its end.)
    let name = chunks.strip_prefix(remora.repository()).unwrap().to_str().unwrap();
    for object in protected.objects().iter().filter(|object| object.to_str().unwrap().starts_with(name)) {
        fs::remove_file(remora.repository().join(object)).unwrap();
    }
    let collected = json(&["gc"], 0);
    the_documented("remora gc [VM]").assert_of(&collected);
    assert_eq!(collected[0]["missing"], serde_json::json!([name]));
}

#[test]
fn only_utc_counts_as_a_time() {
    for (text, is) in [
        ("2026-01-02T03:04:05Z", true),
        ("2026-01-02T03:04:05.123456789Z", true),
        ("2026-01-02T03:04:05.Z", false),
        ("2026-01-02T03:04:05+00:00", false),
        ("2026-01-02 03:04:05Z", false),
        ("vda", false),
    ] {
        assert_eq!(is_time(text), is, "{text}");
    }
}
