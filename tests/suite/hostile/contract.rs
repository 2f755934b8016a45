//! The JSON that scripts rely on: every key with its type, and no other.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::mounts::Serving;
use super::*;

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
    assert_eq!(ids(&points), protected.kept.iter().map(|kept| kept.id.clone()).collect::<Vec<_>>(), "oldest first");
    assert_eq!((&points[0]["parent"], &points[1]["parent"]), (&Value::Null, &one.into()));
    assert_eq!((&points[2]["parent"], &points[1]["size"]), (&two.into(), &(2 * MIB).into()));
    assert_eq!(remora.json(["points", "contract"]), points);

    assert_eq!(
        shape(&remora.json(["show", two])),
        "{copy_of null, decision text, definition text, disks [{checkpoint text, decision text, lineage text, name text, path text, \
         read int, read_in_full time, reason text, rewritten int, size int, stored int}], parent text, point text, \
         quiesced text, reason text, repository text, size int, stored int, time time, tool text, vm text}"
    );
    let diff = remora.json(["diff", one, two]);
    assert_eq!(shape(&diff), "[{bytes int, disk text, only_in null, ranges [{end int, start int}]}]");
    assert_eq!(diff[0]["ranges"], serde_json::json!([{"start": MIB, "end": MIB + 65536}]));
    assert_eq!(diff[0]["bytes"], 65536);
    assert_eq!(remora.json(["diff", one, one])[0]["ranges"], Value::Array(Vec::new()));
    assert_eq!(
        shape(&remora.json(["verify"])),
        "[{checked int, damage [], not_repaired [], ok bool, point text, repair_noted bool, repaired [], unreadable null}]"
    );
    assert_eq!(ids(&remora.json(["verify", two])), [two]);
    let status = remora.json(["repo", "status"]);
    let expected = "{bytes int, created time, format int, id text, immutable_days null, key_slots int, locked_until null, objects int, points int, vms int}";
    assert_eq!(shape(&status), expected);
    assert_eq!((&status["points"], &status["vms"], &status["format"]), (&3.into(), &1.into(), &1.into()));
    let to = Lab::shared().scratch("contract");
    let restored = remora.json(["restore".as_ref(), one.as_ref(), "--to".as_ref(), to.as_os_str()]);
    assert_eq!(shape(&restored), "{disks [{format text, name text, path text, size int}], point text, seconds float}");
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
    let to = path("vda.qcow2");
    let exported = remora.json(["export", &id, "--disk", "vda", "--format", "qcow2", "--to", &to]);
    assert_eq!(shape(&exported), "{format text, name text, path text, size int}");
    let copied = remora.json(["copy", "--to", &path("another")]);
    assert_eq!(
        shape(&copied),
        "{copied [{decision text, from text, point text, read int, stored int}], damaged [], there int}"
    );
    let held = remora.json(["hold", &id, "--until", "2100-01-01T00:00:00Z"]);
    assert_eq!(held, serde_json::json!({"point": id, "until": "2100-01-01T00:00:00Z"}));
    let amount = "{bytes int, segments int}";
    let collected = format!(
        "[{{emptied int, ended int, folder text, immutable null, later {amount}, locked {amount}, locked_until null, \
         missing [], removed {amount}, rewritten {amount}, sessions int, vm text, waiting {amount}}}]"
    );
    assert_eq!(shape(&remora.json(["gc"])), collected);
    let points = "[{fate text, point text, reason text, time time, vm text}]";
    let pruned = remora.json(["prune", "--keep-last", "1", "--dry-run"]);
    assert_eq!(shape(&pruned), format!("{{collected {collected}, dry_run bool, points {points}}}"));

    let doctor = remora.json(["doctor"]);
    assert_eq!(doctor["ok"], true, "{doctor:#}");
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
