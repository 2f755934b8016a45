//! What a restore must tell the repository before it writes over a VM's disk: the hypervisor's bitmaps stay clean while
//! the bytes change.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use remora_core::point::{DiskIdentity, Point, PointDisk};
use remora_core::ports::{LineageBreak, Mover};
use remora_core::{Error, ErrorKind, Result, VmName};

/// Records a break of lineage for every VM whose newest point has a disk at `path`, and names them. To be called
/// before the first byte is written; if it fails, nothing may be written.
///
/// `Refused` for the raw data file below a qcow2 overlay that is still the same: the overlay keeps marks of its own of
/// what reads as zeros, and would hide what is written below it.
pub async fn record_breaks(mover: &dyn Mover, path: &Path, reason: &str) -> Result<Vec<VmName>> {
    let mut newest: BTreeMap<VmName, Point> = BTreeMap::new();
    // Oldest first, so that the newest point of each VM stays.
    for point in mover.list(None).await?.points {
        newest.insert(point.vm.clone(), point);
    }
    let target = canonical(path);
    for (vm, disk) in newest.iter().flat_map(|(vm, point)| point.disks.iter().map(move |disk| (vm, disk))) {
        if lies_below(&disk.identity, &target) && is_still_there(&disk.identity) {
            return Err(hidden(path, vm, disk));
        }
    }
    let mut told = Vec::new();
    for (vm, point) in newest {
        if point.disks.iter().any(|disk| lies_at(&disk.identity, &target)) {
            let path = path.display().to_string();
            mover.record_break(&vm, LineageBreak { time: Timestamp::now(), path, reason: reason.into() }).await?;
            told.push(vm);
        }
    }
    Ok(told)
}

fn hidden(path: &Path, vm: &VmName, disk: &PointDisk) -> Error {
    let (data, overlay, size) = (path.display(), &disk.identity.path, disk.size);
    let what = format!(
        "{data} is the raw data file below the overlay {overlay:?} of the VM {:?}, which would hide parts of what is restored",
        vm.as_str()
    );
    Error::new(ErrorKind::Refused, what).advise(format!(
        "While the VM is off, make the overlay anew, which empties the data file, and then restore: qemu-img create -f qcow2 -o data_file={data},data_file_raw=on {overlay}.new {size} && mv {overlay}.new {overlay}"
    ))
}

/// Whether the image is the file that it was when the point was made, which the source names as `dev:inode`.
fn is_still_there(identity: &DiskIdentity) -> bool {
    let now = Path::new(&identity.path).metadata().map(|file| format!("{}:{}", file.dev(), file.ino()));
    now.is_ok_and(|now| identity.inode.as_ref() == Some(&now))
}

fn lies_at(identity: &DiskIdentity, target: &Path) -> bool {
    canonical(Path::new(&identity.path)) == target || lies_below(identity, target)
}

/// Whether the disk's raw data file lies there.
fn lies_below(identity: &DiskIdentity, target: &Path) -> bool {
    // A data file is named as `path dev:inode`.
    let data_file = identity.data_file.as_deref().map(|text| text.rsplit_once(' ').map_or(text, |(path, _)| path));
    data_file.is_some_and(|path| canonical(Path::new(path)) == target)
}

/// Without symbolic links as far as they can be followed here: `/dev/vg/lv` and `/dev/dm-0` are one device.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_image_its_data_file_and_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let (image, link) = (folder.path().join("an image"), folder.path().join("link"));
        std::fs::write(&image, "").unwrap();
        std::os::unix::fs::symlink(&image, &link).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let identity = |path: &str, data_file: Option<String>| DiskIdentity {
            vm_uuid: String::new(),
            path: path.into(),
            inode: None,
            data_file,
        };
        let target = canonical(&image);
        assert!(lies_at(&identity(&text(&image), None), &target));
        assert!(lies_at(&identity(&text(&link), None), &target));
        assert!(lies_at(&identity("/elsewhere", Some(format!("{} 8:15", text(&link)))), &target));
        assert!(!lies_at(&identity("/elsewhere", Some("/other 8:15".into())), &target));
    }
}
