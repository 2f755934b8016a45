//! Disks as a guest would have them, made once by libguestfs and other tools.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// - `vda`: GPT; 1 vfat, 2 ext4 (the root filesystem), 3 something that says it is ext4 and is not, 4 swap
/// - `vdb`, `vdc`: the volume group `vg-0` across both; its volume `da-ta`, ext4, is larger than either disk
/// - `vdd`: ext4 on the whole disk, no partitions
pub(crate) struct Guest {
    folder: PathBuf,
}

pub(crate) static GUEST: LazyLock<Guest> = LazyLock::new(Guest::make);

/// What the sparse file holds behind its hole.
pub(crate) const SPARSE: (u64, &str) = (40 << 20, "behind the hole");

impl Guest {
    pub(crate) fn disks(&self) -> Vec<(&'static str, PathBuf)> {
        ["vda", "vdb", "vdc", "vdd"].map(|name| (name, self.path(name))).to_vec()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes the disks once for all runs of the tests, again when what they are made of changes.
    fn make() -> Self {
        let mut recipe = DefaultHasher::new();
        include_bytes!("guest.rs").hash(&mut recipe);
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let made = cache.join(format!("remora-files-guest-{:x}", recipe.finish()));
        if !made.exists() {
            let fresh = tempfile::tempdir_in(cache).unwrap();
            Self::fill(&Self { folder: fresh.path().to_owned() });
            // Complete or not there at all; should two runs make it, the second is dropped.
            if fs::rename(fresh.path(), &made).is_ok() {
                let _ = fresh.keep();
            }
        }
        Self { folder: made }
    }

    fn fill(guest: &Self) {
        let at = |name: &str| guest.path(name).display().to_string();
        for (name, mib) in [("vda", 200), ("vdb", 40), ("vdc", 40), ("vdd", 24)] {
            fs::File::create(guest.path(name)).unwrap().set_len(mib << 20).unwrap();
        }
        let big: Vec<u8> =
            (0..3_000_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 8).to_le_bytes()).collect();
        fs::write(guest.path("big"), big).unwrap();
        let script = SCRIPT.replace("BIG", &at("big")).replace("OFFSET", &SPARSE.0.to_string());
        guestfish(&["vda", "vdb", "vdc"].map(at), &script.replace("CONTENT", SPARSE.1));
        whole_disk(guest);
    }
}

const SCRIPT: &str = r#"
run
part-init /dev/sda gpt
part-add /dev/sda p 2048 67583
part-add /dev/sda p 67584 329727
part-add /dev/sda p 329728 346111
part-add /dev/sda p 346112 362495
mkfs vfat /dev/sda1 label:ESP
mkfs ext4 /dev/sda2
set-uuid /dev/sda2 11111111-2222-3333-4444-555555555555
mkfs ext4 /dev/sda3
pwrite-device /dev/sda3 "\xff\xff\xff\xff" 1060
mkswap /dev/sda4
pvcreate /dev/sdb
pvcreate /dev/sdc
vgcreate vg-0 "/dev/sdb /dev/sdc"
lvcreate da-ta vg-0 60
mkfs ext4 /dev/vg-0/da-ta
mount /dev/sda2 /
mkdir /etc
mkdir /data
mkdir /tree
mkdir "/tree/a folder"
write /etc/fstab "UUID=11111111-2222-3333-4444-555555555555 / ext4 defaults 0 1\n/dev/vg-0/da-ta /data ext4 defaults 0 2\nLABEL=ESP /link vfat defaults 0 2\nUUID=gone /gone ext4 defaults 0 2\n"
ln-s /etc /link
write /etc/hostname "labvm\n"
write "/tree/a folder/plain" "text\n"
chown 1234 5678 "/tree/a folder/plain"
chmod 04751 "/tree/a folder/plain"
ln-s /etc/passwd /tree/absolute
ln-s ../../../../../../etc/passwd /tree/relative
mkfifo 0644 /tree/pipe
mknod-c 0644 1 3 /tree/null
touch /tree/sparse
truncate-size /tree/sparse OFFSET
write-append /tree/sparse "CONTENT"
write /tree/empty ""
upload BIG /tree/big
copy-file-to-file /tree/empty "/tree/caf\xe9"
utimens "/tree/a folder/plain" 1000000001 123456789 1000000002 987654321
utimens "/tree/a folder" 1000000003 1 1000000004 2
mount /dev/vg-0/da-ta /data
write /data/hello "across two disks\n"
upload BIG /data/big
umount-all
mount /dev/sda1 /
write /hello.txt "vfat\n"
umount-all
"#;

fn guestfish(images: &[String], script: &str) {
    let mut command = Command::new("guestfish");
    command.arg("--format=raw").env("LIBGUESTFS_BACKEND", "direct");
    if std::env::var_os("LIBGUESTFS_BACKEND_SETTINGS").is_none() {
        command.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
    }
    for image in images {
        command.arg("-a").arg(image);
    }
    let mut child = command.stdin(Stdio::piped()).spawn().expect("guestfish is missing: install libguestfs-tools");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "guestfish failed");
}

fn whole_disk(guest: &Guest) {
    let content = guest.path("content");
    fs::create_dir(&content).unwrap();
    fs::write(content.join("hello"), "the whole disk\n").unwrap();
    let status = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&content).arg(guest.path("vdd")).status();
    assert!(status.expect("mke2fs is missing: install e2fsprogs").success());
}

/// The bytes of the file `big`.
pub(crate) fn big(guest: &Guest) -> Vec<u8> {
    fs::read(guest.path("big")).unwrap()
}

/// Whether anything, dead or alive, is mounted at or below `folder`, by the kernel's own list.
pub(crate) fn mounts_below(folder: &Path) -> Vec<String> {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = folder.to_str().unwrap();
    list.lines()
        .filter(|line| line.split(' ').nth(4).is_some_and(|at| at.starts_with(folder)))
        .map(str::to_owned)
        .collect()
}

/// Processes, zombies left out, that mention `text` on their command line.
pub(crate) fn processes_with(text: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let own = pid == std::process::id().cast_signed();
        if !own && String::from_utf8_lossy(&line).contains(text) {
            found.push(pid);
        }
    }
    found
}
