//! Copies out of the guest's tree. Most of it needs no appliance: any folder can stand for `files/`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use remora_core::ErrorKind;
use remora_core::ports::NoProgress;
use remora_files::{Copied, CopyOptions, Existing, copy_out};
use remora_tests::Small;
use tempfile::TempDir;

use crate::appliance::Served;
use crate::guest::{GUEST, SPARSE, big};
use crate::outside;

const REPLACE: CopyOptions = CopyOptions { existing: Existing::Replace };

/// `files/` to copy from, `out/` to copy to.
fn folders() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (files, out) = (folder.path().join("files"), folder.path().join("out"));
    fs::create_dir(&files).unwrap();
    fs::create_dir(&out).unwrap();
    (folder, files, out)
}

fn copy(files: &Path, from: &str, dest: &Path) -> remora_core::Result<Copied> {
    copy_out(files, Path::new(from), dest, CopyOptions::default(), &NoProgress)
}

fn kind(result: remora_core::Result<Copied>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// No passing name, no half file.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_tree_is_copied_with_all_that_it_is() {
    let (_folder, files, out) = folders();
    let odd = OsStr::from_bytes(b"caf\xe9 \n\"x");
    fs::create_dir_all(files.join("t/sub")).unwrap();
    fs::write(files.join("t/sub").join(odd), "odd").unwrap();
    symlink("/etc/passwd", files.join("t/absolute")).unwrap();
    symlink("../../../..", files.join("t/up")).unwrap();
    let shell = "cd t && mkfifo pipe && mknod dev c 1 3 && touch -h -d @1000000001.123456789 absolute \
        && chown 12:34 sub/* && chmod 4750 sub/* && touch -d @1000000002.987654321 sub/* && chmod 0500 sub \
        && chown -h 56:78 up && touch -d @1000000003.5 sub && touch -d @1000000004.25 .";
    assert!(Command::new("sh").args(["-c", shell]).current_dir(&files).status().unwrap().success());

    let copied = copy(&files, "/t", &out).unwrap();
    assert_eq!((copied.files, copied.folders, copied.links, copied.bytes), (1, 2, 2, 3));
    assert_eq!(copied.to, out.join("t"));
    let mut skipped: Vec<_> = copied.skipped.iter().map(|s| (s.what.as_str(), s.why.as_str())).collect();
    skipped.sort_unstable();
    assert_eq!(skipped, [("/t/dev", "it is a device"), ("/t/pipe", "it is a pipe")]);
    assert!(copied.failed.is_empty());
    assert_eq!(names(&out.join("t")), ["absolute", "sub", "up"]);
    for path in
        [Path::new("t"), Path::new("t/sub"), &Path::new("t/sub").join(odd), Path::new("t/absolute"), Path::new("t/up")]
    {
        let [was, is] = [&files, &out].map(|side| fs::symlink_metadata(side.join(path)).unwrap());
        assert_eq!(
            (is.mode(), is.uid(), is.gid(), is.size()),
            (was.mode(), was.uid(), was.gid(), was.size()),
            "{path:?}"
        );
        assert_eq!((is.mtime(), is.mtime_nsec()), (was.mtime(), was.mtime_nsec()), "{path:?}");
    }
    assert_eq!(fs::read_link(out.join("t/up")).unwrap(), Path::new("../../../.."));
    assert_eq!(fs::read(out.join("t/sub").join(odd)).unwrap(), b"odd");
}

#[test]
fn holes_are_kept_and_zeros_of_a_dense_file_are_written() {
    let (_folder, files, out) = folders();
    let sparse = File::create(files.join("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    sparse.write_all_at(b"middle", 50 << 20).unwrap();
    fs::write(files.join("dense"), vec![0; 3 << 20]).unwrap();
    for name in ["sparse", "dense"] {
        copy(&files, name, &out).unwrap();
        assert!(fs::read(files.join(name)).unwrap() == fs::read(out.join(name)).unwrap());
    }
    assert!(fs::metadata(out.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
    assert!(fs::metadata(out.join("dense")).unwrap().blocks() * 512 >= 3 << 20);
}

#[test]
fn the_destination_is_as_cp_would_have_it() {
    let (folder, files, out) = folders();
    fs::create_dir(files.join("t")).unwrap();
    fs::write(files.join("t/f"), "new").unwrap();
    // A new name; into a folder; below a folder that is not there.
    copy(&files, "t/f", &out.join("renamed")).unwrap();
    copy(&files, "t/f", &out).unwrap();
    assert_eq!(names(&out), ["f", "renamed"]);
    assert_eq!(kind(copy(&files, "t/f", &out.join("no/where"))), ErrorKind::NotFound);
    // Everything.
    copy(&files, "/", &folder.path().join("all")).unwrap();
    assert_eq!(fs::read(folder.path().join("all/t/f")).unwrap(), b"new");
    assert_eq!(kind(copy(&files, "/", &out)), ErrorKind::Exists);
}

#[test]
fn what_exists_is_refused_and_kept_unless_it_is_to_be_replaced() {
    let (_folder, files, out) = folders();
    fs::create_dir(files.join("t")).unwrap();
    fs::write(files.join("t/f"), "new").unwrap();
    fs::create_dir(out.join("t")).unwrap();
    fs::write(out.join("t/f"), "old").unwrap();
    fs::write(out.join("t/other"), "mine").unwrap();
    assert_eq!(kind(copy(&files, "t/f", &out.join("t"))), ErrorKind::Exists);
    assert_eq!(kind(copy(&files, "t/f", &out.join("t/f"))), ErrorKind::Exists);
    assert_eq!(kind(copy(&files, "t", &out)), ErrorKind::Exists);
    assert_eq!(fs::read(out.join("t/f")).unwrap(), b"old");
    copy_out(&files, Path::new("t"), &out, REPLACE, &NoProgress).unwrap();
    assert_eq!(fs::read(out.join("t/f")).unwrap(), b"new");
    assert_eq!(names(&out.join("t")), ["f", "other"]);
}

#[test]
fn links_are_followed_on_neither_side() {
    let (folder, files, out) = folders();
    let victim = folder.path().join("victim");
    fs::create_dir_all(victim.join("sub")).unwrap();
    fs::write(victim.join("secret"), "secret").unwrap();
    fs::create_dir_all(files.join("t/sub")).unwrap();
    fs::write(files.join("t/sub/secret"), "from the guest").unwrap();
    symlink(&victim, files.join("link")).unwrap();
    symlink("/", files.join("t/root")).unwrap();

    let error = copy(&files, "link/secret", &out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.advice().unwrap().contains(victim.to_str().unwrap()), "{:?}", error.advice());
    assert_eq!(kind(copy(&files, "t/root/etc/hostname", &out)), ErrorKind::Invalid);
    assert_eq!(kind(copy(&files, "../victim/secret", &out)), ErrorKind::Invalid);
    // The link itself is copied as a link.
    copy(&files, "link", &out).unwrap();
    assert_eq!(fs::read_link(out.join("link")).unwrap(), victim);

    // A link in the destination that waits for a folder of the guest's.
    fs::create_dir(out.join("t")).unwrap();
    symlink(&victim, out.join("t/sub")).unwrap();
    copy_out(&files, Path::new("t"), &out, REPLACE, &NoProgress).unwrap_err();
    assert_eq!(fs::read(victim.join("secret")).unwrap(), b"secret");
    assert_eq!(names(&victim), ["secret", "sub"]);
    assert_eq!(names(&victim.join("sub")), Vec::<String>::new());
    // And one that waits for a file: it is replaced, not written through.
    fs::remove_file(out.join("t/sub")).unwrap();
    fs::create_dir(out.join("t/sub")).unwrap();
    symlink(victim.join("secret"), out.join("t/sub/secret")).unwrap();
    copy_out(&files, Path::new("t"), &out, REPLACE, &NoProgress).unwrap();
    assert_eq!(fs::read(victim.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read(out.join("t/sub/secret")).unwrap(), b"from the guest");
}

#[test]
fn a_missing_path_is_not_found() {
    let (_folder, files, out) = folders();
    fs::write(files.join("file"), "").unwrap();
    for missing in ["nope", "nope/deeper", "file/below"] {
        assert_eq!(kind(copy(&files, missing, &out)), ErrorKind::NotFound, "{missing}");
    }
    assert!(names(&out).is_empty());
}

#[test]
fn a_full_destination_is_no_space_and_leaves_no_half_file() {
    let (_folder, files, _) = folders();
    let small = Small::new(1);
    fs::write(files.join("big"), vec![7; 3 << 20]).unwrap();
    assert_eq!(kind(copy(&files, "big", small.path())), ErrorKind::NoSpace);
    assert_eq!(names(small.path()), Vec::<String>::new());
}

#[test]
fn folders_without_end_are_cut_off_and_noted() {
    let (_folder, files, out) = folders();
    let deep: PathBuf = std::iter::repeat_n("d", 300).collect();
    fs::create_dir_all(files.join(&deep)).unwrap();
    let copied = copy(&files, "d", &out).unwrap();
    assert_eq!((copied.folders, copied.skipped.len()), (200, 1));
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let (_folder, files, out) = folders();
    fs::write(files.join("f"), "").unwrap();
    fs::set_permissions(files.join("f"), fs::Permissions::from_mode(0o666)).unwrap();
    copy(&files, "f", &out).unwrap();
    assert_eq!(fs::metadata(out.join("f")).unwrap().mode() & 0o7777, 0o666);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_out_of_a_real_guest() {
    let served = Served::new().await;
    let out = served.folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let copy = async |from: &str| {
        served.mounted.copy(Path::new(from), &out, CopyOptions::default(), Arc::new(NoProgress)).await
    };
    let copied = copy("/root/tree").await.unwrap();
    assert_eq!(copied.failed, []);
    assert_eq!((copied.files, copied.folders, copied.links, copied.skipped.len()), (5, 2, 2, 2), "{copied:?}");
    copy("root/data/hello").await.unwrap();

    let missing = copy("/root/tree/nope").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    for named in ["/vda/1", "/vda/2", "/vg-0/da-ta", "/root", "vda/3"] {
        assert!(missing.advice().unwrap().contains(named), "{named}: {:?}", missing.advice());
    }
    assert_eq!(copy("/root/link/hostname").await.unwrap_err().kind(), ErrorKind::Invalid);
    served.mounted.copy(Path::new("vdd"), &out, CopyOptions::default(), Arc::new(NoProgress)).await.unwrap();

    let tree = out.join("tree");
    assert_eq!(fs::read(out.join("hello")).unwrap(), b"across two disks\n");
    assert_eq!(fs::read(out.join("vdd/hello")).unwrap(), b"the whole disk\n");
    assert!(fs::read(tree.join("big")).unwrap() == outside(|| big(&GUEST)).await);
    assert!(tree.join(OsStr::from_bytes(b"caf\xe9")).exists());
    let plain = fs::metadata(tree.join("a folder/plain")).unwrap();
    assert_eq!((plain.mode() & 0o7777, plain.uid(), plain.gid()), (0o4751, 1234, 5678));
    assert_eq!((plain.mtime(), plain.mtime_nsec()), (1_000_000_002, 987_654_321));
    assert_eq!((plain.atime(), plain.atime_nsec()), (1_000_000_001, 123_456_789));
    assert_eq!(fs::metadata(tree.join("a folder")).unwrap().mtime(), 1_000_000_004);
    assert_eq!(fs::read_link(tree.join("absolute")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_link(tree.join("relative")).unwrap(), Path::new("../../../../../../etc/passwd"));
    let sparse = fs::metadata(tree.join("sparse")).unwrap();
    assert_eq!(sparse.len(), SPARSE.0 + SPARSE.1.len() as u64);
    assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    assert!(fs::read(tree.join("sparse")).unwrap().ends_with(SPARSE.1.as_bytes()));
    served.stop().await;
}
