//! The guest's own view of its filesystems, as its `/etc/fstab` says. Pure; every byte of it is the guest's.

use remora_core::DiskName;

use crate::escapes::Escapes;
use crate::layout::{Device, letter_index, split_number, volume};

/// One line that mounts a filesystem somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What: a path, `UUID=…`, `LABEL=…`, …
    pub(crate) spec: String,
    /// Where: absolute, without `.`, `..` and empty components; `/` or without a slash at its end.
    pub(crate) folder: String,
    /// The mount options that choose a btrfs subvolume, as they stand there.
    pub(crate) subvolume: Option<String>,
}

/// The entries whose filesystem could be on a disk, `/` first, a folder before what is mounted in it.
pub(crate) fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = text.lines().filter_map(parse_line).collect();
    entries.sort_by_key(|entry| (entry.folder != "/", entry.folder.matches('/').count()));
    // More than any guest has, few enough to try them all.
    entries.truncate(64);
    entries
}

fn parse_line(line: &str) -> Option<Entry> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let mut fields = line.split_whitespace();
    let (spec, folder, _kind) =
        (Escapes::Octal.decode_text(fields.next()?), Escapes::Octal.decode_text(fields.next()?), fields.next()?);
    let on_a_disk = spec.starts_with("/dev/") || tag(&spec).is_some();
    let option = |o: &&str| o.starts_with("subvol=") || o.starts_with("subvolid=");
    let subvolume = fields.next().and_then(|options| options.split(',').find(option)).map(str::to_owned);
    on_a_disk.then_some(())?;
    Some(Entry { spec, folder: clean(&folder)?, subvolume })
}

/// An absolute path without detours, or none.
fn clean(folder: &str) -> Option<String> {
    let parts: Vec<_> = folder.strip_prefix('/')?.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let straight = !parts.contains(&"..");
    straight.then(|| format!("/{}", parts.join("/")))
}

fn tag(spec: &str) -> Option<(&str, &str)> {
    let (tag, value) = spec.split_once('=')?;
    let known = matches!(tag, "UUID" | "LABEL" | "PARTUUID" | "PARTLABEL");
    known.then(|| (tag, value.trim_matches('"')))
}

/// The device that an entry means: by tag, by link, by volume, or by the name that the guest's kernel gave it, which is
/// taken to be our disk's name or, failing that, its place in the order of disks.
pub(crate) fn resolve<'a>(spec: &str, devices: &'a [Device], disks: &[DiskName]) -> Option<&'a Device> {
    if let Some((tag, value)) = tag(spec).or_else(|| link(spec)) {
        // Case differs between tools for vfat and partition ids. An id that two devices have is none.
        let mut named = devices.iter().filter(|d| !value.is_empty() && tagged(d, tag).eq_ignore_ascii_case(value));
        let first = named.next()?;
        return named.all(|other| other.name == first.name).then_some(first);
    }
    if let Some(wanted) = volume(spec).or_else(|| volume_path(spec))
        && let Some(found) = devices.iter().find(|d| d.kind == "lvm" && volume(&d.name).as_ref() == Some(&wanted))
    {
        return Some(found);
    }
    let (disk, partition) = kernel_name(spec.strip_prefix("/dev/")?, disks)?;
    let mut ours = devices.iter().filter(|d| crate::layout::scsi_disk(&d.name) == Some((disk, partition)));
    ours.next()
}

fn tagged<'a>(device: &'a Device, tag: &str) -> &'a str {
    match tag {
        "UUID" => &device.uuid,
        "LABEL" => &device.label,
        "PARTUUID" => &device.part_uuid,
        _ => &device.part_label,
    }
}

/// udev's links by tag.
fn link(spec: &str) -> Option<(&'static str, &str)> {
    let (kind, value) = spec.strip_prefix("/dev/disk/by-")?.split_once('/')?;
    let tag = match kind {
        "uuid" => "UUID",
        "label" => "LABEL",
        "partuuid" => "PARTUUID",
        "partlabel" => "PARTLABEL",
        _ => return None,
    };
    Some((tag, value))
}

/// `/dev/<group>/<volume>`.
fn volume_path(spec: &str) -> Option<(String, String)> {
    let (group, volume) = spec.strip_prefix("/dev/")?.split_once('/')?;
    (!volume.contains('/')).then(|| (group.to_owned(), volume.to_owned()))
}

/// The disk and the partition in `vda1`, `sdb`, `xvda2`, `nvme0n1p3` or `mmcblk0p1`.
fn kernel_name(name: &str, disks: &[DiskName]) -> Option<(usize, Option<u32>)> {
    let by_name = |text: &str| disks.iter().position(|disk| disk.as_str() == text);
    if let Some(disk) = by_name(name) {
        return Some((disk, None));
    }
    let (stem, digits) = split_number(name);
    let number = |text: &str| text.parse::<u32>().ok();
    for prefix in ["nvme", "mmcblk"] {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let (unit, partition) = match rest.split_once('p') {
            Some((unit, partition)) => (unit, Some(number(partition)?)),
            None => (rest, None),
        };
        let unit = unit.split_once('n').map_or(unit, |(controller, _)| controller);
        return Some((unit.parse().ok()?, partition));
    }
    let letters = ["xvd", "vd", "sd", "hd"].iter().find_map(|prefix| stem.strip_prefix(prefix))?;
    let disk = by_name(stem).or_else(|| letter_index(letters))?;
    if digits.is_empty() { Some((disk, None)) } else { Some((disk, Some(number(digits)?))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, kind: &str, uuid: &str, label: &str) -> Device {
        let text = |t: &str| t.to_owned();
        Device { name: text(name), kind: text(kind), uuid: text(uuid), label: text(label), ..Device::default() }
    }

    #[test]
    fn lines_that_mount_disks_are_read_root_first() {
        let text = "# a comment\n\nproc /proc proc defaults 0 0\nUUID=1 /a/b ext4\n/dev/vg/x /a// xfs defaults 0 2\n\
            server:/x /nfs nfs\n/dev/sda2 none swap sw\nLABEL=\"my\\040disk\" /my\\040files ext4 ro,subvol=@x,noatime 0 0\n\
            UUID=0 / btrfs subvolid=256 0 1\nUUID=2 /../etc ext4\nUUID=3 relative ext4\nshort\n";
        let entries: Vec<_> = parse(text).into_iter().map(|e| (e.spec, e.folder, e.subvolume)).collect();
        let expected = [
            ("UUID=0", "/", Some("subvolid=256")),
            ("/dev/vg/x", "/a", None),
            ("LABEL=\"my disk\"", "/my files", Some("subvol=@x")),
            ("UUID=1", "/a/b", None),
        ];
        assert_eq!(expected.map(|(s, f, o)| (s.to_owned(), f.to_owned(), o.map(str::to_owned))).to_vec(), entries);
    }

    #[test]
    fn every_way_to_name_a_device_is_understood() {
        let disks: Vec<_> = ["vda", "sdb"].iter().map(|d| DiskName::new(*d).unwrap()).collect();
        let devices = [
            device("/dev/sda", "disk", "", ""),
            device("/dev/sda1", "part", "892D-4F0B", "my disk"),
            device("/dev/sdb", "disk", "", ""),
            device("/dev/sdb2", "part", "twin", ""),
            device("/dev/sdb3", "part", "twin", ""),
            device("/dev/mapper/my--vg-lv", "lvm", "3", ""),
        ];
        let table = [
            ("UUID=892d-4f0b", Some("/dev/sda1")),
            ("LABEL=\"my disk\"", Some("/dev/sda1")),
            ("/dev/disk/by-uuid/3", Some("/dev/mapper/my--vg-lv")),
            ("/dev/mapper/my--vg-lv", Some("/dev/mapper/my--vg-lv")),
            ("/dev/my-vg/lv", Some("/dev/mapper/my--vg-lv")),
            ("/dev/vda1", Some("/dev/sda1")),
            ("/dev/vda", Some("/dev/sda")),
            ("/dev/sdb2", Some("/dev/sdb2")),
            ("/dev/vdb2", Some("/dev/sdb2")),
            ("/dev/nvme0n1p1", Some("/dev/sda1")),
            ("/dev/nvme1n1p2", Some("/dev/sdb2")),
            ("/dev/mmcblk0p1", Some("/dev/sda1")),
            ("UUID=twin", None),
            ("UUID=", None),
            ("LABEL=", None),
            ("/dev/vdc1", None),
            ("/dev/vda7", None),
            ("/dev/vda99999999999", None),
            ("/dev/", None),
            ("/dev/nvme", None),
        ];
        for (spec, expected) in table {
            assert_eq!(resolve(spec, &devices, &disks).map(|d| d.name.as_str()), expected, "{spec}");
        }
    }
}
