//! `remora copy`: the second copy of a backup, under other keys.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Lab, MIB, Remora};

/// A key file with these bytes.
fn key_file(byte: u8) -> std::path::PathBuf {
    let path = Lab::shared().scratch("other key").join("key");
    fs::write(&path, [byte; 32]).unwrap();
    path
}

/// The names of all objects of a repository.
fn objects(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(objects(&entry.path()));
        } else {
            found.insert(entry.file_name().into_string().unwrap());
        }
    }
    found
}

#[test]
fn copies_are_the_same_disks_under_other_keys_and_go_on_where_they_ended() {
    let lab = Lab::shared();
    let domain = lab.domain("copied").disk(DiskSpec::qcow2("vda", 40 * MIB)).paused();
    let from = Remora::init(lab);
    let keys = key_file(9);
    let to = Remora::new(lab, lab.scratch("copies").join("repo")).with("REMORA_KEY_FILE", &keys);
    to.ok(["repo", "init"]);
    let [first_repository, second_repository] = [from.repository(), to.repository()];
    let (url, own_key) = (first_repository.to_str().unwrap(), key_file(7));
    let copy = ["copy", "--from", url, "--from-key-file", own_key.to_str().unwrap()];

    domain.write("vda", 0x11, 0, 3 * MIB);
    from.json(["backup", "copied", "--quiesce", "never"]);
    domain.write("vda", 0x22, 2 * MIB, MIB);
    from.json(["backup", "copied", "--quiesce", "never"]);
    let report = to.json(copy);
    let copied = report["copied"].as_array().unwrap();
    assert_eq!((copied.len(), &report["there"], &report["damaged"]), (2, &0.into(), &serde_json::json!([])));
    assert_eq!((&copied[0]["decision"], &copied[1]["decision"]), (&"full".into(), &"incremental".into()));
    assert_eq!(copied[1]["read"], MIB);

    // A third one is copied alone.
    domain.write("vda", 0, 0, MIB);
    from.json(["backup", "copied", "--quiesce", "never"]);
    let report = to.json(copy);
    assert_eq!((report["copied"].as_array().unwrap().len(), &report["there"]), (1, &2.into()), "{report:#}");

    let (ours, theirs) = (from.json(["points"]), to.json(["points"]));
    let dir = lab.scratch("compared");
    for (point, copied) in ours.as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
        let [id, copy_id] = [point, copied].map(|point| point["point"].as_str().unwrap());
        assert_eq!((&point["time"], &point["vm"]), (&copied["time"], &copied["vm"]));
        assert_eq!(to.json(["show", copy_id])["copy_of"], id);
        let [one, other] = ["one", "other"].map(|name| dir.join(format!("{id}.{name}")));
        from.ok(["restore", id, "--disk", "vda", "--to", one.to_str().unwrap()]);
        to.ok(["restore", copy_id, "--disk", "vda", "--to", other.to_str().unwrap()]);
        assert_same(&one, &other);
    }
    assert_same(&dir.join(format!("{}.other", ours[2]["point"].as_str().unwrap())), &domain.truth("vda"));

    // Nothing of it shows that both hold the same: no folder of a VM, no segment has the same name.
    let shared: Vec<_> = objects(&first_repository).intersection(&objects(&second_repository)).cloned().collect();
    let public = |name: &String| ["remora.json", "key", "create-only"].contains(&name.as_str()) || name.len() == 12;
    assert!(shared.iter().all(public), "{shared:?}");
}

#[test]
fn a_copy_that_cannot_be_made_says_why() {
    let lab = Lab::shared();
    let domain = lab.domain("not copied").disk(DiskSpec::qcow2("vda", MIB)).paused();
    let from = Remora::init(lab);
    from.json(["backup", domain.name(), "--quiesce", "never"]);
    let repository = from.repository();
    let url = repository.to_str().unwrap();
    from.fails(["copy", "--to", url], 2, "both repositories are");
    let to = Remora::new(lab, lab.scratch("copies").join("repo")).with("REMORA_KEY_FILE", key_file(9));
    to.fails(["copy", "--from", url], 3, "no such folder");
    to.ok(["repo", "init"]);
    to.fails(["copy", "--from", url], 5, "--from-key-file");
    let own_key = key_file(7);
    let named = ["copy", "0000000000000000-1", "--from", url, "--from-key-file", own_key.to_str().unwrap()];
    to.fails(named, 3, "0000000000000000-1");
    to.fails(["copy"], 2, "--from");
    assert_eq!(to.json(["points"]), serde_json::json!([]));
}
