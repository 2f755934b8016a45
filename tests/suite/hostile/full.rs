//! Disks that are full: the target of a restore, and the repository's own.

use remora_tests::Small;

use super::*;

#[test]
fn a_full_target_is_named_and_nothing_stays_that_looks_whole() {
    let mut protected = Protected::new("full target", 12 * MIB);
    protected.back_up(&[]);
    let (id, small) = (protected.kept[0].id.clone(), Small::new(4));
    let file = small.path().join("vda.raw");
    let (to, to_folder) = (file.to_str().unwrap(), small.path().to_str().unwrap());
    let lines: [&[&str]; 5] = [
        &["restore", &id, "--to", to_folder],
        &["restore", &id, "--to", to_folder, "--format", "qcow2"],
        &["restore", &id, "--disk", "vda", "--to", to],
        &["export", &id, "--disk", "vda", "--format", "raw", "--to", to],
        &["export", &id, "--disk", "vda", "--format", "qcow2", "--to", to],
    ];
    for line in lines {
        assert_refused(&protected.remora.run(line), 10, &[to_folder]);
        assert_eq!(list(small.path()), [""; 0], "{line:?}");
    }
    // What was there stays, whole.
    fs::write(&file, "mine").unwrap();
    assert_refused(&protected.remora.run(lines[2].iter().chain(&["--force"])), 10, &[to]);
    assert_eq!((list(small.path()), fs::read(&file).unwrap()), (vec!["vda.raw".to_owned()], b"mine".to_vec()));
    // And with some room it works.
    small.grow(64);
    protected.remora.ok(lines[2].iter().chain(&["--force"]));
    assert_same(&file, &protected.kept[0].truth);
}

#[test]
fn a_full_repository_loses_nothing_and_goes_on_once_there_is_room() {
    let small = Small::new(20);
    let mut protected = Protected::new("full store", 32 * MIB);
    protected.domain.write_zeros("vda", 8 * MIB, 24 * MIB);
    protected.remora = Remora::new(Lab::shared(), small.path().join("repo"));
    protected.remora.ok(["repo", "init"]);
    protected.back_up(&[]);
    let (checkpoints, points) = (protected.checkpoints(), protected.remora.json(["points"]));

    protected.domain.write_bytes("vda", 10 * MIB, &random("too much", 20 * MIB));
    for args in [&[][..], &["--full"], &["--reread"]] {
        let ran = protected.remora.run(["backup", protected.domain.name()].iter().chain(args));
        assert_refused(&ran, 10, &["Free space"]);
        protected.assert_nothing_left();
        assert_eq!(protected.checkpoints(), checkpoints, "the one of the point stays, no other");
    }
    // Reading needs no room.
    assert_eq!(protected.remora.json(["points"]), points);
    protected.remora.ok(["verify"]);
    protected.assert_all_restore();

    small.grow(256);
    assert_eq!(protected.back_up(&[])["decision"], "incremental");
    protected.assert_all_restore();
    protected.remora.ok(["verify"]);
}

#[test]
fn no_repository_is_made_where_there_is_no_room() {
    let small = Small::new(1);
    // As much as fits.
    let filler = small.path().join("filler");
    fs::write(&filler, vec![1; 2 << 20]).unwrap_err();
    let remora = Remora::new(Lab::shared(), small.path().join("repo"));
    assert_refused(&remora.run(["repo", "init"]), 10, &[]);
    // Emptied first: a program that another test starts has it open until its exec, and its room is taken.
    fs::write(&filler, "").unwrap();
    fs::remove_file(&filler).unwrap();
    // What the failed try left is no obstacle.
    remora.ok(["repo", "init"]);
    assert_eq!(remora.json(["points"]), Value::Array(Vec::new()));
}
