//! Which disk is this really: device and inode numbers, as far as this host sees them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::libc::{major, minor};
use remora_core::point::DiskIdentity;

use crate::definition::DiskDefinition;
use crate::qemu::BlockNode;

/// The identity of a disk whose image QEMU sees as `node`.
pub(crate) fn identify(vm_uuid: &str, disk: &DiskDefinition, node: Option<&BlockNode>) -> DiskIdentity {
    let data_file = disk.data_file.clone().or_else(|| node?.data_file.clone()).map(|file| beside(&disk.path, file));
    DiskIdentity {
        vm_uuid: vm_uuid.to_owned(),
        path: disk.path.to_string_lossy().into_owned(),
        inode: inode(&disk.path),
        data_file: data_file.map(|file| {
            let inode = inode(&file).unwrap_or_else(|| "unseen".into());
            format!("{} {inode}", file.to_string_lossy())
        }),
    }
}

/// A data file's relative path starts at its image's folder.
fn beside(image: &Path, file: PathBuf) -> PathBuf {
    image.parent().map_or(file.clone(), |folder| folder.join(file))
}

/// `dev:inode` of a file. A block device's own node comes and goes with reboots, so what it stands for is named: the
/// device mapper's UUID, the disk's world-wide name, else its number.
fn inode(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.file_type().is_block_device() {
        return Some(format!("{}:{}", metadata.dev(), metadata.ino()));
    }
    let number = format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
    let system = Path::new("/sys/dev/block").join(&number);
    let name = ["dm/uuid", "device/wwid", "wwid"].iter().find_map(|file| {
        let text = fs::read_to_string(system.join(file)).ok()?;
        Some(text.trim().to_owned()).filter(|name| !name.is_empty())
    });
    Some(format!("block {}", name.unwrap_or(number)))
}

#[cfg(test)]
mod tests {
    use remora_core::DiskName;

    use super::*;
    use crate::definition::{Format, SourceKind};

    fn disk(path: &Path) -> DiskDefinition {
        let name = DiskName::new("vda").unwrap();
        DiskDefinition {
            name,
            path: path.into(),
            kind: SourceKind::File,
            format: Format::Qcow2,
            index: None,
            data_file: None,
        }
    }

    #[test]
    fn a_replaced_file_or_data_file_is_another_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (image, data) = (dir.path().join("a.qcow2"), dir.path().join("a.raw"));
        let replace = |path: &Path| {
            let new = dir.path().join("new");
            fs::write(&new, "x").unwrap();
            fs::rename(new, path).unwrap();
        };
        replace(&image);
        replace(&data);
        let node = BlockNode { data_file: Some("a.raw".into()), ..BlockNode::default() };
        let first = identify("u", &disk(&image), Some(&node));
        assert!(first.data_file.as_ref().unwrap().starts_with(data.to_str().unwrap()), "{first:?}");
        assert_eq!(first, identify("u", &disk(&image), Some(&node)));
        replace(&data);
        let second = identify("u", &disk(&image), Some(&node));
        assert_eq!((&first.inode, &first.path), (&second.inode, &second.path));
        assert_ne!(first.data_file, second.data_file);
        replace(&image);
        assert_ne!(first.inode, identify("u", &disk(&image), Some(&node)).inode);
    }

    #[test]
    fn what_cannot_be_seen_has_no_inode() {
        assert_eq!(identify("u", &disk(Path::new("/nonexistent/x")), None).inode, None);
    }
}
