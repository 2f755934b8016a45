//! Which of our checkpoints an increment of a disk can start from: libvirt must know the checkpoint, and QEMU must hold
//! its bitmap, consistent and recording. Either alone is not enough: libvirt still lists checkpoints whose bitmap died
//! with QEMU, and QEMU keeps bitmaps whose checkpoint libvirt has forgotten.

use std::collections::{BTreeMap, BTreeSet};

use remora_core::CheckpointName;
use remora_core::ports::Bitmaps;
use roxmltree::Document;

use crate::definition::{DiskDefinition, Format};
use crate::qemu::{Bitmap, BlockNode};
use crate::raw::RawCheckpoint;

/// A checkpoint of ours that libvirt knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Its name.
    pub(crate) name: CheckpointName,
    /// The name of its bitmap on each disk that it covers, by target name.
    pub(crate) bitmaps: BTreeMap<String, String>,
}

/// Ours among all checkpoints of a domain.
pub(crate) fn ours(all: &[RawCheckpoint]) -> Vec<Checkpoint> {
    all.iter()
        .filter_map(|raw| {
            let name: CheckpointName = raw.name.parse().ok()?;
            let document = Document::parse(&raw.xml).ok()?;
            let bitmaps = document
                .descendants()
                .filter(|n| n.has_tag_name("disk") && n.attribute("checkpoint") == Some("bitmap"))
                .filter_map(|n| Some((n.attribute("name")?, n.attribute("bitmap").unwrap_or(name.as_str()))))
                .map(|(disk, bitmap)| (disk.to_owned(), bitmap.to_owned()))
                .collect();
            Some(Checkpoint { name, bitmaps })
        })
        .collect()
}

/// What a disk's image holds of our checkpoints; `node` is the image as QEMU sees it.
pub(crate) fn classify(disk: &DiskDefinition, checkpoints: &[Checkpoint], node: Option<&BlockNode>) -> Bitmaps {
    if disk.format == Format::Raw {
        return Bitmaps::Unable("a raw image holds no bitmaps".into());
    }
    if node.is_some_and(|n| n.compat.as_deref() == Some("0.10")) {
        return Bitmaps::Unable("a qcow2 image of version 2 (compat=0.10) holds no bitmaps".into());
    }
    let (mut usable, mut broken) = (BTreeSet::new(), Vec::new());
    for checkpoint in checkpoints {
        let Some(bitmap) = checkpoint.bitmaps.get(disk.name.as_str()) else { continue };
        let defect = match node {
            None => Some("QEMU does not show the image"),
            Some(node) => match node.bitmaps.get(bitmap) {
                None => Some("it is missing in the image"),
                Some(bitmap) => defect(bitmap),
            },
        };
        match defect {
            None => {
                usable.insert(checkpoint.name.clone());
            }
            Some(why) => broken.push((checkpoint.name.clone(), why.to_owned())),
        }
    }
    for forgotten in node.iter().flat_map(|n| n.bitmaps.keys()).filter_map(|name| name.parse().ok()) {
        let known = checkpoints.iter().any(|c| c.name == forgotten && c.bitmaps.contains_key(disk.name.as_str()));
        if !known {
            broken.push((forgotten, "libvirt has forgotten its checkpoint".to_owned()));
        }
    }
    Bitmaps::Able { usable, broken }
}

fn defect(bitmap: &Bitmap) -> Option<&'static str> {
    if bitmap.inconsistent {
        Some("it is inconsistent: QEMU ended without storing it")
    } else if !bitmap.recording {
        Some("it is disabled, so writes were missed")
    } else if !bitmap.persistent {
        Some("it is not kept in the image")
    } else if bitmap.busy {
        Some("another job uses it")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use remora_core::DiskName;

    use super::*;
    use crate::definition::SourceKind;
    use crate::qemu;

    fn name(n: u8) -> CheckpointName {
        format!("remora-{}-{}", "ab".repeat(16), format!("{n:02x}").repeat(16)).parse().unwrap()
    }

    fn disk(format: Format) -> DiskDefinition {
        DiskDefinition {
            name: DiskName::new("vda").unwrap(),
            path: "/i".into(),
            kind: SourceKind::File,
            format,
            index: Some(1),
            data_file: None,
        }
    }

    fn node(compat: &str, bitmaps: &str) -> BlockNode {
        let answer = format!(
            r#"{{"return":[{{"node-name":"n","dirty-bitmaps":[{bitmaps}],
               "image":{{"format-specific":{{"data":{{"compat":"{compat}"}}}}}}}}]}}"#
        );
        qemu::parse(&answer).unwrap().remove("n").unwrap()
    }

    fn bitmap(name: &str, flags: &str) -> String {
        format!(r#"{{"name":"{name}","granularity":65536,"count":0,{flags}}}"#)
    }

    const SOUND: &str = r#""recording":true,"persistent":true,"busy":false"#;

    fn checkpoint(n: u8, disk: &str) -> Checkpoint {
        Checkpoint { name: name(n), bitmaps: [(disk.to_owned(), name(n).to_string())].into() }
    }

    fn classified(checkpoints: &[Checkpoint], node: Option<&BlockNode>) -> (Vec<CheckpointName>, Vec<String>) {
        match classify(&disk(Format::Qcow2), checkpoints, node) {
            Bitmaps::Able { usable, broken } => {
                (usable.into_iter().collect(), broken.into_iter().map(|(_, why)| why).collect())
            }
            Bitmaps::Unable(why) => panic!("{why}"),
        }
    }

    #[test]
    fn only_a_sound_bitmap_of_a_known_checkpoint_is_usable() {
        let one = name(1).to_string();
        let cases = [
            (SOUND, None),
            (r#""recording":true,"persistent":true,"busy":false,"inconsistent":true"#, Some("inconsistent")),
            (r#""recording":false,"persistent":true,"busy":false"#, Some("disabled")),
            (r#""recording":true,"persistent":false,"busy":false"#, Some("not kept")),
            (r#""recording":true,"persistent":true,"busy":true"#, Some("another job")),
        ];
        for (flags, broken) in cases {
            let node = node("1.1", &bitmap(&one, flags));
            let (usable, why) = classified(&[checkpoint(1, "vda")], Some(&node));
            match broken {
                None => assert_eq!((usable, why), (vec![name(1)], vec![]), "{flags}"),
                Some(word) => {
                    assert_eq!(usable, [], "{flags}");
                    assert!(why[0].contains(word), "{flags}: {why:?}");
                }
            }
        }
    }

    #[test]
    fn what_only_one_side_knows_is_broken() {
        let (usable, why) = classified(&[checkpoint(1, "vda")], Some(&node("1.1", "")));
        assert!(usable.is_empty() && why[0].contains("missing"), "{why:?}");
        let (usable, why) = classified(&[], Some(&node("1.1", &bitmap(name(1).as_str(), SOUND))));
        assert!(usable.is_empty() && why[0].contains("forgotten"), "{why:?}");
        let (usable, why) = classified(&[checkpoint(1, "vda")], None);
        assert!(usable.is_empty() && why[0].contains("does not show"), "{why:?}");
    }

    #[test]
    fn other_disks_and_foreign_names_do_not_count() {
        let foreign = node("1.1", &bitmap("cp1", SOUND));
        assert_eq!(classified(&[checkpoint(1, "vdb")], Some(&foreign)), (vec![], vec![]));
    }

    #[test]
    fn images_that_hold_no_bitmaps_say_why() {
        let cases = [(Format::Raw, None, "raw"), (Format::Qcow2, Some(node("0.10", "")), "compat=0.10")];
        for (format, node, word) in cases {
            let Bitmaps::Unable(why) = classify(&disk(format), &[], node.as_ref()) else { panic!("{word}") };
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn checkpoints_tell_their_disks_and_foreign_ones_are_left_out() {
        let xml = "<domaincheckpoint><disks><disk name='vda' checkpoint='bitmap' bitmap='other'/>\
                   <disk name='vdb' checkpoint='no'/><disk name='vdc' checkpoint='bitmap'/></disks></domaincheckpoint>";
        let raw = |name: &str| RawCheckpoint { name: name.into(), xml: xml.into() };
        let ours = ours(&[raw("cp1"), raw(name(1).as_str())]);
        let bitmaps = [("vda".to_owned(), "other".to_owned()), ("vdc".to_owned(), name(1).to_string())].into();
        assert_eq!(ours, [Checkpoint { name: name(1), bitmaps }]);
    }
}
