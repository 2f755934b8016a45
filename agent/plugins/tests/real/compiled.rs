//! Compiled code is kept: for its own compiler, in a private folder, and as long as somebody uses it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use remora_core::ErrorKind;
use remora_plugins::set::Generation;
use remora_plugins::{Host, HostOptions};

use super::components::options;
use super::folder::{NIGHTLY, errors, next, now};

#[test]
fn compiled_code_is_kept_in_a_private_folder_only_and_damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let compiled = state.path().join("compiled");
    let options = HostOptions { state: Some(state.path().into()), ..options() };
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let load = || next(&Generation::default(), &Host::new(&options).unwrap(), folder.path(), now());
    assert_eq!(errors(&load()), [""; 0]);
    let kept: Vec<_> = fs::read_dir(&compiled).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 3);
    assert_eq!(fs::metadata(&compiled).unwrap().permissions().mode() & 0o777, 0o700);
    // What lies there is used: with the code of another component in its place, its exports are missing. So each file is
    // known by its digest, and only what has it is run.
    for path in &kept {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(errors(&load()), [""; 0]);
    fs::write(&kept[0], b"").unwrap();
    assert_eq!(errors(&load()), [""; 0]);
    fs::set_permissions(&compiled, fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(Host::new(&options).unwrap_err().kind(), ErrorKind::Refused);
}

/// What is kept of components costs room, and nobody but its own compiler can use it.
#[test]
fn compiled_code_goes_with_its_compiler_and_once_nobody_has_used_it_for_a_month() {
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let compiled = state.path().join("compiled");
    let options = HostOptions { state: Some(state.path().into()), ..options() };
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&compiled).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    let host = Host::new(&options).unwrap();
    let generation = next(&Generation::default(), &host, folder.path(), now());
    let ours = names();
    assert_eq!(ours.len(), 3);
    // Of another version, and a mover's, of which its own process says whether it can use it.
    let other = format!("{}-{:016x}.cwasm", "0".repeat(64), 7);
    let mover = format!("{}.mover", "0".repeat(64));
    for name in [&other, &mover] {
        fs::write(compiled.join(name), b"x").unwrap();
    }
    drop(Host::new(&options).unwrap());
    let with_mover: Vec<_> = [std::slice::from_ref(&mover), &ours].concat();
    assert_eq!(names(), with_mover);

    // What is in force is in use, however long ago it was loaded.
    let age = |days: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::from_hours(24 * days);
        for name in names() {
            fs::File::open(compiled.join(name)).unwrap().set_modified(time).unwrap();
        }
    };
    age(29);
    host.tidy();
    assert_eq!(names(), with_mover);
    age(31);
    host.tidy();
    assert_eq!(names(), ours);
    drop(generation);
    age(31);
    host.tidy();
    assert_eq!(names(), [""; 0]);
}
