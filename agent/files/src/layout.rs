//! Which filesystems the disks hold, and where below `files/` each is shown. Pure.

use std::collections::BTreeSet;

use remora_core::DiskName;

use crate::appliance::Skipped;
use crate::escapes::Escapes;

/// What lists the block devices within the appliance. One process there: asking libguestfs device by device takes
/// seconds under emulation (`list-filesystems` alone 8 s).
pub(crate) const LIST_DEVICES: &str = "lsblk -P -p -b -o NAME,TYPE,FSTYPE,UUID,LABEL,PARTUUID,PARTLABEL,PKNAME";

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

/// Reads what [`LIST_DEVICES`] printed. Lines that make no sense are left out.
pub(crate) fn parse_devices(text: &str) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    for line in text.lines() {
        let Some(device) = parse_device(line) else { continue };
        // A device on several others (a volume across two disks) is listed below each.
        match devices.iter().find(|known| known.name == device.name) {
            Some(known) if known.parent == device.parent => {}
            _ => devices.push(device),
        }
    }
    devices
}

fn parse_device(line: &str) -> Option<Device> {
    let (mut device, mut rest) = (Device::default(), line.trim());
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
            _ => {}
        }
        rest = after;
    }
    // Names become arguments of commands.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+' | '.' | ':');
    (device.name.starts_with("/dev/") && device.name.chars().all(plain)).then_some(device)
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
