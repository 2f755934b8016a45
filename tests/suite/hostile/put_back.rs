//! A repository that is put back to an earlier state: by its storage's admin, or from a snapshot.

use super::*;

#[test]
fn a_repository_that_was_put_back_is_noticed_and_the_next_backup_is_right() {
    let mut vm = Protected::new("put back", 4 * MIB);
    vm.back_up(&[]);
    let repository = vm.remora.repository();
    let snapshot = repository.with_extension("snapshot");
    let copied = std::process::Command::new("cp").arg("--archive").args([&repository, &snapshot]).status();
    assert!(copied.unwrap().success());
    vm.domain.write_bytes("vda", MIB, &random("lost", 128 << 10));
    vm.back_up(&[]);
    let lost = vm.kept.pop().unwrap();
    fs::remove_dir_all(&repository).unwrap();
    fs::rename(&snapshot, &repository).unwrap();

    for command in ["points", "verify", "gc"] {
        let ran = vm.remora.run([command]);
        assert_eq!(ran.code(), 7, "{ran:?}");
        assert!(format!("{ran:?}").contains("put back to an earlier state"), "{ran:?}");
    }
    // A point that this host has seen is lost; nobody says that there never was one.
    assert_refused(&vm.remora.run(["show", &lost.id]), 7, &[&lost.id, "put back to an earlier state"]);
    vm.assert_restores(&vm.kept[0]);

    let report = vm.back_up(&[]);
    assert_eq!(report["decision"], "reread", "the checkpoint of the point that is left is gone: {report:#}");
    vm.assert_all_restore();
    vm.remora.ok(["verify"]);
    vm.remora.ok(["gc"]);
}
