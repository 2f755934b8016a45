//! Which filesystems the disks hold, and where below `files/` each is shown. Pure.

use std::collections::BTreeSet;

use remora_core::DiskName;

use crate::escapes::Escapes;
use crate::skipped::Skipped;

/// What lists the block devices within the appliance. One process there: asking libguestfs device by device takes
/// seconds under emulation (`list-filesystems` alone 8 s).
pub(crate) const LIST_DEVICES: &str = "lsblk -P -p -b -o NAME,TYPE,FSTYPE,UUID,LABEL,PARTUUID,PARTLABEL,PKNAME,HCTL";

/// The folder of the guest's own view.
pub(crate) const ROOT: &str = "root";

/// A block device as the appliance sees it. All texts but the names of whole disks come from the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its path in the appliance.
    pub(crate) name: String,
    /// `disk`, `part`, `lvm`, `raid1`, …
    pub(crate) kind: String,
    /// What it holds: `ext4`, `LVM2_member`, …; empty if nothing is known.
    pub(crate) holds: String,
    pub(crate) uuid: String,
    pub(crate) label: String,
    pub(crate) part_uuid: String,
    pub(crate) part_label: String,
    /// The device below it.
    pub(crate) parent: String,
}

/// A filesystem and where it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filesystem {
    /// What it lies on.
    pub(crate) device: Device,
    /// Its folder below `files/`, without a slash in front.
    pub(crate) path: String,
}

/// Everything that the disks hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) filesystems: Vec<Filesystem>,
    /// What looks like files and cannot be shown.
    pub(crate) skipped: Vec<Skipped>,
}

/// Reads what [`LIST_DEVICES`] printed, and gives disks the names that libguestfs's commands know them by. Lines that
/// make no sense are left out.
///
/// The kernel names SCSI disks in the order in which it finds them, which on a busy host is not that of their
/// addresses (seen: the appliance's own disk was `sda`). libguestfs's commands mean the address: theirs `/dev/sda` is
/// the first disk that was attached.
pub(crate) fn parse_devices(text: &str) -> Vec<Device> {
    let mut listed: Vec<(Device, Option<Address>)> = text.lines().filter_map(parse_device).collect();
    let mut disks: Vec<(Address, String)> =
        listed.iter().filter_map(|(device, address)| Some((address.clone()?, device.name.clone()))).collect();
    disks.sort();
    disks.dedup();
    let rename = |name: &mut String| {
        let (disk, number) = split_number(name);
        if let Some(index) = disks.iter().position(|(_, known)| known == disk) {
            *name = format!("/dev/sd{}{number}", index_letters(index));
        }
    };
    for (device, _) in &mut listed {
        rename(&mut device.name);
        rename(&mut device.parent);
    }
    let mut devices: Vec<Device> = Vec::new();
    for (device, _) in listed {
        // A device on several others (a volume across two disks) is listed below each.
        match devices.iter().find(|known| known.name == device.name) {
            Some(known) if known.parent == device.parent => {}
            _ => devices.push(device),
        }
    }
    devices
}

/// A SCSI disk's host, channel, target and unit.
type Address = Vec<u32>;

/// The address of a disk, from lsblk's text.
fn parse_address(device: &Device, text: &str) -> Option<Address> {
    let (letters, digits) = split_number(device.name.strip_prefix("/dev/sd")?);
    letter_index(letters).filter(|_| digits.is_empty())?;
    text.split(':').map(|part| part.parse().ok()).collect()
}

fn parse_device(line: &str) -> Option<(Device, Option<Address>)> {
    let (mut device, mut address, mut rest) = (Device::default(), String::new(), line.trim());
    while let Some((key, quoted)) = rest.split_once("=\"") {
        let (value, after) = quoted.split_once('"')?;
        let value = Escapes::Hexadecimal.decode_text(value);
        match key.trim() {
            "NAME" => device.name = value,
            "TYPE" => device.kind = value,
            "FSTYPE" => device.holds = value,
            "UUID" => device.uuid = value,
            "LABEL" => device.label = value,
            "PARTUUID" => device.part_uuid = value,
            "PARTLABEL" => device.part_label = value,
            "PKNAME" => device.parent = value,
            "HCTL" => address = value,
            _ => {}
        }
        rest = after;
    }
    // Names become arguments of commands.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+' | '.' | ':');
    let address = parse_address(&device, &address);
    (device.name.starts_with("/dev/") && device.name.chars().all(plain)).then_some((device, address))
}

/// Gives every filesystem on our disks its folder. The appliance has disks of its own behind ours; they are left out.
pub(crate) fn lay_out(devices: &[Device], disks: &[DiskName]) -> Layout {
    let mut layout = Layout::default();
    let mut names = Names::new(disks);
    let mut done = BTreeSet::new();
    for device in devices {
        if !done.insert(&device.name) || on_foreign_disk(device, devices, disks.len()) {
            continue;
        }
        let Some(path) = names.path_of(device, devices, disks) else { continue };
        let in_use = devices.iter().any(|other| other.parent == device.name);
        match unusable(device, in_use) {
            Use::Mount => layout.filesystems.push(Filesystem { device: device.clone(), path }),
            Use::Nothing => {}
            Use::Skip(why) => layout.skipped.push(Skipped { what: path, why: why.into() }),
        }
    }
    layout
}

enum Use {
    Mount,
    /// Nothing that a person would look for.
    Nothing,
    Skip(&'static str),
}

fn unusable(device: &Device, in_use: bool) -> Use {
    match device.holds.as_str() {
        "" | "swap" | "swsuspend" | "DM_snapshot_cow" => Use::Nothing,
        "LVM2_member" | "LVM1_member" | "linux_raid_member" | "ddf_raid_member" | "isw_raid_member" if in_use => {
            Use::Nothing
        }
        "LVM2_member" | "LVM1_member" => Use::Skip(
            "its volume group has no active volume: it is empty, a disk is missing, or two groups share a name",
        ),
        "linux_raid_member" | "ddf_raid_member" | "isw_raid_member" => {
            Use::Skip("its RAID array could not be assembled")
        }
        "crypto_LUKS" | "BitLocker" => Use::Skip("it is encrypted"),
        "zfs_member" => Use::Skip("ZFS is not supported"),
        // A partitioned disk may carry the traces of a filesystem that was there before.
        _ if in_use => Use::Nothing,
        _ => Use::Mount,
    }
}

fn on_foreign_disk(device: &Device, devices: &[Device], disks: usize) -> bool {
    let mut at = device;
    // Parents are few; the bound is against loops.
    for _ in 0..16 {
        if let Some((disk, _)) = scsi_disk(&at.name) {
            return disk >= disks;
        }
        match devices.iter().find(|other| other.name == at.parent) {
            Some(parent) => at = parent,
            None => return true,
        }
    }
    true
}

/// The number of a disk of the appliance (`/dev/sda` is 0), and the partition.
pub(crate) fn scsi_disk(name: &str) -> Option<(usize, Option<u32>)> {
    let (letters, digits) = split_number(name.strip_prefix("/dev/sd")?);
    let disk = letter_index(letters)?;
    if digits.is_empty() { Some((disk, None)) } else { Some((disk, Some(digits.parse().ok()?))) }
}

/// `a` is 0, `z` is 25, `aa` is 26.
pub(crate) fn letter_index(letters: &str) -> Option<usize> {
    if letters.is_empty() || letters.len() > 4 || !letters.bytes().all(|b| b.is_ascii_lowercase()) {
        return None;
    }
    Some(letters.bytes().fold(0, |sum, b| sum * 26 + usize::from(b - b'a') + 1) - 1)
}

/// The inverse of [`letter_index`].
fn index_letters(index: usize) -> String {
    let (mut letters, mut left) = (Vec::new(), index + 1);
    while left > 0 {
        left -= 1;
        letters.push(char::from(b'a' + (left % 26) as u8));
        left /= 26;
    }
    letters.iter().rev().collect()
}

/// Cuts the digits off the end.
pub(crate) fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.trim_end_matches(|c: char| c.is_ascii_digit()).len())
}

/// The volume group and the logical volume in a device mapper name: a dash between, the dashes of the names doubled.
/// None for LVM's internal devices, which have further parts.
pub(crate) fn volume(name: &str) -> Option<(String, String)> {
    let text = name.strip_prefix("/dev/mapper/")?.replace("--", "\0");
    let (group, volume) = text.split_once('-')?;
    let undouble = |part: &str| part.replace('\0', "-");
    (!volume.contains('-')).then(|| (undouble(group), undouble(volume)))
}

/// Which folders right below `files/` are taken, and by whom.
struct Names {
    taken: BTreeSet<String>,
    groups: Vec<(String, String)>,
}

impl Names {
    fn new(disks: &[DiskName]) -> Self {
        let own = disks.iter().map(|d| d.as_str().to_owned());
        Self { taken: own.chain([ROOT.to_owned()]).collect(), groups: Vec::new() }
    }

    fn path_of(&mut self, device: &Device, devices: &[Device], disks: &[DiskName]) -> Option<String> {
        if let Some((disk, partition)) = scsi_disk(&device.name) {
            let disk = disks.get(disk)?;
            return Some(partition.map_or_else(|| disk.to_string(), |number| format!("{disk}/{number}")));
        }
        if let Some((group, volume)) = volume(&device.name) {
            return (device.kind == "lvm").then(|| format!("{}/{}", self.group(&group), component(&volume)));
        }
        let name = device.name.strip_prefix("/dev/")?;
        let array = name.strip_prefix("md")?;
        match devices.iter().find(|other| other.name == device.parent && other.name.starts_with("/dev/md")) {
            Some(whole) => {
                let (_, number) = split_number(name);
                Some(format!("{}/{number}", self.group(whole.name.strip_prefix("/dev/")?)))
            }
            None => Some(self.group(&format!("md{}", component(array)))),
        }
    }

    /// The folder for a name that the guest chose: another one if it is taken.
    fn group(&mut self, name: &str) -> String {
        if let Some((_, folder)) = self.groups.iter().find(|(known, _)| known == name) {
            return folder.clone();
        }
        let mut folder = component(name);
        while !self.taken.insert(folder.clone()) {
            folder.push_str("-vg");
        }
        self.groups.push((name.to_owned(), folder.clone()));
        folder
    }
}

/// A guest's name as one component of a path.
fn component(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+') { c } else { '_' };
    let text: String = name.chars().map(plain).take(128).collect();
    if text.is_empty() || text.starts_with('.') { format!("_{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(names: &[&str]) -> Vec<DiskName> {
        names.iter().map(|name| DiskName::new(*name).unwrap()).collect()
    }

    fn device(name: &str, kind: &str, holds: &str, parent: &str) -> Device {
        let text = |t: &str| t.to_owned();
        Device { name: text(name), kind: text(kind), holds: text(holds), parent: text(parent), ..Device::default() }
    }

    fn paths(devices: &[Device], names: &[&str]) -> (Vec<(String, String)>, Vec<String>) {
        let layout = lay_out(devices, &disks(names));
        (
            layout.filesystems.into_iter().map(|f| (f.device.name, f.path)).collect(),
            layout.skipped.into_iter().map(|s| s.what).collect(),
        )
    }

    #[test]
    fn what_lsblk_printed_is_read() {
        let text = concat!(
            "NAME=\"/dev/sda1\" TYPE=\"part\" FSTYPE=\"vfat\" UUID=\"892D-4F0B\" LABEL=\"E\\x20S\\xc3\\xbc\" PARTUUID=\"f2\"",
            " PARTLABEL=\"a\\x22b\" PKNAME=\"/dev/sda\"\n",
            "NAME=\"/dev/mapper/vg0-root\" TYPE=\"lvm\" FSTYPE=\"xfs\" PKNAME=\"/dev/sda4\"\n",
            "NAME=\"/dev/mapper/vg0-root\" TYPE=\"lvm\" FSTYPE=\"xfs\" PKNAME=\"/dev/sda4\"\n",
            "nonsense \"\n\nNAME=\"/dev/x y\" TYPE=\"lvm\"\nNAME=\"/dev/sd",
        );
        let devices = parse_devices(text);
        assert_eq!(devices.len(), 2, "{devices:?}");
        assert_eq!((devices[0].label.as_str(), devices[0].part_label.as_str()), ("E Sü", "a\"b"));
        assert_eq!((devices[1].name.as_str(), devices[1].parent.as_str()), ("/dev/mapper/vg0-root", "/dev/sda4"));
    }

    #[test]
    fn disks_go_by_their_addresses_and_not_by_the_kernels_names() {
        let text = concat!(
            "NAME=\"/dev/sda\" TYPE=\"disk\" FSTYPE=\"ext2\" PKNAME=\"\" HCTL=\"2:0:10:0\"\n",
            "NAME=\"/dev/sdb\" TYPE=\"disk\" FSTYPE=\"xfs\" PKNAME=\"\" HCTL=\"2:0:2:0\"\n",
            "NAME=\"/dev/sdc\" TYPE=\"disk\" FSTYPE=\"\" PKNAME=\"\" HCTL=\"2:0:0:0\"\n",
            "NAME=\"/dev/sdc1\" TYPE=\"part\" FSTYPE=\"ext4\" PKNAME=\"/dev/sdc\" HCTL=\"\"\n",
            "NAME=\"/dev/mapper/vg0-root\" TYPE=\"lvm\" FSTYPE=\"ext4\" PKNAME=\"/dev/sdc1\" HCTL=\"\"\n",
        );
        let names: Vec<_> = parse_devices(text).into_iter().map(|d| (d.name, d.holds, d.parent)).collect();
        let expected = [
            ("/dev/sdc", "ext2", ""),
            ("/dev/sdb", "xfs", ""),
            ("/dev/sda", "", ""),
            ("/dev/sda1", "ext4", "/dev/sda"),
            ("/dev/mapper/vg0-root", "ext4", "/dev/sda1"),
        ];
        assert_eq!(names, expected.map(|(n, h, p)| (n.to_owned(), h.to_owned(), p.to_owned())));
    }

    #[test]
    fn letters_count_as_the_kernel_does() {
        for (index, letters) in [(0, "a"), (25, "z"), (26, "aa"), (701, "zz"), (702, "aaa")] {
            assert_eq!((index_letters(index).as_str(), letter_index(letters)), (letters, Some(index)));
        }
    }

    #[test]
    fn every_filesystem_has_its_folder() {
        let devices = [
            device("/dev/sda", "disk", "", ""),
            device("/dev/sda1", "part", "vfat", "/dev/sda"),
            device("/dev/sda2", "part", "LVM2_member", "/dev/sda"),
            device("/dev/mapper/my--vg-a--b", "lvm", "xfs", "/dev/sda2"),
            device("/dev/mapper/my--vg-a--b", "lvm", "xfs", "/dev/sdb"),
            device("/dev/mapper/my--vg-a--b-real", "lvm", "xfs", "/dev/sda2"),
            device("/dev/sdb", "disk", "LVM2_member", ""),
            device("/dev/sdc", "disk", "btrfs", ""),
            device("/dev/sdd", "disk", "", ""),
            device("/dev/sdd5", "part", "swap", "/dev/sdd"),
            device("/dev/sdd6", "part", "linux_raid_member", "/dev/sdd"),
            device("/dev/md127", "raid1", "ext4", "/dev/sdd6"),
            device("/dev/sde", "disk", "ext2", ""),
        ];
        let (shown, skipped) = paths(&devices, &["vda", "vdb", "sdz", "hdc"]);
        let expected = [
            ("/dev/sda1", "vda/1"),
            ("/dev/mapper/my--vg-a--b", "my-vg/a-b"),
            ("/dev/sdc", "sdz"),
            ("/dev/md127", "md127"),
        ];
        assert_eq!(shown, expected.map(|(device, path)| (device.to_owned(), path.to_owned())));
        assert!(skipped.is_empty(), "{skipped:?}");
    }

    #[test]
    fn what_cannot_be_shown_is_named() {
        let devices = [
            device("/dev/sda", "disk", "", ""),
            device("/dev/sda1", "part", "crypto_LUKS", "/dev/sda"),
            device("/dev/sda2", "part", "LVM2_member", "/dev/sda"),
            device("/dev/sda3", "part", "linux_raid_member", "/dev/sda"),
        ];
        assert_eq!(paths(&devices, &["vda"]), (vec![], ["vda/1", "vda/2", "vda/3"].map(String::from).to_vec()));
    }

    #[test]
    fn a_guests_names_cannot_take_ours_or_leave_the_folder() {
        let devices = [
            device("/dev/sda", "disk", "LVM2_member", ""),
            device("/dev/mapper/vda-x", "lvm", "ext4", "/dev/sda"),
            device("/dev/mapper/root-x", "lvm", "ext4", "/dev/sda"),
            device("/dev/mapper/..-..", "lvm", "ext4", "/dev/sda"),
        ];
        let (shown, _) = paths(&devices, &["vda"]);
        let shown: Vec<_> = shown.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(shown, ["vda-vg/x", "root-vg/x", "_../_.."]);
    }

    #[test]
    fn disks_beyond_the_alphabet_are_counted() {
        assert_eq!(["a", "z", "aa", "az", "ba"].map(letter_index), [0, 25, 26, 51, 52].map(Some));
        assert_eq!(scsi_disk("/dev/sdab12"), Some((27, Some(12))));
        for bad in ["/dev/sr0", "/dev/sd", "/dev/sd1", "/dev/sdA", "/dev/sdaaaaaaaa", "/dev/sda99999999999"] {
            assert_eq!(scsi_disk(bad), None, "{bad}");
        }
    }

    #[test]
    fn devices_that_contain_each_other_do_no_harm() {
        let devices =
            [device("/dev/md1", "raid1", "ext4", "/dev/md2"), device("/dev/md2", "raid1", "ext4", "/dev/md1")];
        assert_eq!(paths(&devices, &["vda"]), (vec![], vec![]));
    }
}
