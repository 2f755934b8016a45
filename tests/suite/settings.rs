//! Where settings come from, through the command line: flags, then the environment, then a file.

use std::fs;
use std::path::{Path, PathBuf};

use remora_tests::truth::assert_same;
use remora_tests::{DiskSpec, Lab, MIB, PASSPHRASE, Remora};

/// libvirt's own pretended hypervisor: a libvirt that can be told from the lab's, for its only VM is `test`.
const PRETENDED: &str = "test:///default";

/// Nobody listens there.
const NOWHERE: &str = "qemu+unix:///system?socket=/nonexistent/libvirt-sock";

/// A file that holds a passphrase.
fn passphrase_file(text: &str) -> PathBuf {
    let path = Lab::shared().scratch("passphrase").join("a file\nwith a strange näme");
    fs::write(&path, text).unwrap();
    path
}

/// The folder of configuration files with this one in it, and `remora` that finds it there and knows nothing else.
fn configured(lab: &Lab, text: &str) -> Remora {
    let folder = lab.scratch("configuration");
    fs::create_dir(folder.join("remora")).unwrap();
    fs::write(folder.join("remora/config.toml"), text).unwrap();
    let bare = Remora::new(lab, "/").without("REMORA_CONFIG").with("XDG_CONFIG_HOME", folder);
    bare.without("REMORA_REPO").without("REMORA_KEY_FILE").without("LIBVIRT_DEFAULT_URI")
}

#[test]
fn a_passphrase_file_opens_a_repository_for_every_command_and_a_wrong_one_does_not() {
    let lab = Lab::shared();
    let domain = lab.domain("by passphrase file").disk(DiskSpec::qcow2("vda", MIB)).paused();
    domain.write("vda", 0x5a, 0, 128 * 1024);
    let right = passphrase_file(&format!("{PASSPHRASE}\n"));
    let other = passphrase_file(&format!("{PASSPHRASE}!\n"));
    let bare = Remora::new(lab, lab.scratch("repository").join("repo")).without("REMORA_KEY_FILE");
    let by_variable = bare.clone().with("REMORA_PASSPHRASE_FILE", &right);
    let flag = |file: &Path| ["--passphrase-file".to_owned(), file.to_str().unwrap().to_owned()];
    let with_flag = |file: &Path, args: &[&str]| {
        bare.run(args.iter().map(|&arg| arg.to_owned()).chain(flag(file)).collect::<Vec<_>>())
    };

    with_flag(&right, &["repo", "init"]).ok();
    let made = by_variable.json(["backup", domain.name(), "--quiesce", "never"]);
    let id = made["point"].as_str().unwrap();
    let to = lab.scratch("restored").join("vda.raw");
    let restore = ["restore", id, "--disk", "vda", "--to", to.to_str().unwrap()];
    assert_eq!(with_flag(&other, &restore).code(), 5);
    assert!(!to.exists());
    with_flag(&right, &restore).ok();
    assert_same(&to, &domain.truth("vda"));
    // It is the passphrase, without the line's end, that the file holds.
    bare.clone().with("REMORA_PASSPHRASE", PASSPHRASE).ok(["points"]);

    let by_other = bare.clone().with("REMORA_PASSPHRASE_FILE", &other);
    for args in [&["points"][..], &["backup", domain.name()]] {
        for ran in [by_other.run(args), with_flag(&other, args)] {
            assert_eq!(ran.code(), 5, "{ran:?}");
            assert!(ran.stderr.contains("passphrase opens none of its key slots"), "{ran:?}");
            assert!(ran.stderr.contains("\n  → ") && ran.stdout.is_empty(), "{ran:?}");
            assert!(!ran.stderr.contains(PASSPHRASE), "{ran:?}");
        }
    }
    assert_eq!(by_variable.json(["points"]).as_array().unwrap().len(), 1);
    // The flag goes before the variables, and the passphrase itself before its file.
    by_other.ok([&["points".to_owned()][..], &flag(&right)].concat());
    assert_eq!(by_variable.run([&["points".to_owned()][..], &flag(&other)].concat()).code(), 5);
    by_other.with("REMORA_PASSPHRASE", PASSPHRASE).ok(["points"]);
}

#[test]
fn a_configuration_file_is_found_and_goes_last() {
    let lab = Lab::shared();
    let domain = lab.domain("configured").disk(DiskSpec::qcow2("vda", MIB)).paused();
    let backup = ["backup", domain.name(), "--quiesce", "never"];
    // Paths are relative to its folder.
    let config = format!("repo = \"repo\"\npassphrase_file = \"passphrase\"\nconnect = {:?}\n", lab.uri());
    let bare = configured(lab, &config);
    let folder = bare.variable("XDG_CONFIG_HOME").join("remora");
    fs::write(folder.join("passphrase"), PASSPHRASE).unwrap();
    bare.ok(["repo", "init"]);
    bare.ok(backup);
    assert_eq!(bare.json(["points"]).as_array().unwrap().len(), 1);
    assert!(folder.join("repo/remora.json").is_file());

    // Another repository, with another passphrase, from the environment; and a third one from the flags.
    let [second, third] = ["second", "third"].map(|name| lab.scratch(name).join("repo"));
    let [second_file, third_file] = ["the second one", "the third one"].map(passphrase_file);
    let by_variables = bare.with("REMORA_REPO", &second).with("REMORA_PASSPHRASE_FILE", &second_file);
    by_variables.ok(["repo", "init"]);
    assert!(second.join("remora.json").is_file());
    let flags = ["--repo", third.to_str().unwrap(), "--passphrase-file", third_file.to_str().unwrap()];
    by_variables.ok([&["repo", "init"][..], &flags].concat());
    by_variables.ok([&backup[..], &flags].concat());
    assert_eq!(by_variables.json(["points"]).as_array().unwrap().len(), 0);
    assert_eq!(by_variables.json([&["points"][..], &flags].concat()).as_array().unwrap().len(), 1);
}

#[test]
fn the_hypervisor_is_the_flags_then_the_variables_then_the_files() {
    let lab = Lab::shared();
    let domain = lab.domain("connected").disk(DiskSpec::qcow2("vda", MIB)).paused();
    let key = Remora::init(lab);
    let (repo, key) = (key.repository(), key.variable("REMORA_KEY_FILE"));
    let with_file = |uri: &str| configured(lab, &format!("repo = {repo:?}\nkey_file = {key:?}\nconnect = {uri:?}\n"));
    let backup = ["backup", domain.name(), "--quiesce", "never"];
    // From another libvirt than the lab's: it is named, and what VMs it has.
    let pretended = |remora: &Remora, extra: &[&str]| {
        let ran = remora.fails([&backup[..], extra].concat(), 3, "\"connected\" in test:///default");
        assert!(ran.stderr.contains("It has these: \"test\""), "{ran:?}");
    };
    let unreachable = |remora: &Remora, extra: &[&str]| {
        remora.fails([&backup[..], extra].concat(), 9, "/nonexistent/libvirt-sock");
    };

    with_file(lab.uri()).ok(backup);
    pretended(&with_file(PRETENDED), &[]);
    unreachable(&with_file(NOWHERE), &[]);
    // Each one goes before all that come after it, which are wrong here.
    with_file(NOWHERE).with("LIBVIRT_DEFAULT_URI", lab.uri()).ok(backup);
    pretended(&with_file(NOWHERE).with("LIBVIRT_DEFAULT_URI", PRETENDED), &[]);
    let both = with_file(NOWHERE).with("LIBVIRT_DEFAULT_URI", NOWHERE);
    both.clone().with("REMORA_CONNECT", lab.uri()).ok(backup);
    pretended(&both.clone().with("REMORA_CONNECT", PRETENDED), &[]);
    let all = both.with("REMORA_CONNECT", NOWHERE);
    all.ok([&backup[..], &["--connect", lab.uri()]].concat());
    pretended(&all, &["--connect", PRETENDED]);
    unreachable(&all, &[]);
}
