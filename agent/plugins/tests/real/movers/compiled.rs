//! What was compiled of a mover is kept, and used for the next process.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use remora_plugins::Digest;
use remora_plugins::movers::MoverStore;
use remora_tests::{S3, Transport};

use super::objects::{create, get};
use super::s3::{Bucket, lines};
use super::{Folder, example};

/// A mover that keeps what is compiled in a folder.
struct Keeping {
    bucket: Bucket,
    compiled: PathBuf,
}

impl Keeping {
    fn new() -> Self {
        let bucket = Bucket::by(Folder::keeping(), Transport::Http);
        let compiled = bucket.folder.compiled();
        Self { bucket, compiled }
    }

    /// Opens it as another command would, and uses it.
    async fn use_it(&self, key: &str) {
        let store: MoverStore = self.bucket.folder.movers.open("s3", "a/prefix").unwrap();
        create(&store, key, "bytes").await.unwrap();
        assert_eq!(get(&store, key).await.unwrap(), "bytes");
    }

    /// The only file that is kept.
    fn file(&self) -> PathBuf {
        let kept: Vec<_> = fs::read_dir(&self.compiled).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
        kept[0].clone()
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// As the host keeps it: behind its digest.
fn kept(code: &[u8]) -> Vec<u8> {
    [Digest::of(code).as_bytes(), code].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_compiled_once_and_again_when_what_is_kept_is_of_no_use() {
    let keeping = Keeping::new();
    keeping.use_it("first").await;
    let file = keeping.file();
    assert_eq!(fs::metadata(&keeping.compiled).unwrap().permissions().mode() & 0o777, 0o700);
    let (made, good) = (inode(&file), fs::read(&file).unwrap());
    assert!(good == kept(&good[32..]));
    keeping.use_it("second").await;
    assert_eq!(inode(&file), made, "it was compiled again");
    // A disk that fails, a file that was cut off, and code of another compiler.
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for (n, bytes) in [damaged, good[..good.len() / 2].to_vec(), Vec::new(), kept(b"no code")].into_iter().enumerate() {
        fs::write(&file, bytes).unwrap();
        let made = inode(&file);
        keeping.use_it(&format!("after-{n}")).await;
        assert_ne!(inode(&file), made, "{n}");
        assert!(fs::read(&file).unwrap() == good, "{n}");
    }
}

/// Or whoever can write there would have code of theirs run.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_others_can_write() {
    let keeping = Keeping::new();
    fs::set_permissions(&keeping.compiled, fs::Permissions::from_mode(0o770)).unwrap();
    keeping.use_it("first").await;
    assert_eq!(fs::read_dir(&keeping.compiled).unwrap().count(), 0);
}

/// What one component did is nothing to another.
#[tokio::test(flavor = "multi_thread")]
async fn each_component_has_a_file_of_its_own() {
    let s3 = S3::start();
    s3.bucket("backups");
    let folder = Folder::keeping();
    fs::write(folder.path().join("secret"), remora_tests::s3::SECRET).unwrap();
    let of_s3 = folder.mover("s3", &fs::read(example("s3")).unwrap(), &lines(&s3, "secret"));
    create(&of_s3, "x", "bytes").await.unwrap();
    let hostile = folder.mover("hostile", &fs::read(example("hostile")).unwrap(), "secrets: {canary: secret}\n");
    create(&hostile, "x", "bytes").await.unwrap();
    let names = |name: &str| format!("{}.mover", Digest::of(&fs::read(example(name)).unwrap()));
    let mut kept: Vec<_> = fs::read_dir(folder.compiled())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    let mut wanted = [names("s3"), names("hostile")];
    wanted.sort();
    assert_eq!(kept, wanted);
}
