//! What is read of the folder: documents, whichever file they are in, and modules.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use jiff::Timestamp;
use remora_core::policy::{Select, VmFacts};
use remora_core::{ErrorKind, VmName};
use remora_plugins::builtins;
use remora_plugins::set::{Generation, Kept, Snapshot};

use super::{NIGHTLY, errors, next, now};
use crate::components::{host, selector};

#[test]
fn two_files_with_one_policy_are_told_and_the_first_counts() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["a.yaml", "b.yaml"] {
        fs::write(folder.path().join(file), NIGHTLY).unwrap();
    }
    let generation = next(&Generation::default(), &host(), folder.path(), now());
    assert_eq!(generation.backups().count(), 1);
    assert!(errors(&generation)[0].contains("defined in a.yaml too"), "{:?}", errors(&generation));
}

/// The policy moves to another file, and the old one stays behind, empty: everything is known by its name, so there is one.
#[tokio::test]
async fn a_policy_that_moved_to_another_file_is_in_force_once() {
    let (folder, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kept = Kept::new(kept.path().join("kept"));
    let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    let host = host();
    let next =
        |before: &Generation| before.next_kept(&host, &Snapshot::read(folder.path()).unwrap(), &kept, Timestamp::now());
    let one = |generation: &Generation| {
        let all: Vec<_> = generation.backups().map(|(policy, since)| (Arc::clone(policy), since.is_some())).collect();
        let [one] = <[_; 1]>::try_from(all).expect("one policy");
        one
    };
    let selects_web = async |generation: &Generation| {
        let vm = VmFacts::named(VmName::new("web-1").unwrap());
        one(generation).0.select.select(&[vm]).await.unwrap()[0].selected
    };
    fs::write(&a, NIGHTLY).unwrap();
    let before = next(&Generation::default());
    assert!(!one(&before).1);
    fs::write(&a, "").unwrap();
    let stale = next(&before);
    assert!(one(&stale).1, "as long as nothing else has its name it stays");
    fs::write(&b, NIGHTLY.replace("db-*", "web-*")).unwrap();
    let moved = next(&stale);
    assert!(!one(&moved).1 && selects_web(&moved).await);
    let told = errors(&moved).remove(0);
    assert!(told.starts_with("a.yaml: it stood for the policy nightly, which b.yaml is now: a.yaml"), "{told}");
    // Nothing is known of what the file that stays behind keeps: `Keepers` drop nothing then.
    assert!(moved.files[0].active.is_none() && moved.files[0].active_text.is_none());
    // Nor has an agent that starts while both are broken two of them.
    fs::write(&b, "").unwrap();
    let restarted = next(&Generation::default());
    assert!(one(&restarted).1 && selects_web(&restarted).await);
    // One whose name another good file takes is not in force beside that one either.
    fs::write(&b, NIGHTLY.replace("db-*", "web-*")).unwrap();
    let good = next(&restarted);
    fs::write(&a, NIGHTLY).unwrap();
    let first = next(&good);
    assert!(!one(&first).1 && !selects_web(&first).await);
    assert!(errors(&first)[0].contains("defined in a.yaml too"), "{:?}", errors(&first));
}

/// A mounted `ConfigMap`: files are links into a folder behind the link `..data`, which is swapped.
#[test]
fn the_swap_of_a_config_map_is_one_step() {
    let mount = tempfile::tempdir().unwrap();
    let version = |name: &str, text: &str| {
        let folder = mount.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("nightly.yaml"), text).unwrap();
        symlink(name, mount.path().join("..data_tmp")).unwrap();
        fs::rename(mount.path().join("..data_tmp"), mount.path().join("..data")).unwrap();
    };
    version("..2026_01_01", NIGHTLY);
    symlink("..data/nightly.yaml", mount.path().join("nightly.yaml")).unwrap();
    let before = Snapshot::read(mount.path()).unwrap();
    version("..2026_01_02", &NIGHTLY.replace("db-*", "web-*"));
    let after = Snapshot::read(mount.path()).unwrap();
    assert_eq!(before.folder, mount.path().join("..2026_01_01"));
    assert_eq!(after.folder, mount.path().join("..2026_01_02"));
    assert_ne!(before.digest, after.digest);
    assert_eq!(after.documents.len(), 1);
    assert!(after.documents["nightly.yaml"].contains("web-*"));
    fs::remove_dir_all(mount.path().join("..2026_01_02")).unwrap();
    assert_eq!(Snapshot::read(mount.path()).unwrap_err().kind(), ErrorKind::NotFound);
}

/// A pipe would be waited for, and a folder or a link to nothing would take its neighbours with it.
#[test]
fn what_is_no_readable_file_is_told_and_its_neighbours_are_good() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let sound = Snapshot::read(folder.path()).unwrap();
    fs::create_dir(folder.path().join("a.yaml")).unwrap();
    symlink("b.yaml", folder.path().join("b.yaml")).unwrap();
    symlink("nowhere", folder.path().join("c.yaml")).unwrap();
    symlink("/dev/zero", folder.path().join("d.yaml")).unwrap();
    fs::write(folder.path().join("e.yaml"), b"kind: \xff").unwrap();
    symlink("/dev/zero", folder.path().join("f.wasm")).unwrap();
    let snapshot = Snapshot::read(folder.path()).unwrap();
    assert_ne!(snapshot.digest, sound.digest);
    let generation = Generation::default().next(&host(), &snapshot, now());
    let told = errors(&generation);
    assert_eq!(told.len(), 5, "{told:?}");
    for (told, file) in told.iter().zip(["a", "b", "c", "d", "e"]) {
        assert!(told.starts_with(&format!("{file}.yaml: it cannot be read: ")), "{told}");
    }
    assert_eq!(generation.backups().count(), 1);
}

#[test]
fn a_module_in_a_file_is_taken_and_its_change_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (_, labels) = builtins().find(|(name, _)| *name == "labels").unwrap();
    let module = folder.path().join("mine.wasm");
    fs::write(&module, labels).unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY.replace("builtin:labels", "file:mine.wasm")).unwrap();
    let host = host();
    let first = Snapshot::read(folder.path()).unwrap();
    let good = Generation::default().next(&host, &first, now());
    assert_eq!(errors(&good), [""; 0]);
    fs::write(&module, selector("(i32.const 0)", "(i32.const 0)", "")).unwrap();
    let second = Snapshot::read(folder.path()).unwrap();
    assert_ne!(first.digest, second.digest);
    let stale = good.next(&host, &second, now());
    let told = errors(&stale).remove(0);
    assert!(told.contains("nightly.yaml, line 3: select: file:mine.wasm: asked a first question"), "{told}");
    fs::remove_file(&module).unwrap();
    let told = errors(&next(&stale, &host, folder.path(), now())).remove(0);
    assert!(told.contains("reading the module mine.wasm"), "{told}");
}
