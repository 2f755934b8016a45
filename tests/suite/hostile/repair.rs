//! `verify --repair`: what was lost of points, old ones too, is stored again from the running VM, as far as that still
//! holds it.

use std::collections::BTreeMap;

use remora_tests::remora::KEY_FILE;

use super::damage::{flip, truncate};
use super::*;
use crate::format::by_second_reader;

const BLOCK: u64 = 65536;

/// A point of 8 MiB of noise, which is chunks of 1 MiB in one segment, and one after each of two small changes.
struct Bench {
    vm: Protected<'static>,
    /// The chunks of the first point.
    base: PathBuf,
}

/// What the second point changed, and the third.
const CHANGED: [u64; 2] = [3 * MIB + BLOCK, 5 * MIB];

impl Bench {
    fn new(name: &str) -> Self {
        let mut vm = Protected::new(name, 8 * MIB);
        vm.back_up(&[]);
        let path = |object: PathBuf| vm.remora.repository().join(object);
        let base = vm.objects().into_iter().map(path).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        for at in CHANGED {
            vm.domain.write_bytes("vda", at, &random(&format!("{name} {at}"), BLOCK));
            assert_eq!(vm.back_up(&[])["decision"], "incremental");
        }
        Self { vm, base }
    }

    /// Flips a bit of the first point's chunk that lies at `at` on the disk.
    fn damage(&self, at: u64) {
        for chunk in 0..8 {
            let offset = 24 + chunk * (MIB + 16) + 1000;
            flip(&self.base, offset);
            let ran = self.vm.remora.run(["verify", &self.vm.kept[0].id, "-o", "json"]);
            assert_eq!(ran.code(), 7, "{ran:?}");
            if ran.json()[0]["damage"][0]["start"] == at {
                return;
            }
            flip(&self.base, offset);
        }
        panic!("no chunk lies at {at}");
    }

    /// Verifies and repairs; gives the reports of the points, oldest first.
    #[track_caller]
    fn repair(&self, code: i32, extra: &[&str]) -> Vec<Value> {
        let ran = self.vm.remora.run([&["verify", "--repair", "-o", "json"][..], extra].concat());
        assert_eq!(ran.code(), code, "{ran:?}");
        self.vm.assert_nothing_left();
        ran.json().as_array().unwrap().clone()
    }

    /// Both readers restore these points byte for byte.
    #[track_caller]
    fn assert_both_restore(&self, kept: &[Kept]) {
        for kept in kept {
            self.vm.assert_restores(kept);
        }
        let hash = |path: &Path| blake3::hash(&fs::read(path).unwrap()).to_hex().to_string();
        let truth: BTreeMap<String, String> =
            kept.iter().map(|kept| (format!("{}/vda", kept.id), hash(&kept.truth))).collect();
        assert_eq!(by_second_reader(&self.vm.remora.repository(), &KEY_FILE), truth);
    }
}

/// The stretches in a field of a point's report.
fn stretches(report: &Value, field: &str) -> Vec<[u64; 2]> {
    let stretches = report[field].as_array().unwrap().iter();
    stretches.map(|stretch| ["start", "end"].map(|end| stretch[end].as_u64().unwrap())).collect()
}

/// Nothing of a point was repaired, for this reason.
#[track_caller]
fn assert_left(reports: &[Value], why: &str) {
    for report in reports {
        assert_eq!((&report["ok"], report["repaired"].as_array().unwrap().len()), (&false.into(), 0), "{report}");
        let left = report["not_repaired"].as_array().unwrap();
        assert!(!left.is_empty(), "{report}");
        assert!(left.iter().all(|left| left["why"].as_str().unwrap().contains(why)), "{why:?}: {report}");
    }
    let noted: Vec<_> = reports.iter().map(|report| report["repair_noted"] == true).collect();
    assert_eq!(noted, [false, false, true], "of the newest point");
}

#[test]
fn what_the_running_vm_still_has_is_sound_again_in_all_points_and_its_lineage_goes_on() {
    let mut bench = Bench::new("repair whole");
    bench.damage(6 * MIB);
    // The guest goes on, elsewhere.
    bench.vm.domain.write_bytes("vda", 7 * MIB, &random("elsewhere", BLOCK));
    let checkpoints = bench.vm.checkpoints();
    assert_eq!(checkpoints.len(), 1);
    for report in bench.repair(0, &[]) {
        assert_eq!((&report["ok"], &report["repair_noted"]), (&true.into(), &false.into()), "{report}");
        assert_eq!(stretches(&report, "damage"), [[6 * MIB, 7 * MIB]]);
        assert_eq!(stretches(&report, "repaired"), [[6 * MIB, 7 * MIB]]);
        assert_eq!(stretches(&report, "not_repaired"), [[0; 2]; 0]);
    }
    assert_eq!(bench.vm.checkpoints(), checkpoints);
    bench.vm.remora.ok(["verify"]);
    bench.assert_both_restore(&bench.vm.kept.clone());
    let next = bench.vm.back_up(&[]);
    assert_eq!(next["decision"], "incremental", "{next}");
    assert!(next["disks"][0]["read"].as_u64().unwrap() <= 17 * BLOCK, "what changed, and the spot checks: {next}");
    bench.assert_both_restore(&bench.vm.kept.clone());
}

#[test]
fn what_the_guest_has_changed_stays_lost_and_the_rest_of_its_chunk_does_not() {
    let bench = Bench::new("repair part");
    bench.damage(3 * MIB);
    let later = 3 * MIB + 8 * BLOCK;
    bench.vm.domain.write_bytes("vda", later, &random("later", BLOCK));
    let reports = bench.repair(7, &[]);
    let (old, new) = ([CHANGED[0], CHANGED[0] + BLOCK], [later, later + BLOCK]);
    assert_eq!(stretches(&reports[0], "not_repaired"), [old, new]);
    assert_eq!(stretches(&reports[1], "not_repaired"), [new]);
    assert_eq!(stretches(&reports[2], "not_repaired"), [new]);
    let rest = [[3 * MIB, old[0]], [old[1], new[0]], [new[1], 4 * MIB]];
    assert!(reports.iter().all(|report| stretches(report, "repaired") == rest), "{reports:?}");
    assert!(reports[0]["not_repaired"][0]["why"].as_str().unwrap().contains("changed"), "{}", reports[0]);
    assert_eq!(reports[2]["repair_noted"], true);

    // All but that block restores.
    let to = bench.vm.domain.lab().scratch("in part").join("vda.raw");
    let newest = &bench.vm.kept[2];
    let args = ["restore", &newest.id, "--allow-damaged", "--disk", "vda", "--to", to.to_str().unwrap()];
    assert_eq!(bench.vm.remora.run(args).code(), 12);
    let mut expected = fs::read(&newest.truth).unwrap();
    let written = expected[new[0] as usize..new[1] as usize].to_vec();
    expected[new[0] as usize..new[1] as usize].fill(0);
    assert!(fs::read(&to).unwrap() == expected);

    // What comes back is taken.
    bench.vm.domain.write_bytes("vda", later, &written);
    let reports = bench.repair(7, &[]);
    assert_eq!(stretches(&reports[0], "not_repaired"), [old]);
    assert_eq!((&reports[1]["ok"], &reports[2]["ok"]), (&true.into(), &true.into()));
    bench.vm.remora.ok(["prune", bench.vm.domain.name(), "--keep-last", "2"]);
    bench.assert_both_restore(&bench.vm.kept[1..]);
}

#[test]
fn without_the_same_bytes_or_their_digests_it_is_only_noted() {
    let mut bench = Bench::new("repair none");
    let whole = fs::read(&bench.base).unwrap();
    let objects = bench.vm.objects();
    let no_new_segment = |bench: &Bench| {
        let segments = |objects: BTreeSet<PathBuf>| {
            objects.into_iter().filter(|object| object.parent().unwrap().ends_with("s")).collect::<Vec<_>>()
        };
        assert_eq!(segments(bench.vm.objects()), segments(objects.clone()));
    };
    truncate(&bench.base, whole.len() as u64 - 100);
    assert_left(&bench.repair(7, &[]), "index is damaged");
    fs::remove_file(&bench.base).unwrap();
    assert_left(&bench.repair(7, &[]), "object is gone");
    fs::write(&bench.base, &whole).unwrap();
    no_new_segment(&bench);

    bench.damage(6 * MIB);
    assert_left(&bench.repair(7, &["--connect", "test:///default"]), "repair none");
    // Another disk under the same name.
    let other = Protected::new("repair none, other", 8 * MIB);
    bench.vm.domain.destroy();
    other.domain.destroy();
    let image = bench.vm.domain.image("vda").path;
    let kept = image.with_extension("kept");
    fs::rename(&image, &kept).unwrap();
    fs::copy(&other.domain.image("vda").path, &image).unwrap();
    assert_left(&bench.repair(7, &[]), "shut off");
    bench.vm.domain.start_paused();
    assert_left(&bench.repair(7, &[]), "changed");
    no_new_segment(&bench);

    // The right one again; the next backup stores again what is lost, and the repair what the old points lost.
    bench.vm.domain.destroy();
    fs::rename(&kept, &image).unwrap();
    bench.vm.domain.start_paused();
    let healed = bench.vm.back_up(&[]);
    assert!(healed["reason"].as_str().unwrap().contains("found lost"), "{healed}");
    bench.vm.assert_restores(bench.vm.kept.last().unwrap());
    let reports = bench.repair(0, &[]);
    assert!(reports.iter().all(|report| report["ok"] == true), "{reports:?}");
    bench.assert_both_restore(&bench.vm.kept.clone());
}
