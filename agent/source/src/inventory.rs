//! Which VMs there are, with what policies may know of them.

use std::collections::BTreeMap;

use remora_core::policy::VmFacts;
use remora_core::{Error, Result, VmName};
use roxmltree::{Document, Node};
use virt::connect::Connect;
use virt::error::ErrorNumber;

use crate::connection::{Repeat, USUAL};
use crate::source::LibvirtSource;

/// The namespace of a VM's labels in its definition:
/// `virsh metadata VM https://remora.dev/labels --key remora --set '<labels><label key="backup">nightly</label></labels>'`.
const LABELS: &str = "https://remora.dev/labels";

/// A VM of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What policies may know of it.
    pub facts: VmFacts,
    /// Whether it runs, or is paused.
    pub running: bool,
}

/// The VMs of this host.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Those of which all is known, sorted by name.
    pub found: Vec<Found>,
    /// Why others are not among them: each error names its VM.
    pub unreadable: Vec<Error>,
}

/// A domain as libvirt tells of it: name, UUID, definition, and whether it is active.
type Seen = (String, String, String, bool);

impl LibvirtSource {
    /// All VMs; those that are shut off too.
    pub async fn inventory(&self) -> Result<Inventory> {
        let look = |connection: &Connect| {
            let mut found = Vec::new();
            for domain in connection.list_all_domains(0)? {
                let seen = (|| {
                    Ok((domain.get_name()?, domain.get_uuid_string()?, domain.get_xml_desc(0)?, domain.is_active()?))
                })();
                match seen {
                    Ok(seen) => found.push(seen),
                    // It went since it was listed.
                    Err(error) if virt::error::Error::code(&error) == ErrorNumber::NoDomain => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(found)
        };
        let seen = self.libvirt.call(USUAL, Repeat::Safe, look).await;
        let seen = seen.map_err(|error| error.while_doing(format_args!("looking at the VMs of {}", self.uri())))?;
        Ok(known(seen))
    }
}

/// What policies may know of each; one that cannot be read hides no other.
fn known(seen: Vec<Seen>) -> Inventory {
    let mut known = Inventory::default();
    for (name, uid, xml, running) in seen {
        let Ok(name) = VmName::new(name) else { continue };
        match labels(&xml) {
            Ok(labels) => {
                let facts = VmFacts { name, namespace: String::new(), uid, labels };
                known.found.push(Found { facts, running });
            }
            Err(error) => known.unreadable.push(error.within(format_args!("VM {:?}", name.as_str()))),
        }
    }
    known.found.sort_by(|a, b| a.facts.name.cmp(&b.facts.name));
    known
}

/// The labels that a definition has.
fn labels(xml: &str) -> Result<BTreeMap<String, String>> {
    let failed = |e| Error::new(remora_core::ErrorKind::Failed, "reading the domain's definition").because(e);
    let document = Document::parse(xml).map_err(failed)?;
    let named = |node: &Node<'_, '_>, name: &str| node.is_element() && node.tag_name().name() == name;
    let metadata = document.root_element().children().find(|node| named(node, "metadata"));
    let ours = metadata.iter().flat_map(Node::children).filter(|node| node.tag_name().namespace() == Some(LABELS));
    let label = |node: Node<'_, '_>| {
        let value = node.text().unwrap_or_default().trim().to_owned();
        Some((node.attribute("key")?.to_owned(), value))
    };
    Ok(ours.flat_map(|node| node.children()).filter(|node| named(node, "label")).filter_map(label).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LibvirtOptions;

    #[test]
    fn labels_are_those_of_our_namespace() {
        let xml = "<domain><name>a</name><metadata>
            <other:labels xmlns:other='https://example.org/x'><label key='backup'>no</label></other:labels>
            <remora:labels xmlns:remora='https://remora.dev/labels'>
              <remora:label key='backup'> nightly </remora:label><label key='empty'/><label>lost</label></remora:labels>
            </metadata></domain>";
        let expected = [("backup", "nightly"), ("empty", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(labels(xml).unwrap(), BTreeMap::from(expected));
        assert_eq!(labels("<domain/>").unwrap(), BTreeMap::new());
        assert!(labels("<domain>").is_err());
    }

    #[test]
    fn a_definition_that_cannot_be_read_hides_no_other_vm() {
        let seen = |name: &str, xml: &str| (name.to_owned(), "uid".to_owned(), xml.to_owned(), true);
        let Inventory { found, unreadable } =
            known(vec![seen("web", "<domain/>"), seen("broken", "<domain>"), seen("db", "<domain/>")]);
        assert_eq!(found.iter().map(|vm| vm.facts.name.as_str()).collect::<Vec<_>>(), ["db", "web"]);
        let told: Vec<_> = unreadable.iter().map(Error::chain).collect();
        assert!(told.len() == 1 && told[0].starts_with("VM \"broken\": reading"), "{told:?}");
    }

    #[tokio::test]
    async fn every_vm_is_there_with_its_uuid() {
        let options = LibvirtOptions { connect: Some("test:///default".into()), ..LibvirtOptions::new(Vec::new()) };
        let Inventory { found, unreadable } = LibvirtSource::new(options).unwrap().inventory().await.unwrap();
        assert!(unreadable.is_empty(), "{unreadable:?}");
        assert_eq!((found.len(), found[0].facts.name.as_str(), found[0].running), (1, "test", true));
        assert_eq!(found[0].facts.uid.len(), 36);
    }
}
