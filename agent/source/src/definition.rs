//! What we need of a domain's XML.

use std::path::PathBuf;

use remora_core::{DiskName, Error, ErrorKind};
use roxmltree::{Document, Node};

/// A running domain's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    /// Its UUID.
    pub(crate) uuid: String,
    /// The disks that can be backed up, in order.
    pub(crate) disks: Vec<DiskDefinition>,
    /// The target names of all other drives; jobs must say of each that they leave it alone.
    pub(crate) others: Vec<String>,
    /// Disks that hold data but that we cannot back up: target name, and why.
    pub(crate) unsupported: Vec<(String, String)>,
    /// The user and group that QEMU runs as, where libvirt tells.
    pub(crate) qemu_owner: Option<(u32, u32)>,
}

/// A disk that can be backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskDefinition {
    /// Its target name.
    pub(crate) name: DiskName,
    /// Where its top image lies.
    pub(crate) path: PathBuf,
    /// What kind of file that is.
    pub(crate) kind: SourceKind,
    /// Its format.
    pub(crate) format: Format,
    /// The number in the names of QEMU's nodes for it (`libvirt-2-format`).
    pub(crate) index: Option<u32>,
    /// The raw data file that the definition names; libvirt before 10.10 leaves that to the image's header.
    pub(crate) data_file: Option<PathBuf>,
}

impl DiskDefinition {
    /// The name of QEMU's node for its image: libvirt names it after the index that it shows in the definition.
    pub(crate) fn node(&self) -> Option<String> {
        self.index.map(|index| format!("libvirt-{index}-format"))
    }
}

/// What an image lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// A file.
    File,
    /// A block device.
    Block,
}

/// An image's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Can hold bitmaps.
    Qcow2,
    /// Cannot.
    Raw,
}

/// Reads the XML of a running domain.
pub(crate) fn parse(xml: &str) -> Result<Definition, Error> {
    let document = Document::parse(xml)
        .map_err(|error| Error::new(ErrorKind::Failed, "reading the domain's definition").because(error))?;
    let domain = document.root_element();
    let uuid = child(domain, "uuid").and_then(|n| n.text()).map(str::trim).filter(|u| is_uuid(u));
    let Some(uuid) = uuid else {
        return Err(Error::new(ErrorKind::Failed, "reading the domain's definition: it has no UUID"));
    };
    let mut definition = Definition {
        uuid: uuid.to_owned(),
        disks: Vec::new(),
        others: Vec::new(),
        unsupported: Vec::new(),
        qemu_owner: qemu_owner(domain),
    };
    for disk in child(domain, "devices").iter().flat_map(Node::children).filter(|n| n.has_tag_name("disk")) {
        let Some(target) = child(disk, "target").and_then(|t| t.attribute("dev")) else { continue };
        match read_disk(disk, target) {
            Drive::Disk(disk) => definition.disks.push(disk),
            Drive::Unsupported(why) => {
                definition.others.push(target.to_owned());
                definition.unsupported.push((target.to_owned(), why));
            }
            Drive::Other => definition.others.push(target.to_owned()),
        }
    }
    Ok(definition)
}

enum Drive {
    Disk(DiskDefinition),
    Unsupported(String),
    /// Not a disk, or nobody can write to it.
    Other,
}

fn read_disk(disk: Node<'_, '_>, target: &str) -> Drive {
    match disk.attribute("device").unwrap_or("disk") {
        "disk" => {}
        "lun" => return Drive::Unsupported("a SCSI device passed through cannot be read by QEMU".into()),
        _ => return Drive::Other,
    }
    if child(disk, "readonly").is_some() {
        return Drive::Other;
    }
    let name = match DiskName::new(target) {
        Ok(name) => name,
        Err(error) => return Drive::Unsupported(error.to_string()),
    };
    let format = match child(disk, "driver").and_then(|d| d.attribute("type")) {
        Some("qcow2") => Format::Qcow2,
        Some("raw") => Format::Raw,
        other => return Drive::Unsupported(format!("images of format {:?}", other.unwrap_or("unknown"))),
    };
    let kind = match disk.attribute("type") {
        Some("file") => SourceKind::File,
        Some("block") => SourceKind::Block,
        other => return Drive::Unsupported(format!("disks of type {:?}", other.unwrap_or("unknown"))),
    };
    let Some(source) = child(disk, "source") else { return Drive::Other };
    let Some(path) = source_path(source) else { return Drive::Other };
    let index = source.attribute("index").and_then(|i| i.parse().ok());
    let data_file = child(source, "dataStore").and_then(|store| child(store, "source")).and_then(source_path);
    Drive::Disk(DiskDefinition { name, path, kind, format, index, data_file })
}

fn source_path(source: Node<'_, '_>) -> Option<PathBuf> {
    source.attribute("file").or_else(|| source.attribute("dev")).map(PathBuf::from)
}

/// From `<seclabel model='dac'><label>+64055:+64055</label>`.
fn qemu_owner(domain: Node<'_, '_>) -> Option<(u32, u32)> {
    let dac = domain.children().find(|n| n.has_tag_name("seclabel") && n.attribute("model") == Some("dac"))?;
    let (user, group) = child(dac, "label")?.text()?.trim().split_once(':')?;
    Some((user.trim_start_matches('+').parse().ok()?, group.trim_start_matches('+').parse().ok()?))
}

/// The first child element of that name.
pub(crate) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.has_tag_name(name))
}

/// The UUID becomes part of file names, so it is checked to be one.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6f1b8a52-7d34-4a1c-9b0e-0d8a3c2b1f00";

    fn domain(devices: &str) -> String {
        format!(
            "<domain type='kvm' id='3'><name>a &amp; b</name><uuid>{UUID}</uuid><devices>{devices}</devices>\
             <seclabel type='dynamic' model='apparmor' relabel='yes'/>\
             <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label></seclabel></domain>"
        )
    }

    #[test]
    fn disks_come_in_order_with_what_identifies_them() {
        let xml = domain(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/a &amp; b.qcow2' index='2'/>\
             <target dev='vda' bus='virtio'/></disk>\
             <disk type='block'><driver type='raw'/><source dev='/dev/vg/lv' index='1'/><target dev='sdb'/></disk>\
             <disk type='file' device='disk'><driver type='qcow2'/><source file='/i/o.qcow2'><dataStore type='file'>\
             <format type='raw'/><source file='/i/o.raw'/></dataStore></source><target dev='vdc'/></disk>",
        );
        let definition = parse(&xml).unwrap();
        assert_eq!(definition.uuid, UUID);
        assert_eq!(definition.qemu_owner, Some((64055, 108)));
        let seen: Vec<_> = definition
            .disks
            .iter()
            .map(|d| (d.name.as_str(), d.path.to_str().unwrap(), d.kind, d.format, d.index))
            .collect();
        assert_eq!(
            seen,
            [
                ("vda", "/i/a & b.qcow2", SourceKind::File, Format::Qcow2, Some(2)),
                ("sdb", "/dev/vg/lv", SourceKind::Block, Format::Raw, Some(1)),
                ("vdc", "/i/o.qcow2", SourceKind::File, Format::Qcow2, None),
            ]
        );
        assert_eq!(definition.disks[2].data_file, Some("/i/o.raw".into()));
    }

    #[test]
    fn drives_without_data_of_the_guest_are_left_alone_and_unreadable_disks_are_named() {
        let xml = domain(
            "<disk type='file' device='cdrom'><driver type='raw'/><target dev='hda'/><readonly/></disk>\
             <disk type='file' device='floppy'><driver type='raw'/><source file='/f'/><target dev='fda'/></disk>\
             <disk type='file' device='disk'><driver type='raw'/><source file='/ro'/><target dev='vda'/><readonly/></disk>\
             <disk type='network' device='disk'><driver type='raw'/><source protocol='rbd' name='p/i'/><target dev='vdb'/></disk>\
             <disk type='file' device='disk'><driver type='vmdk'/><source file='/v'/><target dev='vdc'/></disk>\
             <disk type='file' device='disk'><driver type='raw'/><source file='/x'/><target dev='../x'/></disk>",
        );
        let definition = parse(&xml).unwrap();
        assert_eq!(definition.disks, []);
        assert_eq!(definition.others, ["hda", "fda", "vda", "vdb", "vdc", "../x"]);
        let unsupported: Vec<_> = definition.unsupported.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(unsupported, ["vdb", "vdc", "../x"]);
        assert!(definition.unsupported[0].1.contains("network"));
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        for bad in ["", "<domain/>", "<domain><uuid>../../etc</uuid></domain>", "<a><b></a>", "<uuid/>"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse(&domain("<disk/><disk><target/></disk>")).unwrap().disks, []);
    }
}
