//! A repository on a real WebDAV server, behind the mover of the SDK's example.

use std::fs;

use remora_tests::files::random_bytes;
use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Lab, MIB, Plugin, Remora, Transport, WebDav};

use super::{check, walk};

#[test]
fn a_vm_goes_to_a_webdav_server_and_comes_back() {
    let domain = Lab::shared().domain("on webdav").disk(DiskSpec::qcow2("vda", 64 * MIB)).paused();
    let server = WebDav::start(Transport::Http);
    let plugin = Plugin::of_webdav(&server);
    let remora = Remora::new(Lab::shared(), plugin.url("a/repository")).with("REMORA_PLUGINS", plugin.folder());
    remora.ok(["repo", "init"]);
    domain.write_bytes("vda", 0, &random_bytes("webdav", 40 << 20));
    let mut points = Vec::new();
    for wanted in ["full", "incremental"] {
        let truth = domain.truth("vda");
        let report = remora.json(["backup", domain.name(), "--quiesce", "never"]);
        assert_eq!(report["decision"], wanted, "{report:#}");
        points.push((report["point"].as_str().unwrap().to_owned(), truth));
        domain.write_bytes("vda", 20 * MIB, &random_bytes("more", 1 << 20));
    }
    for (point, truth) in &points {
        let to = Lab::shared().scratch("restored").join("vda.raw");
        remora.ok(["restore", point, "--disk", "vda", "--to", to.to_str().unwrap()]);
        assert_same(&to, truth);
        fs::remove_file(to).unwrap();
    }
    let verified = remora.json(["verify"]);
    assert!(verified.as_array().unwrap().iter().all(|point| point["ok"] == true), "{verified:#}");
    assert_eq!(remora.json(["repo", "status"])["points"], 2);
    let mut uploads = Vec::new();
    walk(&server.files().join("a/repository/~new"), &mut |path| uploads.push(path.to_owned()));
    assert_eq!(uploads, Vec::<std::path::PathBuf>::new());
}

#[test]
fn doctor_finds_on_a_webdav_server_all_that_a_vault_needs() {
    let server = WebDav::start(Transport::Http);
    let plugin = Plugin::of_webdav(&server);
    let remora = Remora::new(Lab::shared(), plugin.url("")).with("REMORA_PLUGINS", plugin.folder());
    let report = remora.json(["doctor", plugin.url("").as_str()]);
    for name in ["create-only PUT", "ranged GET", "list after write", "clock", "delete"] {
        assert_eq!(check(&report, &format!("store: {name}"))["ok"], true, "{report:#}");
    }
    let parts = check(&report, "store: multipart");
    assert_eq!((&parts["ok"], &parts["optional"]), (&false.into(), &true.into()), "{report:#}");
    let mut left = Vec::new();
    walk(&server.files(), &mut |path| left.push(path.file_name().unwrap().to_owned()));
    assert_eq!(left, ["create-only"]);
}
