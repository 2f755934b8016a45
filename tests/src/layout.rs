//! Disks with partitions, volumes and filesystems, and known files in each.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::cached;
use crate::files::{Holes, Keeps, Known, assert_there, known_files, make};
use crate::process::{Must, run, run_with_input};
use crate::{GIB, MIB};

/// How one or two disks are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// An MBR table: ext4, xfs, vfat, and btrfs in a logical partition.
    Mbr,
    /// A GPT: vfat, ext4, NTFS, btrfs.
    Gpt,
    /// No table: the whole disk is one ext4 filesystem.
    Whole,
    /// A volume group over two disks (a whole one, and a partition of the other): a root filesystem (ext4, larger than
    /// either physical volume) with an fstab that mounts the other volume (xfs) at `/data`.
    Lvm,
}

/// A kind of filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext4
    Ext4,
    /// XFS
    Xfs,
    /// Btrfs
    Btrfs,
    /// FAT32
    Vfat,
    /// NTFS
    Ntfs,
}

/// Where a filesystem lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the whole of this disk (counted from 0).
    Disk(usize),
    /// In a partition (numbered from 1) of this disk (counted from 0).
    Partition(usize, u32),
    /// In a logical volume of a volume group.
    Volume(&'static str, &'static str),
}

/// One filesystem of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Where it lies.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
    seed: &'static str,
}

/// The disks of a layout, ready to be copied, and what is on them.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Raw images, to be read only: they are shared by all tests.
    pub disks: Vec<PathBuf>,
    /// The filesystems on them.
    pub filesystems: &'static [Filesystem],
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mbr, Self::Gpt, Self::Whole, Self::Lvm];

    /// The disks, made when first asked for (a minute, for all layouts at once) and cached.
    pub fn prepare(self) -> Prepared {
        let tools = run(Command::new("dpkg-query").args(["--show", "libguestfs0", "linux-image-cloud-amd64"])).ok();
        let script = script();
        let files = format!("{:?}", contents());
        let dir = cached("layouts", &[&tools.stdout, script.as_bytes(), files.as_bytes()], |dir| build(dir, &script));
        let disks = (0..self.disk_sizes().len()).map(|index| dir.join(self.disk_file(index))).collect();
        Prepared { disks, filesystems: self.filesystems() }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mbr => "mbr",
            Self::Gpt => "gpt",
            Self::Whole => "whole",
            Self::Lvm => "lvm",
        }
    }

    fn disk_file(self, index: usize) -> String {
        format!("{}-{index}.raw", self.name())
    }

    fn disk_sizes(self) -> &'static [u64] {
        match self {
            Self::Mbr => &[GIB],
            Self::Gpt => &[768 * MIB],
            Self::Whole => &[128 * MIB],
            Self::Lvm => &[384 * MIB, 512 * MIB],
        }
    }

    /// What divides its disks, of which the first is `first`.
    fn division(self, first: usize) -> String {
        let [one, two] = [disk_device(first), disk_device(first + 1)];
        match self {
            Self::Mbr => format!(
                "part-init {one} mbr\npart-add {one} p 2048 264191\npart-add {one} p 264192 919551\n\
                 part-add {one} p 919552 1050623\npart-add {one} e 1050624 -2048\npart-add {one} l 1052672 1576959\n"
            ),
            Self::Gpt => format!(
                "part-init {one} gpt\npart-add {one} p 2048 133119\npart-add {one} p 133120 395263\n\
                 part-add {one} p 395264 526335\npart-add {one} p 526336 1050623\n"
            ),
            Self::Whole => String::new(),
            Self::Lvm => format!(
                "part-init {two} gpt\npart-add {two} p 2048 -2048\npvcreate {one}\npvcreate {two}1\n\
                 vgcreate vg0 \"{one} {two}1\"\nlvcreate root vg0 512\nlvcreate data vg0 320\n"
            ),
        }
    }

    fn filesystems(self) -> &'static [Filesystem] {
        const fn on(place: Place, kind: Kind, seed: &'static str) -> Filesystem {
            Filesystem { place, kind, seed }
        }
        match self {
            Self::Mbr => {
                const {
                    &[
                        on(Place::Partition(0, 1), Kind::Ext4, "mbr ext4"),
                        on(Place::Partition(0, 2), Kind::Xfs, "mbr xfs"),
                        on(Place::Partition(0, 3), Kind::Vfat, "mbr vfat"),
                        on(Place::Partition(0, 5), Kind::Btrfs, "mbr btrfs"),
                    ]
                }
            }
            Self::Gpt => {
                const {
                    &[
                        on(Place::Partition(0, 1), Kind::Vfat, "gpt vfat"),
                        on(Place::Partition(0, 2), Kind::Ext4, "gpt ext4"),
                        on(Place::Partition(0, 3), Kind::Ntfs, "gpt ntfs"),
                        on(Place::Partition(0, 4), Kind::Btrfs, "gpt btrfs"),
                    ]
                }
            }
            Self::Whole => const { &[on(Place::Disk(0), Kind::Ext4, "whole ext4")] },
            Self::Lvm => {
                const {
                    &[
                        on(Place::Volume("vg0", "root"), Kind::Ext4, "lvm root"),
                        on(Place::Volume("vg0", "data"), Kind::Xfs, "lvm data"),
                    ]
                }
            }
        }
    }
}

impl Kind {
    /// What mkfs and mount call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
            Self::Ntfs => "ntfs",
        }
    }

    /// What it keeps of a file.
    pub fn keeps(self) -> Keeps {
        match self {
            Self::Ext4 | Self::Xfs | Self::Btrfs => Keeps::Everything,
            Self::Ntfs => Keeps::FineTimes,
            Self::Vfat => Keeps::CoarseTimes,
        }
    }
}

impl Filesystem {
    /// The files in it (a root filesystem holds some more).
    pub fn files(&self) -> Vec<Known> {
        known_files(self.seed, self.kind.keeps())
    }

    /// Panics unless its files are below `root` as they were made.
    #[track_caller]
    pub fn assert_at(&self, root: &Path, holes: Holes) {
        assert_there(root, &self.files(), self.kind.keeps(), holes);
    }

    /// Its device in libguestfs, where the layout's first disk is `first` (from 0).
    fn device(&self, first: usize) -> String {
        match self.place {
            Place::Disk(disk) => disk_device(first + disk),
            Place::Partition(disk, number) => format!("{}{number}", disk_device(first + disk)),
            Place::Volume(group, volume) => format!("/dev/{group}/{volume}"),
        }
    }
}

fn disk_device(index: usize) -> String {
    format!("/dev/sd{}", char::from(b'a' + u8::try_from(index).expect("there are few disks")))
}

/// Everything that goes onto the disks, for the cache's key.
fn contents() -> Vec<Vec<Known>> {
    Layout::ALL.iter().flat_map(|layout| layout.filesystems()).map(Filesystem::files).collect()
}

/// Makes the disks of all layouts in `dir`.
fn build(dir: &Path, script: &str) {
    let mut guestfish = Command::new("guestfish");
    guestfish.env("LIBGUESTFS_BACKEND", "direct").env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg").current_dir(dir);
    let stage = tempfile::tempdir().must("make a folder for files");
    for layout in Layout::ALL {
        for (index, size) in layout.disk_sizes().iter().enumerate() {
            let file = layout.disk_file(index);
            File::create(dir.join(&file)).and_then(|disk| disk.set_len(*size)).must("make a disk");
            guestfish.arg("--format=raw").arg("-a").arg(file);
        }
        for filesystem in layout.filesystems() {
            archive(filesystem, stage.path());
        }
    }
    run_with_input(
        guestfish.env("STAGE", stage.path()),
        script.replace("@STAGE@", &stage.path().to_string_lossy()).as_bytes(),
    )
    .ok();
}

/// Makes `SEED.tar` in `stage`.
fn archive(filesystem: &Filesystem, stage: &Path) {
    let tree = stage.join(filesystem.seed);
    fs::create_dir(&tree).must("make a folder for files");
    make(&tree, &filesystem.files());
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sparse", "--format=posix", "--numeric-owner", "--owner=0", "--group=0", "--file"]);
    tar.arg(stage.join(format!("{}.tar", filesystem.seed))).arg("--directory").arg(&tree);
    run(tar.args(filesystem.files().iter().filter(|file| file.path.components().count() == 1).map(|file| &file.path)))
        .ok();
}

/// What guestfish does to the disks of all layouts, in their order.
fn script() -> String {
    let mut script = String::from("run\n");
    let mut first = 0;
    for layout in Layout::ALL {
        script += &layout.division(first);
        for filesystem in layout.filesystems() {
            let device = filesystem.device(first);
            let (kind, seed) = (filesystem.kind.name(), filesystem.seed);
            writeln!(script, "mkfs {kind} {device}\nmount {device} /\ntar-in \"@STAGE@/{seed}.tar\" /")
                .expect("writing to a string never fails");
            if filesystem.seed == "lvm root" {
                script += ROOT_FILES;
            }
            script += "umount-all\n";
        }
        first += layout.disk_sizes().len();
    }
    script
}

/// What makes a filesystem a Debian's root for libguestfs.
const ROOT_FILES: &str = r#"mkdir-p /etc
mkdir /bin
mkdir /data
write /etc/fstab "/dev/vg0/root / ext4 defaults 0 1\n/dev/vg0/data /data xfs defaults 0 2\n"
write /etc/hostname "labvm\n"
write /etc/os-release "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"
write /etc/debian_version "12.0\n"
"#;
