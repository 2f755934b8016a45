//! What makes no sense, and what cannot be read: the documented exit code, and nothing is dropped or removed.

use super::*;

/// A point that no repository has.
const UNKNOWN: &str = "0011223344556677-1";

#[test]
fn what_makes_no_sense_is_refused_and_drops_nothing() {
    let vm = Upkept::in_a_folder("senseless");
    let [first, second] = [1, 2].map(|number| vm.change_and_back_up(number, 0, MIB));
    age(&vm.objects);
    let before = vm.stored();
    let until = "2100-01-01T00:00:00Z";
    let lines: [(&[&str], i32, &str); 17] = [
        (&["prune"], 2, "--keep-last"),
        (&["prune", "senseless"], 2, "--keep-last"),
        (&["prune", "senseless", "--min-count", "1"], 2, "--keep-last"),
        (&["prune", "senseless", "--keep-last", "-1"], 2, "-1"),
        (&["prune", "senseless", "--keep-last", "some"], 2, "some"),
        (&["prune", "senseless", "--keep-last", "1", "--min-age", "yesterday"], 2, "36h"),
        (&["prune", "senseless", "--keep-last", "1", "--min-age=-1d"], 2, "-1d"),
        (&["prune", "nobody", "--keep-last", "1"], 3, "\"nobody\""),
        (&["gc", "nobody"], 3, "\"nobody\""),
        (&["gc", "nobody", "--dry-run"], 3, "\"nobody\""),
        (&["hold", &first.id], 2, "--until"),
        (&["hold", &first.id, "--until", until, "--clear"], 2, "--clear"),
        (&["hold", &first.id, "--until", "tomorrow"], 2, "tomorrow"),
        (&["hold", &first.id, "--until", "2017-01-01T00:00:00Z"], 2, "2017-01-01T00:00:00Z"),
        (&["hold", UNKNOWN, "--until", until], 3, UNKNOWN),
        (&["hold", UNKNOWN, "--clear"], 3, UNKNOWN),
        (&["hold", "senseless", "--clear"], 2, "senseless"),
    ];
    for (line, code, says) in lines {
        let ran = vm.remora.fails(line, code, says);
        assert!(ran.stdout.is_empty() && !ran.stderr.contains("panicked"), "{ran:?}");
        assert_eq!(vm.stored(), before, "{line:?}");
    }
    vm.assert_kept(&[&first, &second]);
    // What was dropped cannot be held any more.
    vm.prune(&["--keep-last", "1"]);
    vm.remora.fails(["hold", &first.id, "--until", until], 3, &first.id);
    vm.assert_kept(&[&second]);
}

#[test]
fn a_vm_that_cannot_be_read_is_left_alone_and_the_others_are_collected() {
    let remora = Remora::init(Lab::shared());
    let vm = |name: &str| Upkept {
        domain: domain(name),
        objects: remora.repository(),
        remora: remora.clone(),
        _server: None,
    };
    let (sound, unsound) = (vm("sound"), vm("unsound"));
    for vm in [&sound, &unsound] {
        vm.change_and_back_up(1, 0, 2 * MIB);
    }
    let newest = [&sound, &unsound].map(|vm| vm.change_and_back_up(2, 0, 2 * MIB));
    remora.ok(["prune", "--keep-last", "1"]);
    let folder = newest[1].id.split('-').next().unwrap();
    let manifest = |path: &&PathBuf| path.ends_with("m/000000000002") && path.to_str().unwrap().contains(folder);
    let manifest = sound.stored().keys().find(manifest).unwrap().clone();
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, &whole[..whole.len() / 2]).unwrap();
    age(&sound.objects);
    let stored = sound.stored();
    let ran = remora.run(["gc", "-o", "json"]);
    assert_eq!(ran.code(), 7, "{ran:?}");
    assert!(ran.stderr.contains("nothing was removed") && ran.stderr.contains(folder), "{ran:?}");
    let collected = ran.json();
    assert_eq!(one(&collected)["vm"], "sound");
    assert_eq!(amount(one(&collected), "removed").0, 2);
    let gone = stored.keys().filter(|path| !path.exists());
    assert!(gone.clone().count() == 2 && gone.clone().all(|path| !path.to_str().unwrap().contains(folder)));
    sound.assert_restores(&newest[0]);

    // Once it can be read again, it is collected as well.
    fs::write(&manifest, whole).unwrap();
    age(&sound.objects);
    assert_eq!(amount(&unsound.gc(&["unsound"]), "removed").0, 2);
    unsound.assert_kept(&[&newest[1]]);
}
