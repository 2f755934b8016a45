//! Objects that are cut off, missing, or have a flipped bit: the damage is named, and everything else still restores.

use std::os::unix::fs::FileExt;

use remora_tests::process::Must;

use super::mounts::Serving;
use super::*;

/// Three stretches of data, each in a leaf of its own (a leaf maps 64 MiB).
const DATA: [u64; 3] = [0, 70 * MIB, 140 * MIB];
const SIZE: u64 = 160 * MIB;

/// Two points of one VM and one of another in one repository, and which objects came with which.
struct Bench {
    vm: Protected<'static>,
    other: Protected<'static>,
    /// The chunks and nodes of the first point, and of the second.
    segments: [[PathBuf; 2]; 2],
}

impl Bench {
    fn new(name: &str) -> Self {
        let lab = Lab::shared();
        let raw = lab.scratch("content").join("raw");
        let file = fs::File::create(&raw).unwrap();
        file.set_len(SIZE).unwrap();
        for at in DATA {
            file.write_all_at(&random(&format!("{name} {at}"), 2 * MIB), at).unwrap();
        }
        let domain = lab.domain(name).disk(DiskSpec::holding("vda", Format::Qcow2, &raw)).paused();
        fs::remove_file(raw).unwrap();
        let mut other = Protected::new(&format!("{name}, other"), MIB);
        other.back_up(&[]);
        let mut vm = Protected { domain, remora: other.remora.clone(), kept: Vec::new() };
        let (before, first) = (vm.objects(), vm.back_up(&[]));
        assert_eq!(first["decision"], "full");
        let between = vm.objects();
        vm.domain.write_bytes("vda", DATA[1], &random("changed", 512 << 10));
        assert_eq!(vm.back_up(&[])["decision"], "incremental");
        let after = vm.objects();
        let new = |from: &BTreeSet<PathBuf>, to: &BTreeSet<PathBuf>| {
            let path = |object: &PathBuf| vm.remora.repository().join(object);
            let mut found: Vec<_> =
                to.difference(from).filter(|object| object.parent().unwrap().ends_with("s")).map(path).collect();
            found.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
            <[PathBuf; 2]>::try_from(found).unwrap()
        };
        let segments = [new(&before, &between), new(&between, &after)];
        Self { vm, other, segments }
    }

    fn remora(&self) -> &Remora {
        &self.vm.remora
    }

    /// The other VM's point.
    fn other(&self) -> &Kept {
        &self.other.kept[0]
    }

    /// What `verify` says of a point: the stretches that are lost.
    fn lost(&self, kept: &Kept) -> Vec<Lost> {
        let ran = self.remora().run(["verify", &kept.id, "-o", "json"]);
        let report = ran.json()[0].clone();
        let lost: Vec<_> = report["damage"].as_array().unwrap().iter().map(Lost::from).collect();
        assert_eq!(ran.code(), if lost.is_empty() { 0 } else { 7 }, "{ran:?}");
        assert_eq!(report["ok"], lost.is_empty());
        lost
    }

    /// The point is damaged there and nowhere else: restore names the point, the range and the object and makes no
    /// file; a mount serves every byte outside and fails inside.
    #[track_caller]
    fn assert_lost(&self, kept: &Kept, lost: &[Lost], object: &Path) {
        let name = object.strip_prefix(self.remora().repository()).unwrap().to_str().unwrap();
        assert!(!lost.is_empty(), "{} is not damaged", kept.id);
        for each in lost {
            assert_eq!((each.disk.as_str(), each.object.as_str()), ("vda", name));
        }
        let folder = self.vm.domain.lab().scratch("damaged");
        let ran = self.remora().run(["restore", &kept.id, "--to", folder.to_str().unwrap()]);
        assert_refused(&ran, 7, &[&kept.id, "vda", name, "remora verify"]);
        let range = named_range(&ran.stderr).unwrap_or_else(|| panic!("no range is named: {ran:?}"));
        assert!(lost.iter().any(|each| each.start < range.1 && range.0 < each.end), "{range:?} of {lost:?}: {ran:?}");
        assert_eq!(list(&folder), [""; 0]);
        self.assert_salvaged(kept, lost);

        let serving = Serving::disks(self.remora(), &kept.id, &folder);
        let [served, truth] = [&serving.disk(), &kept.truth].map(|path| fs::File::open(path).unwrap());
        let block = 64 << 10;
        let (mut is, mut was) = (vec![0; block as usize], vec![0; block as usize]);
        for at in (0..SIZE).step_by(block as usize) {
            let inside = lost.iter().any(|each| each.start < at + block && at < each.end);
            match served.read_exact_at(&mut is, at) {
                Ok(()) => {
                    truth.read_exact_at(&mut was, at).unwrap();
                    assert!(!inside && is == was, "byte {at} is served, lost: {inside}");
                }
                Err(error) => assert!(inside, "byte {at}: {error}"),
            }
        }
        serving.end(Signal::SIGINT);
    }

    /// `--allow-damaged` restores all the rest, zeros for what is lost, and says which.
    #[track_caller]
    fn assert_salvaged(&self, kept: &Kept, lost: &[Lost]) {
        let folder = self.vm.domain.lab().scratch("salvaged");
        let target = folder.join("vda.raw");
        let args = ["restore", &kept.id, "--allow-damaged", "--to", folder.to_str().unwrap()];
        let ran = self.remora().run(args.iter().chain(&["-o", "json"]));
        assert_eq!(ran.code(), 12, "{ran:?}");
        assert!(ran.stderr.contains("incomplete") && ran.stderr.contains("vda.raw.lost.json"), "{ran:?}");
        assert_eq!(list(&folder).into_iter().collect::<BTreeSet<_>>().len(), 2);
        let map: Value = serde_json::from_slice(&fs::read(folder.join("vda.raw.lost.json")).unwrap()).unwrap();
        assert_eq!((&map["point"], &map["target"]), (&kept.id.as_str().into(), &target.to_str().unwrap().into()));
        assert_eq!(map["lost"], ran.json()["disks"][0]["lost"]);
        let told: Vec<_> = map["lost"].as_array().unwrap().iter().map(Lost::from).collect();
        assert_eq!(told, lost);
        let [salvaged, truth] = [&target, &kept.truth].map(|path| fs::read(path).unwrap());
        let mut expected = truth;
        for each in lost {
            expected[each.start as usize..each.end as usize].fill(0);
        }
        assert!(salvaged == expected, "what is not lost is as it was");
        // Neither file is replaced unawares.
        fs::remove_file(&target).unwrap();
        assert_refused(&self.remora().run(args), 4, &["lost.json", "--force"]);
        assert_eq!(list(&folder), ["vda.raw.lost.json"]);
    }

    /// Everything but what is named restores.
    #[track_caller]
    fn assert_restore(&self, kept: &[&Kept]) {
        for kept in kept {
            assert_eq!(self.lost(kept), []);
            self.vm.assert_restores(kept);
        }
    }

    /// The next backup does not rest on what is damaged: its point restores.
    #[track_caller]
    fn assert_full_heals(&mut self) {
        self.vm.back_up(&["--full"]);
        self.assert_restore(&[self.vm.kept.last().unwrap()]);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Lost {
    disk: String,
    start: u64,
    end: u64,
    object: String,
}

impl From<&Value> for Lost {
    fn from(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap().to_owned();
        let [start, end] = ["start", "end"].map(|name| value[name].as_u64().unwrap());
        assert!(!text("why").is_empty() && start < end && end <= SIZE, "{value}");
        Self { disk: text("disk"), start, end, object: text("object") }
    }
}

/// The first `START..END` in a text.
fn named_range(text: &str) -> Option<(u64, u64)> {
    let number = |text: &str| text.parse().ok();
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .filter_map(|word| word.split_once(".."))
        .find_map(|(start, end)| Some((number(start)?, number(end.trim_end_matches('.'))?)))
}

pub(super) fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn len(path: &Path) -> u64 {
    path.metadata().unwrap().len()
}

pub(super) fn truncate(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn a_flipped_bit_of_a_chunk_costs_that_chunk_and_is_named() {
    let mut bench = Bench::new("flipped chunk");
    let [[chunks, _], _] = bench.segments.clone();
    flip(&chunks, len(&chunks) / 2);
    for point in 0..2 {
        let kept = bench.vm.kept[point].clone();
        let lost = bench.lost(&kept);
        let bytes: u64 = lost.iter().map(|each| each.end - each.start).sum();
        assert!(bytes <= MIB, "more than a chunk: {lost:?}");
        // What the second point stored anew, it has not lost.
        if point == 0 || bytes > 0 {
            bench.assert_lost(&kept, &lost, &chunks);
        }
    }
    // Data is read as far as was asked.
    let first = bench.vm.kept[0].clone();
    bench.remora().ok(["verify", &first.id, "--structure-only"]);
    bench.remora().fails(["verify", &first.id, "--sample", "100%"], 7, &first.id);
    bench.remora().fails(["verify", "--sample", "0%"], 2, "0%");
    let folder = bench.vm.domain.lab().scratch("sound");
    let to = folder.to_str().unwrap();
    bench.remora().ok(["restore", &bench.other().id, "--allow-damaged", "--to", to]);
    assert_eq!(list(&folder), ["vda.raw"], "nothing is lost");
    bench.assert_restore(&[bench.other()]);
    bench.vm.assert_listed_beside(bench.other());
    // A backup stays possible; one that compares by digest keeps what is lost, until it is repaired or that is noted.
    bench.vm.back_up(&["--reread"]);
    let newest = bench.vm.kept.last().unwrap().clone();
    assert_eq!(bench.lost(&newest).is_empty(), bench.lost(&bench.vm.kept[1]).is_empty());
    if !bench.lost(&newest).is_empty() {
        let repaired = bench.remora().run(["verify", "--repair", "-o", "json"]).json();
        let repaired = repaired.as_array().unwrap().iter().find(|found| found["point"] == newest.id.as_str()).unwrap();
        assert_eq!(repaired["ok"], true, "the VM holds what its newest point does: {repaired}");
        bench.assert_restore(&[&newest]);
    }
    // One that reads and stores everything makes a sound point in any case.
    bench.assert_full_heals();
}

#[test]
fn a_truncated_segment_costs_what_lies_in_it_and_is_named() {
    let mut bench = Bench::new("truncated");
    let [_, [chunks, _]] = bench.segments.clone();
    truncate(&chunks, len(&chunks) / 2);
    let [first, second] = [0, 1].map(|point| bench.vm.kept[point].clone());
    let lost = bench.lost(&second);
    assert!(lost.iter().all(|each| each.start >= DATA[1] && each.end <= DATA[1] + MIB), "{lost:?}");
    bench.assert_lost(&second, &lost, &chunks);
    bench.assert_restore(&[&first, bench.other()]);
    bench.vm.assert_listed_beside(bench.other());
    bench.assert_full_heals();
}

#[test]
fn a_flipped_bit_of_a_leaf_costs_the_stretch_that_it_maps() {
    let mut bench = Bench::new("flipped leaf");
    let [[_, nodes], _] = bench.segments.clone();
    // The first record lies behind the magic number and the id.
    flip(&nodes, 30);
    let [first, second] = [0, 1].map(|point| bench.vm.kept[point].clone());
    let lost = bench.lost(&first);
    assert!(lost.iter().map(|each| each.end - each.start).sum::<u64>() <= 64 * MIB, "{lost:?}");
    bench.assert_lost(&first, &lost, &nodes);
    let lost = bench.lost(&second);
    if !lost.is_empty() {
        bench.assert_lost(&second, &lost, &nodes);
    }
    bench.assert_restore(&[bench.other()]);
    bench.vm.assert_listed_beside(bench.other());
    bench.assert_full_heals();
}

#[test]
fn a_damaged_manifest_hides_no_other_point() {
    let bench = Bench::new("manifest");
    let [first, second] = [0, 1].map(|point| bench.vm.kept[point].clone());
    let (vm, sequence) = second.id.split_once('-').unwrap();
    let object = bench
        .vm
        .objects()
        .into_iter()
        .find(|object| object.ends_with(format!("{vm}/m/{:012}", sequence.parse::<u64>().unwrap())));
    let object = object.unwrap();
    let manifest = bench.remora().repository().join(&object);
    let whole = fs::read(&manifest).unwrap();
    for damage in ["flip", "truncate"] {
        if damage == "flip" {
            flip(&manifest, len(&manifest) / 2);
        } else {
            truncate(&manifest, len(&manifest) / 3);
        }
        let ran = bench.remora().run(["points", "-o", "json"]);
        assert_eq!(ran.code(), 7, "{ran:?}");
        let listed: BTreeSet<_> = ids(&ran.json()).into_iter().collect();
        assert_eq!(listed, [first.id.clone(), bench.other().id.clone()].into(), "{damage}");
        assert!(ran.stderr.contains(&second.id), "{ran:?}");
        let name = object.to_str().unwrap();
        for args in [&["show", &second.id][..], &["restore", &second.id, "--to", "/nonexistent/a/b"]] {
            assert_refused(&bench.remora().run(args), 7, &[name]);
        }
        let verified = bench.remora().run(["verify", "-o", "json"]);
        assert_eq!(verified.code(), 7, "{verified:?}");
        for report in verified.json().as_array().unwrap() {
            let damaged = report["point"] == second.id.as_str();
            assert_eq!((report["ok"] == false, report["unreadable"].is_string()), (damaged, damaged), "{report}");
        }
        bench.assert_restore(&[&first, bench.other()]);
        fs::write(&manifest, &whole).unwrap();
    }
    flip(&manifest, 20);
    // The next backup either goes on with what is sound, or says what stands in its way.
    let ran = bench.remora().run(["backup", bench.vm.domain.name(), "-o", "json"]);
    if ran.status.success() {
        let (report, truth) = (ran.json(), bench.vm.domain.truth("vda"));
        assert_ne!(report["decision"], "incremental", "its parent cannot be read");
        bench.vm.assert_restores(&Kept { id: report["point"].as_str().unwrap().into(), truth });
    } else {
        assert_eq!(ran.code(), 7, "{ran:?}");
        assert!(ran.stderr.contains("advice") && !ran.stderr.contains("\"advice\":null"), "{ran:?}");
    }
    bench.vm.assert_nothing_left();
    bench.assert_restore(&[&first, bench.other()]);
    fs::write(&manifest, &whole).unwrap();
    bench.vm.assert_restores(&second);
}

impl Protected<'_> {
    /// Exactly the points that are kept and this one are listed.
    #[track_caller]
    fn assert_listed_beside(&self, other: &Kept) {
        let listed: BTreeSet<_> = ids(&self.remora.json(["points"])).into_iter().collect();
        assert_eq!(listed, self.kept.iter().chain([other]).map(|kept| kept.id.clone()).collect());
    }
}

#[test]
fn no_object_can_be_changed_unnoticed() {
    let mut protected = Protected::new("every object", 2 * MIB);
    protected.back_up(&[]);
    protected.domain.write_bytes("vda", MIB, &random("changed", 256 << 10));
    protected.back_up(&[]);
    let objects = protected.objects();
    // The descriptor, a slot, a tenant's key, two manifests, and of each point the chunks and the nodes.
    assert_eq!(objects.len(), 9, "{objects:?}");
    for object in &objects {
        let path = protected.remora.repository().join(object);
        let whole = fs::read(&path).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            Some(bytes)
        };
        let manglings = [
            ("first bit", flipped(0)),
            ("bit in the middle", flipped(whole.len() / 2)),
            ("bit near the end", flipped(whole.len() - 60)),
            ("last bit", flipped(whole.len() - 2)),
            ("cut by a byte", Some(whole[..whole.len() - 2].to_vec())),
            ("cut in half", Some(whole[..whole.len() / 2].to_vec())),
            ("emptied", Some(Vec::new())),
            ("longer", Some([&whole[..], b"x"].concat())),
            ("removed", None),
        ];
        for (how, bytes) in manglings {
            match &bytes {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let ran = protected.remora.run(["verify", "-o", "json"]);
            let removed_whole =
                how == "removed" && (object.ends_with("remora.json") || object.parent().unwrap().ends_with("m"));
            let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), ran.stderr);
            if removed_whole {
                // No repository then, or a point that nothing else names: see `remora points`.
                assert!([0, 3, 7].contains(&ran.code()), "{object:?}, {how}: {ran:?}");
            } else {
                assert_eq!(ran.code(), 7, "{object:?}, {how}: {ran:?}");
                let name = object.to_str().unwrap();
                assert!(said.contains(name) || how == "removed", "{object:?}, {how} is not named: {ran:?}");
            }
            assert!(!said.contains("panicked"), "{ran:?}");
        }
        fs::write(&path, whole).unwrap();
    }
    protected.remora.ok(["verify"]);
    protected.assert_all_restore();
}

/// Runs a command that is killed at the `n`th of some calls.
fn killed_at(call: &str, n: u32, command: &std::process::Command) -> std::process::Output {
    let mut traced = std::process::Command::new("strace");
    traced.args(["--follow-forks", "--quiet=all", "--output=/dev/null", &format!("--trace={call}")]);
    traced.arg(format!("--inject={call}:signal=SIGKILL:when={n}"));
    traced.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    traced.output().must("run strace")
}

/// A restore of a damaged point that is killed at each call that makes something durable or names it: where there is an
/// image, the list of what is zero in it is there too, and whole.
#[test]
fn no_image_with_zeros_is_ever_without_the_list_of_them() {
    let bench = Bench::new("killed salvage");
    let [[chunks, _], _] = bench.segments.clone();
    flip(&chunks, len(&chunks) / 2);
    let kept = &bench.vm.kept[0];
    let lost = bench.lost(kept);
    let lab = bench.vm.domain.lab();
    let mut states = BTreeSet::new();
    for call in ["fsync", "rename,renameat,renameat2,link,linkat,unlink,unlinkat"] {
        for n in 1.. {
            let folder = lab.scratch("killed salvage");
            let target = folder.join("vda.raw");
            let restore = bench.remora().command([
                "restore",
                &kept.id,
                "--allow-damaged",
                "--to",
                target.to_str().unwrap(),
                "--disk",
                "vda",
            ]);
            let ran = killed_at(call, n, &restore);
            let told = fs::read(folder.join("vda.raw.lost.json")).ok();
            let told: Option<Value> = told.and_then(|text| serde_json::from_slice(&text).ok());
            let told: Option<Vec<_>> =
                told.map(|told| told["lost"].as_array().unwrap().iter().map(Lost::from).collect());
            states.insert((target.exists(), told.is_some()));
            assert!(
                !target.exists() || told.as_ref() == Some(&lost),
                "{call} {n}: an image without its list: {told:?}"
            );
            if ran.status.code() == Some(12) {
                assert!(n > 1, "no call of {call}: {ran:?}");
                break;
            }
            assert!(ran.status.code().is_none(), "{call} {n}: {ran:?}");
        }
    }
    assert_eq!(states, [(false, true), (true, true)].into(), "killed between the two, and after");
}

#[test]
fn an_image_with_zeros_keeps_the_list_of_them_until_another_one_takes_its_place() {
    let bench = Bench::new("salvaged twice");
    let [[chunks, _], _] = bench.segments.clone();
    flip(&chunks, len(&chunks) / 2);
    let folder = bench.vm.domain.lab().scratch("salvaged twice");
    let (target, told) = (folder.join("vda.raw"), folder.join("vda.raw.lost.json"));
    let to = target.to_str().unwrap();
    let args = |point| ["restore", point, "--allow-damaged", "--force", "--disk", "vda", "--to", to];
    let damaged = bench.vm.kept[0].id.as_str();
    assert_eq!(bench.remora().run(args(damaged)).code(), 12);
    let both = || [&target, &told].map(|path| fs::read(path).unwrap());
    let before = both();
    // While it writes the next image, and long before that takes the place of this one.
    let ran = killed_at("pwrite64", 1, &bench.remora().command(args(damaged)));
    assert_eq!(ran.status.code(), None, "{ran:?}");
    assert!(both() == before);
    assert_eq!(bench.remora().run(args(damaged)).code(), 12);
    assert!(both() == before);
    // Nothing is lost of this one, whether or not something might have been.
    let sound = bench.other().id.as_str();
    bench.remora().ok(args(sound));
    assert!(target.exists() && !told.exists());
    assert_eq!(bench.remora().run(args(damaged)).code(), 12);
    assert!(told.exists());
    bench.remora().ok(["restore", sound, "--force", "--disk", "vda", "--to", to]);
    assert!(target.exists() && !told.exists());
}
