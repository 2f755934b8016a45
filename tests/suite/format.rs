//! The published format: a second reader, written from docs/format.md alone, reads what this version writes, and both
//! read the golden repositories of each version for ever.
//!
//! A format that changes without a new version number fails here: the second reader of a version is strict and never
//! changes, nor do the golden repositories. The texts that it does not read are fixed in `agent/vault/src/tests/frozen.rs`.

use std::fs;
use std::path::Path;

use remora_tests::remora::{KEY_FILE, PASSPHRASE};
use remora_tests::{Lab, Must, Remora, python, run};

mod make;

use make::Truth;

/// The second reader of format 1, by its BLAKE3. To mend it where it is wrong about repositories that were always written
/// so is no new format; whatever else needs another reader is one, and gets a number and a reader of its own.
const READER: &str = "897b8fe1764a687ea2c99ddf950f99ef3758e3fdbfbd187f8bcac811e983e549";

#[test]
fn the_second_reader_of_a_format_never_changes() {
    let reader = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/reader.py")).unwrap();
    assert_eq!(blake3::hash(&reader).to_hex().as_str(), READER, "a changed format has a new number and a new reader");
}

#[tokio::test]
async fn the_second_reader_restores_what_this_version_writes() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    let truth = make::make(&repository).await;
    assert!(truth.len() >= 12, "{truth:?}");
    for secret in [PASSPHRASE.as_bytes(), &KEY_FILE] {
        assert_eq!(by_second_reader(&repository, secret), truth);
    }
    assert_eq!(by_remora(&repository), truth);
}

#[test]
fn golden_repositories_of_each_version_restore_with_both_readers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let versions: Vec<_> = fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(versions.iter().any(|version| version.ends_with("v1")), "{versions:?}");
    for version in versions {
        let truth: Truth = serde_json::from_slice(&fs::read(version.join("disks.json")).unwrap()).unwrap();
        assert!(!truth.is_empty());
        for secret in [PASSPHRASE.as_bytes(), &KEY_FILE] {
            assert_eq!(by_second_reader(&version.join("repository"), secret), truth, "{}", version.display());
        }
        assert_eq!(by_remora(&version.join("repository")), truth, "{}", version.display());
    }
}

/// What the second reader makes of all points.
pub(crate) fn by_second_reader(repository: &Path, secret: &[u8]) -> Truth {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("secret"), folder.path().join("out"));
    fs::write(&file, secret).unwrap();
    let mut reader = python::command();
    reader.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/reader.py"));
    run(reader.arg(repository).arg(file).arg(&out)).ok();
    truth_of(&out)
}

/// What remora makes of all points.
fn by_remora(repository: &Path) -> Truth {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let remora = Remora::new(Lab::shared(), repository);
    for point in remora.json(["points"]).as_array().unwrap() {
        let id = point["point"].as_str().unwrap();
        remora.ok(["restore", id, "--quiet", "--to", out.join(id).to_str().unwrap()]);
    }
    truth_of(&out)
}

/// The BLAKE3 of each disk in the folders of `out`.
fn truth_of(out: &Path) -> Truth {
    let mut truth = Truth::new();
    for point in fs::read_dir(out).must("list the restored points") {
        let point = point.unwrap();
        for file in fs::read_dir(point.path()).unwrap() {
            let file = file.unwrap();
            let disk = Path::new(&file.file_name()).file_stem().unwrap().to_owned();
            let name = format!("{}/{}", point.file_name().display(), disk.display());
            truth.insert(name, blake3::hash(&fs::read(file.path()).unwrap()).to_hex().to_string());
        }
    }
    truth
}
