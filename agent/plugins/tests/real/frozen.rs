//! Released versions of `wit/` never change: a component that was built against one must load with every later host.

use std::collections::BTreeMap;
use std::fs;

use remora_plugins::Digest;
use wit_component::WitPrinter;
use wit_parser::{Docs, Interface, Resolve, Type, TypeDefKind};

use super::components::wit;

/// Each released version, and the digest of its interfaces as `wit-component` prints them without their comments. To release
/// a version, add a line; a line that is here never changes.
const RELEASED: [(&str, &str, &str); 3] = [
    ("mover", "0.1.0", "f009b47446da5c8fd2edfe0146f4d3dfdcfdf6a7e0fdc127a680e07de120b750"),
    ("policy", "0.1.0", "2999822865bce3828f74d99c4a8414da3e5b8f9e3671dc5f4d32a0710445d69b"),
    ("policy", "0.2.0", "c9f429232e465a2af3740736db24edd49e2f0a1dc15710c28a1941ec38947a66"),
];

#[test]
fn what_was_released_stays_as_it_was() {
    let mut found = BTreeMap::new();
    for package in fs::read_dir(wit()).unwrap() {
        for version in fs::read_dir(package.unwrap().path()).unwrap() {
            let folder = version.unwrap().path();
            let mut resolve = Resolve::default();
            let (id, _) = resolve.push_dir(&folder).unwrap_or_else(|e| panic!("{}: {e:#}", folder.display()));
            let name = resolve.packages[id].name.clone();
            let version = name.version.as_ref().unwrap().to_string();
            let named = folder.strip_prefix(wit()).unwrap().to_str().unwrap();
            assert_eq!(format!("{}/{version}", name.name), named, "the package says another name than its folder");
            // A tool that takes it in its binary form must take it too.
            wit_component::encode(&resolve, id).unwrap();
            let mut printer = WitPrinter::default();
            printer.emit_docs(false);
            printer.print(&resolve, id, &[]).unwrap();
            let text = printer.output.to_string();
            found.insert((name.name, version), Digest::of(text.as_bytes()).to_string());
        }
    }
    let released = RELEASED.map(|(package, version, digest)| ((package.into(), version.into()), digest.into()));
    assert_eq!(found, BTreeMap::from(released));
}

/// Whoever writes a component has nothing but these files: everything in them says what it is, with units and limits.
#[test]
fn everything_that_can_be_said_or_called_has_a_comment() {
    let (mut silent, mut all) = (Vec::new(), 0);
    for package in fs::read_dir(wit()).unwrap() {
        for version in fs::read_dir(package.unwrap().path()).unwrap() {
            let mut resolve = Resolve::default();
            let (id, _) = resolve.push_dir(version.unwrap().path()).unwrap();
            let package = &resolve.packages[id];
            let mut look = |what: String, docs: &Docs| {
                all += 1;
                if docs.contents.as_deref().is_none_or(|text| text.trim().is_empty()) {
                    silent.push(format!("{}: {what}", package.name));
                }
            };
            look("the package".into(), &package.docs);
            for (name, world) in &package.worlds {
                look(format!("world {name}"), &resolve.worlds[*world].docs);
            }
            for (name, interface) in &package.interfaces {
                let interface = &resolve.interfaces[*interface];
                look(format!("interface {name}"), &interface.docs);
                look_into(&resolve, interface, &mut |what: String, docs: &Docs| look(format!("{name}.{what}"), docs));
            }
        }
    }
    assert_eq!(silent, [""; 0]);
    assert!(all > 200, "{all} things were looked at");
}

/// Looks at the functions and types of an interface, and at all that these have.
fn look_into(resolve: &Resolve, interface: &Interface, look: &mut dyn FnMut(String, &Docs)) {
    for (name, function) in &interface.functions {
        look(name.clone(), &function.docs);
    }
    for (name, id) in &interface.types {
        let of = &resolve.types[*id];
        let mut part = |part: &str, docs: &Docs| look(format!("{name}.{part}"), docs);
        match &of.kind {
            // Another interface's, which says there what it is.
            TypeDefKind::Type(Type::Id(_)) => continue,
            TypeDefKind::Record(record) => record.fields.iter().for_each(|field| part(&field.name, &field.docs)),
            TypeDefKind::Variant(variant) => variant.cases.iter().for_each(|case| part(&case.name, &case.docs)),
            TypeDefKind::Enum(of) => of.cases.iter().for_each(|case| part(&case.name, &case.docs)),
            TypeDefKind::Flags(flags) => flags.flags.iter().for_each(|flag| part(&flag.name, &flag.docs)),
            _ => {}
        }
        look(name.clone(), &of.docs);
    }
}
