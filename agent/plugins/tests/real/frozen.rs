//! Released versions of `wit/` never change: a component that was built against one must load with every later host.

use std::collections::BTreeMap;
use std::fs;

use remora_plugins::Digest;
use wit_component::WitPrinter;
use wit_parser::Resolve;

use super::components::wit;

/// Each released version, and the digest of its interfaces as `wit-component` prints them without their comments. To release
/// a version, add a line; a line that is here never changes.
const RELEASED: [(&str, &str, &str); 2] = [
    ("mover", "0.1.0", "f009b47446da5c8fd2edfe0146f4d3dfdcfdf6a7e0fdc127a680e07de120b750"),
    ("policy", "0.1.0", "2999822865bce3828f74d99c4a8414da3e5b8f9e3671dc5f4d32a0710445d69b"),
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
