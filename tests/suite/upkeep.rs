//! `prune`, `hold` and `gc`: space is given back, and every point that is kept restores byte for byte.

mod input;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Domain, Lab, MIB, Remora, S3, age, content};
use serde_json::{Value, json};

/// A VM, its repository, and where the store keeps its objects as files.
struct Upkept {
    domain: Domain<'static>,
    remora: Remora,
    objects: PathBuf,
    _server: Option<S3>,
}

/// A point, and what the hypervisor held when it was made.
struct Kept {
    id: String,
    truth: PathBuf,
}

impl Upkept {
    fn in_a_folder(name: &str) -> Self {
        let remora = Remora::init(Lab::shared());
        Self { domain: domain(name), objects: remora.repository(), remora, _server: None }
    }

    fn in_a_bucket(name: &str) -> Self {
        let s3 = S3::start();
        let remora = s3.owner(Remora::new(Lab::shared(), s3.url(&s3.bucket("backups"))));
        remora.ok(["repo", "init"]);
        Self { domain: domain(name), objects: s3.files("backups"), remora, _server: Some(s3) }
    }

    /// Writes noise, which shares nothing with any other and cannot be compressed, and makes a point.
    #[track_caller]
    fn change_and_back_up(&self, number: u64, at: u64, len: u64) -> Kept {
        self.domain.write_bytes("vda", at, &content::noise(number, len as usize));
        let truth = self.domain.truth("vda");
        let report = self.remora.json(["backup", self.domain.name(), "--quiesce", "never"]);
        Kept { id: report["point"].as_str().unwrap().to_owned(), truth }
    }

    /// The points that are listed are these, each restores to what the hypervisor held, and nothing is damaged.
    #[track_caller]
    fn assert_kept(&self, kept: &[&Kept]) {
        let listed = self.remora.json(["points", self.domain.name()]);
        let listed: Vec<_> = listed.as_array().unwrap().iter().map(|point| &point["point"]).collect();
        assert_eq!(listed, kept.iter().map(|kept| &kept.id[..]).collect::<Vec<_>>());
        for kept in kept {
            self.assert_restores(kept);
        }
        self.remora.ok(["verify"]);
    }

    #[track_caller]
    fn assert_restores(&self, kept: &Kept) {
        let to = Lab::shared().scratch("kept").join("vda.raw");
        self.remora.ok(["restore", &kept.id, "--disk", "vda", "--to", to.to_str().unwrap()]);
        assert_same(&to, &kept.truth);
        fs::remove_file(to).unwrap();
    }

    /// `remora prune` with these arguments: the fate and the reason of each point, and the one VM's collection.
    #[track_caller]
    fn prune(&self, args: &[&str]) -> (Vec<(String, String)>, Value) {
        let told = self.remora.json(["prune", self.domain.name()].iter().chain(args));
        assert_eq!(told["dry_run"], args.contains(&"--dry-run"));
        let points = told["points"].as_array().unwrap().iter();
        let fates = points.map(|point| {
            assert_eq!(point["vm"], self.domain.name());
            assert!(point["point"].is_string() && point["time"].is_string(), "{point}");
            (point["fate"].as_str().unwrap().to_owned(), point["reason"].as_str().unwrap().to_owned())
        });
        (fates.collect(), one(&told["collected"]).clone())
    }

    /// `remora gc` with these arguments.
    #[track_caller]
    fn gc(&self, args: &[&str]) -> Value {
        one(&self.remora.json(["gc"].iter().chain(args))).clone()
    }

    /// What the store holds of the repository beside its clock: names and lengths.
    fn stored(&self) -> BTreeMap<PathBuf, u64> {
        let mut found = BTreeMap::new();
        walk(&self.objects, &mut |path, len| {
            if path.file_name().is_some_and(|name| name != "clock") {
                found.insert(path.to_owned(), len);
            }
        });
        found
    }
}

fn domain(name: &str) -> Domain<'static> {
    Lab::shared().domain(name).disk(DiskSpec::qcow2("vda", 32 * MIB)).paused()
}

fn walk(folder: &Path, see: &mut impl FnMut(&Path, u64)) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), see);
        } else {
            see(&entry.path(), entry.metadata().unwrap().len());
        }
    }
}

/// What a collection told of the one VM that there is.
#[track_caller]
fn one(collected: &Value) -> &Value {
    let all = collected.as_array().unwrap();
    assert_eq!(all.len(), 1, "{collected:#}");
    assert_eq!((&all[0]["missing"], &all[0]["sessions"]), (&json!([]), &json!(0)), "{collected:#}");
    &all[0]
}

/// The segments and bytes that a collection told as one kind.
#[track_caller]
fn amount(collected: &Value, kind: &str) -> (u64, u64) {
    let number = |name: &str| collected[kind][name].as_u64().unwrap_or_else(|| panic!("no {kind} in {collected:#}"));
    (number("segments"), number("bytes"))
}

/// The segments among what the store holds, and their bytes.
fn segments(stored: &BTreeMap<PathBuf, u64>) -> (u64, u64) {
    let lens = stored.iter().filter(|(path, _)| path.parent().unwrap().ends_with("s")).map(|(_, len)| len);
    lens.fold((0, 0), |(count, bytes), len| (count + 1, bytes + len))
}

fn fates(told: &[(String, String)]) -> Vec<(&str, &str)> {
    told.iter().map(|(fate, reason)| (&fate[..], &reason[..])).collect()
}

const DROPPED: (&str, &str) = ("drop", "no rule keeps it");

/// Four points, of which the first two go in two steps: one is held for a while.
#[track_caller]
fn assert_space_is_given_back(vm: &Upkept) {
    let first = vm.change_and_back_up(1, 0, 8 * MIB);
    // A quarter of the first one's bytes: too little to store the rest again.
    let second = vm.change_and_back_up(2, 0, 2 * MIB);
    let third = vm.change_and_back_up(3, 0, 8 * MIB);
    let fourth = vm.change_and_back_up(4, 16 * MIB, MIB);
    let all = vm.stored();
    let rules = ["--keep-last", "2"];
    let newest = [("keep", "last 2"), ("keep", "last 1, minimum count")];

    // A dry run tells all and changes nothing.
    let (told, collected) = vm.prune(&["--keep-last", "2", "--dry-run"]);
    assert_eq!(fates(&told), [&[DROPPED; 2][..], &newest].concat());
    assert_eq!(amount(&collected, "removed"), (0, 0), "what was dropped just now stays 72 hours");
    let (later, bytes) = amount(&collected, "later");
    assert!(later == 4 && bytes > 10 * MIB, "chunks and nodes of two points: {collected:#}");
    assert_eq!(vm.stored(), all);
    vm.assert_kept(&[&first, &second, &third, &fourth]);

    // What is held stays, whatever the rules say; the other one is gone from every list, and its bytes are still there.
    let held = vm.remora.json(["hold", &second.id, "--until", "2100-01-01T00:00:00Z"]);
    assert_eq!(held, json!({"point": second.id, "until": "2100-01-01T00:00:00Z"}));
    let (told, collected) = vm.prune(&rules);
    assert_eq!(fates(&told), [&[DROPPED, ("keep", "held until 2100-01-01T00:00:00Z")][..], &newest].concat());
    assert_eq!(amount(&collected, "removed"), (0, 0));
    vm.assert_kept(&[&second, &third, &fourth]);
    vm.remora.fails(["show", &first.id], 3, "it was dropped");
    assert_eq!(segments(&vm.stored()), segments(&all));
    assert_eq!(amount(&vm.gc(&[]), "removed"), (0, 0));
    assert_eq!(segments(&vm.stored()), segments(&all));

    // Of the first point only nodes go later: the second one still shows most of its data.
    age(&vm.objects);
    let collected = assert_frees_what_it_says(vm);
    assert_eq!((amount(&collected, "removed").0, &collected["emptied"]), (1, &json!(1)), "{collected:#}");
    vm.assert_kept(&[&second, &third, &fourth]);

    // Held no longer: now both points' data goes.
    assert_eq!(vm.remora.json(["hold", &second.id, "--clear"]), json!({"point": second.id, "until": null}));
    let (told, _) = vm.prune(&rules);
    assert_eq!(fates(&told), [&[DROPPED][..], &newest].concat());
    age(&vm.objects);
    let collected = assert_frees_what_it_says(vm);
    let (removed, bytes) = amount(&collected, "removed");
    assert!(removed == 3 && bytes > 10 * MIB, "{collected:#}");
    vm.assert_kept(&[&third, &fourth]);
    assert_eq!(amount(&vm.gc(&[]), "removed"), (0, 0), "nothing is left to remove");

    let fifth = vm.change_and_back_up(5, 20 * MIB, MIB);
    assert_eq!(vm.remora.json(["show", &fifth.id])["decision"], "incremental");
    vm.assert_kept(&[&third, &fourth, &fifth]);
}

/// A dry run of `gc` says what then goes, to the byte.
#[track_caller]
fn assert_frees_what_it_says(vm: &Upkept) -> Value {
    let before = vm.stored();
    let promised = vm.gc(&["--dry-run"]);
    assert_eq!(vm.stored(), before, "a dry run removes nothing");
    let done = vm.gc(&[]);
    assert_eq!(done, promised);
    assert_eq!(amount(&done, "rewritten"), (0, 0), "{done:#}");
    let (before, after) = (segments(&before), segments(&vm.stored()));
    assert_eq!((before.0 - after.0, before.1 - after.1), amount(&done, "removed"), "{done:#}");
    done
}

#[test]
fn a_folder_gives_back_what_is_pruned_and_what_is_kept_restores() {
    assert_space_is_given_back(&Upkept::in_a_folder("upkept"));
}

#[test]
fn a_bucket_gives_back_what_is_pruned_and_what_is_kept_restores() {
    assert_space_is_given_back(&Upkept::in_a_bucket("upkept on s3"));
}

#[test]
fn a_segment_that_is_mostly_dead_is_stored_again_with_the_rest() {
    let vm = Upkept::in_a_folder("mostly dead");
    vm.change_and_back_up(1, 0, 8 * MIB);
    // Seven eighths of the first one's bytes.
    let second = vm.change_and_back_up(2, MIB, 7 * MIB);
    vm.prune(&["--keep-last", "1"]);
    age(&vm.objects);
    let before = vm.stored();
    // A prune collects too, also where nothing is left to drop.
    let (told, collected) = vm.prune(&["--keep-last", "1"]);
    assert_eq!(fates(&told), [("keep", "last 1, minimum count")]);
    let (rewritten, freed) = amount(&collected, "rewritten");
    assert!(rewritten >= 1 && freed >= 7 * MIB, "{collected:#}");
    let gone = segments(&before).1 - segments(&vm.stored()).1;
    assert!(gone + 64 * 1024 > freed, "{gone} bytes went: {collected:#}");
    vm.assert_kept(&[&second]);
    let third = vm.change_and_back_up(3, 0, MIB);
    vm.assert_kept(&[&second, &third]);
}

#[test]
fn each_rule_keeps_its_points_and_says_so() {
    let vm = Upkept::in_a_folder("rules");
    let points = [1, 2, 3].map(|number| vm.change_and_back_up(number, 0, MIB));
    let listed = vm.remora.json(["points", "rules"]);
    let time = |point: usize| listed[point]["time"].as_str().unwrap().to_owned();
    // All within one day, unless it ends just now: the newest one is that of its day, month and year in any case.
    let (day, hour) = (time(2)[..10].to_owned(), time(2)[..13].to_owned());
    let newest = |args: &[&str]| vm.prune(&[args, &["--min-count", "0", "--dry-run"]].concat()).0.pop().unwrap().1;
    assert_eq!(newest(&["--keep-hourly", "1"]), format!("hourly {hour}"));
    assert_eq!(newest(&["--keep-daily", "1"]), format!("daily {day}"));
    assert!(newest(&["--keep-weekly", "1"]).starts_with("weekly 2"));
    assert_eq!(newest(&["--keep-monthly", "1"]), format!("monthly {}", &day[..7]));
    assert_eq!(newest(&["--keep-yearly", "1"]), format!("yearly {}", &day[..4]));
    assert_eq!(newest(&["--keep-last", "0"]), DROPPED.1);
    let all = |args: &[&str]| vm.prune(&[args, &["--dry-run"]].concat()).0;
    assert_eq!(all(&["--keep-last", "0", "--min-count", "2"])[1..], ["minimum count"; 2].map(kept));
    assert_eq!(all(&["--keep-last", "0", "--min-count", "0", "--min-age", "1h"]), ["minimum age"; 3].map(kept));
    vm.assert_kept(&points.each_ref());

    // Whoever wants none at all gets none; the next point is a first one.
    assert_eq!(fates(&vm.prune(&["--keep-last", "0", "--min-count", "0"]).0), [DROPPED; 3]);
    vm.remora.fails(["points", "rules"], 3, "rules");
    age(&vm.objects);
    vm.gc(&[]);
    let next = vm.change_and_back_up(4, 0, MIB);
    let shown = vm.remora.json(["show", &next.id]);
    assert_eq!((&shown["decision"], &shown["parent"]), (&json!("full"), &Value::Null), "{shown:#}");
    vm.assert_kept(&[&next]);
}

fn kept(reason: &str) -> (String, String) {
    ("keep".into(), reason.into())
}
