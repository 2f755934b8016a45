//! A tree of files that are known to the last bit, to be found again in whatever was made of a disk.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::process::Must;

/// What a kind of filesystem can keep of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// All of it: modes, links, times to the nanosecond, names with any character.
    Everything,
    /// Names and content, times to 100 ns (NTFS through ntfs-3g).
    FineTimes,
    /// Names and content, times to two seconds (vfat).
    CoarseTimes,
}

/// One file, folder or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it is, from the root of its tree.
    pub path: PathBuf,
    /// What it is.
    pub entry: Entry,
    /// Its permission bits.
    pub mode: u32,
    /// When it was changed last.
    pub modified: SystemTime,
}

/// What a [`Known`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file of `size` bytes: these pieces at these offsets, and holes elsewhere.
    File {
        /// Its size in bytes.
        size: u64,
        /// What it holds: offset and bytes, in order.
        pieces: Vec<(u64, Vec<u8>)>,
    },
    /// A folder.
    Dir,
    /// A symbolic link and where it leads.
    Link(String),
}

/// The known files of a filesystem: the same for the same `seed`, others for another one.
pub fn known_files(seed: &str, keeps: Keeps) -> Vec<Known> {
    let modified = match keeps {
        Keeps::Everything => SystemTime::UNIX_EPOCH + Duration::new(981_173_106, 123_456_789),
        Keeps::FineTimes => SystemTime::UNIX_EPOCH + Duration::new(981_173_106, 123_456_700),
        Keeps::CoarseTimes => SystemTime::UNIX_EPOCH + Duration::new(981_173_106, 0),
    };
    // What a filesystem without modes shows is what its driver makes up: let it be this.
    let mode_of = |mode| if keeps == Keeps::Everything { mode } else { 0o755 };
    let known = |path: &str, entry, mode| Known { path: path.into(), entry, mode: mode_of(mode), modified };
    let whole = |bytes: Vec<u8>| Entry::File { size: bytes.len() as u64, pieces: vec![(0, bytes)] };
    let mut files = vec![
        known("hello.txt", whole(format!("hello from {seed}\n").into_bytes()), 0o644),
        known("empty", whole(Vec::new()), 0o600),
        known("some folder", Entry::Dir, 0o755),
        known("some folder/inner", Entry::Dir, 0o711),
        known("some folder/inner/random.bin", whole(random_bytes(seed, 300_001)), 0o640),
        known("grüße", Entry::Dir, 0o755),
        known("grüße/ñandú ☃.txt", whole("Straßenbahn 🚋\n".into()), 0o644),
    ];
    if keeps == Keeps::Everything {
        let pieces = vec![(0, random_bytes(seed, 4096)), (10 << 20, random_bytes(seed, 8192))];
        files.extend([
            known("sparse.bin", Entry::File { size: 20 << 20, pieces }, 0o644),
            known("script.sh", whole(b"#!/bin/sh\nexit 0\n".to_vec()), 0o4750),
            known("link", Entry::Link("some folder/inner/random.bin".into()), 0o777),
            known("dangling", Entry::Link("/nowhere/at all".into()), 0o777),
            known("two\nlines", whole(b"a name of two lines\n".to_vec()), 0o644),
        ]);
    }
    files
}

/// Makes the files below the existing folder `root`.
pub fn make(root: &Path, files: &[Known]) {
    for file in files {
        file.make(root);
    }
    // Folders last: what is made in them changes their time.
    for file in files.iter().rev() {
        file.set_time(root);
    }
}

/// Panics unless all of the files are below `root` as they were made. `sparse` says whether holes must still be holes.
#[track_caller]
pub fn assert_there(root: &Path, files: &[Known], keeps: Keeps, sparse: Holes) {
    for file in files {
        file.assert_there(root, keeps, sparse);
    }
}

/// What [`assert_there`] wants to know of holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// A file may take all of its size on the disk.
    MayBeFilled,
    /// A file with holes takes little more than its pieces.
    MustBeThere,
}

impl Known {
    /// Its whole content, if it is a file.
    pub fn content(&self) -> Option<Vec<u8>> {
        let Entry::File { size, pieces } = &self.entry else { return None };
        let mut bytes = vec![0; usize::try_from(*size).expect("the known files are small")];
        for (offset, piece) in pieces {
            let start = usize::try_from(*offset).expect("the known files are small");
            bytes[start..start + piece.len()].copy_from_slice(piece);
        }
        Some(bytes)
    }

    fn make(&self, root: &Path) {
        let path = root.join(&self.path);
        match &self.entry {
            Entry::Dir => fs::create_dir(&path).must(format_args!("make {}", path.display())),
            Entry::Link(target) => symlink(target, &path).must(format_args!("make {}", path.display())),
            Entry::File { size, pieces } => {
                let file = File::create(&path).must(format_args!("make {}", path.display()));
                file.set_len(*size).must("set a file's size");
                for (offset, bytes) in pieces {
                    file.write_all_at(bytes, *offset).must("write a file");
                }
            }
        }
        if !matches!(self.entry, Entry::Link(_)) {
            fs::set_permissions(&path, Permissions::from_mode(self.mode)).must("set a file's mode");
        }
    }

    fn set_time(&self, root: &Path) {
        if !matches!(self.entry, Entry::Link(_)) {
            let file = File::open(root.join(&self.path)).must("open a file to set its time");
            file.set_modified(self.modified).must("set a file's time");
        }
    }

    #[track_caller]
    fn assert_there(&self, root: &Path, keeps: Keeps, holes: Holes) {
        let path = root.join(&self.path);
        let found = fs::symlink_metadata(&path).must(format_args!("find {}", path.display()));
        match &self.entry {
            Entry::Dir => assert!(found.is_dir(), "{} is no folder", path.display()),
            Entry::Link(target) => {
                let leads = fs::read_link(&path).must(format_args!("read the link {}", path.display()));
                assert_eq!(leads.as_os_str(), OsStr::new(target), "{}", path.display());
                return;
            }
            Entry::File { size, pieces } => {
                assert_eq!(found.len(), *size, "{}", path.display());
                let bytes = fs::read(&path).must(format_args!("read {}", path.display()));
                assert!(Some(bytes) == self.content(), "{} holds other bytes", path.display());
                let data: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
                let filled = found.blocks() * 512 > data as u64 + (1 << 20);
                assert!(holes == Holes::MayBeFilled || !filled, "the holes of {} are filled", path.display());
            }
        }
        let modified = found.modified().must("read a file's time");
        assert_eq!(modified, self.modified, "the time of {}", path.display());
        if keeps == Keeps::Everything {
            assert_eq!(found.mode() & 0o7777, self.mode, "the mode of {}: {:o}", path.display(), found.mode());
        }
    }
}

/// Bytes that do not shrink, the same for the same seed.
pub fn random_bytes(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(change: impl FnOnce(&Path)) -> std::thread::Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let files = known_files("x", Keeps::Everything);
        make(dir.path(), &files);
        change(dir.path());
        std::panic::catch_unwind(|| assert_there(dir.path(), &files, Keeps::Everything, Holes::MustBeThere))
    }

    #[test]
    fn files_are_found_as_they_were_made() {
        assert!(made(|_| ()).is_ok());
    }

    #[test]
    fn every_kind_of_change_is_noticed() {
        let restored = |path: PathBuf, work: &dyn Fn(&Path)| {
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            work(&path);
            File::options().read(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        assert!(made(|dir| fs::remove_file(dir.join("empty")).unwrap()).is_err());
        assert!(made(|dir| fs::write(dir.join("hello.txt"), "hello from x\n").unwrap()).is_err(), "time");
        assert!(
            made(|dir| restored(dir.join("hello.txt"), &|path| fs::write(path, "hello from y\n").unwrap())).is_err(),
            "content"
        );
        assert!(
            made(|dir| restored(dir.join("sparse.bin"), &|path| {
                let bytes = fs::read(path).unwrap();
                fs::write(path, bytes).unwrap();
            }))
            .is_err(),
            "holes"
        );
        let mode = Permissions::from_mode(0o750);
        assert!(made(|dir| fs::set_permissions(dir.join("script.sh"), mode).unwrap()).is_err(), "mode");
        assert!(
            made(|dir| {
                fs::remove_file(dir.join("link")).unwrap();
                symlink("hello.txt", dir.join("link")).unwrap();
            })
            .is_err(),
            "link"
        );
    }
}
