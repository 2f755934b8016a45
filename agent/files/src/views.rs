//! Finds the guest's own view: which filesystem is its root, and what its fstab mounts where.

use std::time::Duration;

use remora_core::{DiskName, Result};

use crate::fstab::{self, Entry};
use crate::guestfish::{Guestfish, quoted};
use crate::layout::{Device, Filesystem};

/// The folders of one system, `/` first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) parts: Vec<Part>,
}

/// One folder of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where, as the guest says.
    pub(crate) folder: String,
    /// What, as its fstab says.
    pub(crate) spec: String,
    /// What that is here; none if it is not on these disks.
    pub(crate) filesystem: Option<Filesystem>,
    /// The mount option that chooses a btrfs subvolume.
    subvolume: Option<String>,
}

impl Part {
    /// The mount options. The filesystem is mounted already, in the same way, so its journal is no question.
    pub(crate) fn options(&self) -> String {
        let kind = self.filesystem.as_ref().map_or("", |fs| fs.device.holds.as_str());
        match (kind, &self.subvolume) {
            ("xfs", _) => "ro,nouuid".into(),
            ("btrfs", Some(subvolume)) => format!("ro,{subvolume}"),
            _ => "ro".into(),
        }
    }
}

/// An fstab that was found.
struct Candidate<'a> {
    filesystem: &'a Filesystem,
    /// The subvolume of a btrfs that it lies in.
    subvolume: Option<String>,
    entries: Vec<Entry>,
}

/// Reads every fstab at the usual place and makes the view of the first system whose `/` is the filesystem that its
/// fstab lies on. (libguestfs's own inspection takes 15 s more under emulation.)
pub(crate) async fn find(
    guestfish: &mut Guestfish,
    mounted: &[Filesystem],
    devices: &[Device],
    disks: &[DiskName],
    patience: Duration,
) -> Result<Option<View>> {
    let mut places: Vec<(&Filesystem, Option<String>, String)> = Vec::new();
    for filesystem in mounted.iter().filter(|fs| may_be_root(&fs.device.holds)) {
        places.push((filesystem, None, format!("/{}/etc/fstab", filesystem.path)));
        if filesystem.device.holds == "btrfs" {
            places.extend(subvolumes(guestfish, filesystem, patience).await?);
        }
    }
    let commands: Vec<_> = places.iter().filter_map(|(_, _, path)| Some(format!("cat {}", quoted(path)?))).collect();
    let answers = guestfish.run_all(&commands, patience).await?;
    let candidates: Vec<_> = places
        .into_iter()
        .zip(answers)
        .filter(|(_, answer)| answer.error.is_none())
        .map(|((filesystem, subvolume, _), answer)| Candidate {
            filesystem,
            subvolume,
            entries: fstab::parse(&answer.text),
        })
        .collect();
    Ok(choose(&candidates, mounted, devices, disks))
}

fn may_be_root(kind: &str) -> bool {
    matches!(kind, "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "f2fs" | "jfs" | "reiserfs")
}

/// The subvolumes at a btrfs's top level that have an fstab, the usual names first.
async fn subvolumes<'a>(
    guestfish: &mut Guestfish,
    filesystem: &'a Filesystem,
    patience: Duration,
) -> Result<Vec<(&'a Filesystem, Option<String>, String)>> {
    let found = guestfish.run(&format!("glob-expand \"/{}/*/etc/fstab\"", filesystem.path), patience).await?;
    let prefix = format!("/{}/", filesystem.path);
    let name = |path: &str| Some(path.strip_prefix(&prefix)?.strip_suffix("/etc/fstab")?.to_owned());
    let usual = |name: &String| !matches!(name.as_str(), "@" | "@rootfs" | "root");
    // It becomes a mount option.
    let plain = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '@' | '_' | '-' | '.'));
    let mut names: Vec<String> = found.text.lines().filter_map(name).filter(plain).take(64).collect();
    names.sort_by_key(usual);
    let place = |name: String| (filesystem, Some(format!("subvol={name}")), format!("{prefix}{name}/etc/fstab"));
    Ok(names.into_iter().map(place).collect())
}

/// The first system whose root is where its fstab says; failing that, the first whose fstab names a root that nobody
/// knows.
fn choose(
    candidates: &[Candidate<'_>],
    mounted: &[Filesystem],
    devices: &[Device],
    disks: &[DiskName],
) -> Option<View> {
    let root_of = |candidate: &Candidate<'_>| {
        let root = candidate.entries.iter().find(|entry| entry.folder == "/")?;
        Some(fstab::resolve(&root.spec, devices, disks).map(|device| device.name.clone()))
    };
    let right = |c: &&Candidate<'_>| root_of(c).flatten().is_some_and(|name| same_device(&name, c, devices));
    let unknown = |c: &&Candidate<'_>| root_of(c).is_some_and(|root| root.is_none());
    let chosen = candidates.iter().find(right).or_else(|| candidates.iter().find(unknown))?;
    let parts = chosen.entries.iter().map(|entry| part(entry, chosen, mounted, devices, disks));
    let mut parts: Vec<Part> = parts.collect();
    let mut folders = std::collections::BTreeSet::new();
    parts.retain(|part| folders.insert(part.folder.clone()) && part.folder != "/none");
    Some(View { parts })
}

/// Whether the device is the candidate's; a btrfs may span several that all stand for it.
fn same_device(name: &str, candidate: &Candidate<'_>, devices: &[Device]) -> bool {
    let own = &candidate.filesystem.device;
    name == own.name
        || own.holds == "btrfs" && devices.iter().any(|d| d.name == name && d.uuid == own.uuid && d.holds == own.holds)
}

fn part(entry: &Entry, chosen: &Candidate<'_>, mounted: &[Filesystem], devices: &[Device], disks: &[DiskName]) -> Part {
    let (folder, spec) = (entry.folder.clone(), entry.spec.clone());
    if folder == "/" {
        // Where the fstab was found is the root, whatever it calls it.
        let subvolume = chosen.subvolume.clone();
        return Part { folder, spec, filesystem: Some(chosen.filesystem.clone()), subvolume };
    }
    let device = fstab::resolve(&entry.spec, devices, disks);
    let filesystem = device.and_then(|device| mounted.iter().find(|fs| fs.device.name == device.name)).cloned();
    let plain =
        |o: &String| o.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '@' | '_' | '-' | '.' | '/' | '='));
    Part { folder, spec, filesystem, subvolume: entry.subvolume.clone().filter(plain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filesystem(device: &str, holds: &str, uuid: &str, path: &str) -> Filesystem {
        let device = Device { name: device.into(), holds: holds.into(), uuid: uuid.into(), ..Device::default() };
        Filesystem { device, path: path.into() }
    }

    fn view(systems: &[(usize, &str)], mounted: &[Filesystem]) -> Option<Vec<(String, Option<String>)>> {
        let candidates: Vec<_> = systems
            .iter()
            .map(|(at, text)| Candidate { filesystem: &mounted[*at], subvolume: None, entries: fstab::parse(text) })
            .collect();
        let devices: Vec<_> = mounted.iter().map(|fs| fs.device.clone()).collect();
        let disks = [DiskName::new("vda").unwrap(), DiskName::new("vdb").unwrap()];
        let view = choose(&candidates, mounted, &devices, &disks)?;
        Some(view.parts.into_iter().map(|p| (p.folder, p.filesystem.map(|fs| fs.path))).collect())
    }

    #[test]
    fn the_system_whose_root_is_its_own_filesystem_is_shown() {
        let mounted = [
            filesystem("/dev/sda1", "ext4", "1", "vda/1"),
            filesystem("/dev/sda2", "ext4", "2", "vda/2"),
            filesystem("/dev/sdb1", "xfs", "3", "vdb/1"),
        ];
        // The first is a copy of an fstab: a backup on another filesystem.
        let systems = [(0, "UUID=2 / ext4\n"), (1, "UUID=3 /home xfs\nUUID=2 / ext4\n/dev/sdz1 /gone ext4\n")];
        let expected = [("/", Some("vda/2")), ("/home", Some("vdb/1")), ("/gone", None)];
        let expected: Vec<_> = expected.map(|(f, p)| (f.to_owned(), p.map(str::to_owned))).into();
        assert_eq!(view(&systems, &mounted), Some(expected));
    }

    #[test]
    fn a_root_by_an_unknown_name_is_better_than_none() {
        let mounted = [filesystem("/dev/sda1", "ext4", "1", "vda/1")];
        let expected = vec![("/".to_owned(), Some("vda/1".to_owned()))];
        assert_eq!(view(&[(0, "/dev/root / ext4\n")], &mounted), Some(expected));
        assert_eq!(view(&[(0, "proc /proc proc\n")], &mounted), None);
        assert_eq!(view(&[], &mounted), None);
    }
}
