//! The SDK's languages: the access policy of the examples says in each what its golden cases want, and what `remora plugin new`
//! makes is built and works. All through the command line, so in the host that runs policies and movers in production.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use remora_tests::languages::component;
use remora_tests::{Language, Ran, Remora, run, tool};
use tempfile::TempDir;

use crate::documented::the_documented;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// `remora` that opens no repository, in a folder of its own.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn remora<const N: usize>(&self, args: [&str; N]) -> Ran {
        run(Remora::bare(self.dir.path(), "/nowhere").command(args).current_dir(self.dir.path()))
    }

    fn json<const N: usize>(&self, args: [&str; N]) -> serde_json::Value {
        self.remora(args).ok().json()
    }
}

/// The access policy of the examples in this language holds what every policy must hold, and says what its cases want.
#[track_caller]
fn access_policy_says_what_its_cases_want(language: Language) {
    let root = repository();
    let sdk = root.join("sdk").join(language.name());
    let example = root.join(format!("sdk/examples/acl-{}", language.name()));
    let acl = component(language, &example, None, &[&sdk, &root.join("wit/policy")]);
    let place = Place::new();
    fs::copy(acl, place.at("acl.wasm")).unwrap();
    for file in ["access.yaml", "cases.yaml", "refused.yaml", "settings.yaml"] {
        fs::copy(root.join("sdk/examples/acl").join(file), place.at(file)).unwrap();
    }

    let report = place.json([
        "plugin",
        "test",
        "acl.wasm",
        "--settings",
        "settings.yaml",
        "--refused",
        "refused.yaml",
        "--cases",
        "cases.yaml",
        "--questions",
        "20",
        "-ojson",
    ]);

    let names: Vec<_> =
        report["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    let cases = fs::read_to_string(place.at("cases.yaml")).unwrap().matches("\n- name: ").count();
    let asked = names.iter().filter(|name| name.starts_with("golden cases of cases.yaml: ")).count();
    assert!(cases > 10 && asked == cases, "{asked} of {cases} cases: {names:?}");
    let refused = names.iter().filter(|name| name.starts_with("authorize: refuses {")).count();
    assert_eq!(refused, 3, "{names:?}");
    let version = if language == Language::Rust { "0.2.0" } else { "0.1.0" };
    assert_eq!(report["exports"], serde_json::json!([format!("remora:policy/authorize@{version}")]));
}

/// The tool that authors of other languages have reads what they build against.
#[test]
fn wasm_tools_takes_each_version_of_the_interfaces() {
    let mut taken = Vec::new();
    for package in ["mover", "policy"] {
        for version in fs::read_dir(repository().join("wit").join(package)).unwrap() {
            let folder = version.unwrap().path();
            let version = folder.file_name().unwrap().to_str().unwrap();
            let mut wasm_tools = Command::new(tool("wasm-tools", "setup-languages"));
            let printed = run(wasm_tools.args(["component", "wit"]).arg(&folder)).ok();
            let named = format!("package remora:{package}@{version};");
            assert!(printed.text().contains(&named), "{named}: {}", printed.text());
            taken.push(named);
        }
    }
    assert!(taken.len() >= 2, "{taken:?}");
}

/// A policy is 20 lines with the macros of the SDK: the template is a whole one.
#[test]
fn a_policy_in_rust_is_twenty_lines() {
    let text = fs::read_to_string(repository().join("sdk/templates/rust-policy/src/lib.rs")).unwrap();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    assert!((1..=20).contains(&lines.count()), "{text}");
}

#[test]
fn the_lock_of_npm_names_no_registry_and_every_digest() {
    let lock = fs::read(repository().join("sdk/examples/acl-javascript/package-lock.json")).unwrap();
    let lock: serde_json::Value = serde_json::from_slice(&lock).unwrap();
    // But for the project itself, which has no name there.
    for (name, package) in lock["packages"].as_object().unwrap().iter().filter(|(name, _)| !name.is_empty()) {
        assert!(package["resolved"].is_null() && package["integrity"].is_string(), "{name}: {package}");
    }
}

/// One language after another: a call has 100 ms of a processor, and compiling takes much memory.
#[test]
fn the_access_policy_says_in_each_language_what_its_cases_want() {
    for language in [Language::Rust, Language::JavaScript, Language::Python, Language::Go] {
        println!("in {}", language.name());
        access_policy_says_what_its_cases_want(language);
    }
}

/// Makes a plugin with `remora plugin new`.
#[track_caller]
fn new_plugin(place: &Place, language: Language, kind: &str) {
    let made = place.json(["plugin", "new", language.name(), kind, "acme-1", "-ojson"]);
    the_documented("remora plugin new LANGUAGE KIND NAME").assert_of(&made);
    for file in made["files"].as_array().unwrap() {
        assert!(place.at("acme-1").join(file.as_str().unwrap()).is_file(), "{file}");
    }
    if language == Language::Rust {
        // The versions that are known to be there; else the newest ones are taken.
        fs::copy(repository().join("policies/Cargo.lock"), place.at("acme-1/Cargo.lock")).unwrap();
    }
}

/// Builds it as its README says.
#[track_caller]
fn build(place: &Place, language: Language) {
    let built = component(language, &place.at("acme-1"), Some("acme-1.wasm"), &[]);
    fs::copy(built, place.at("acme-1/acme-1.wasm")).unwrap();
}

#[track_caller]
fn new_policy_works(language: Language) {
    let place = Place::new();
    new_plugin(&place, language, "policy");
    build(&place, language);
    assert_eq!(passed(&place), 2);
}

/// How many of its cases pass, which must be all.
#[track_caller]
fn passed(place: &Place) -> u64 {
    let tested = place.json(["policy", "test", "acme-1/cases.yaml", "-ojson"]);
    tested["passed"].as_u64().unwrap()
}

#[test]
fn a_new_policy_in_rust_is_built_and_passes_its_cases() {
    new_policy_works(Language::Rust);
}

#[test]
fn a_new_policy_in_javascript_is_built_and_passes_its_cases() {
    new_policy_works(Language::JavaScript);
}

#[test]
fn a_new_policy_in_python_is_built_and_passes_its_cases() {
    new_policy_works(Language::Python);
}

#[test]
fn a_new_policy_in_go_is_built_and_passes_its_cases() {
    new_policy_works(Language::Go);
}

/// A policy that selects, schedules and keeps: what the SDK makes of each kind of value in questions and answers.
#[track_caller]
fn decides_on_all_that_a_backup_policy_asks(language: Language, source: &str) {
    let place = Place::new();
    new_plugin(&place, language, "policy");
    let every = repository().join("tests/languages/every");
    for (file, to) in [
        (source, source),
        ("policy.yaml", "policy.yaml"),
        ("cases.yaml", "cases.yaml"),
        ("every.wit", "remora/wit/policy/0.1.0/every.wit"),
    ] {
        fs::copy(every.join(file), place.at("acme-1").join(to)).unwrap();
    }
    let script = place.at("acme-1/build");
    let of_its_world = fs::read_to_string(&script).unwrap().replace("selector", "every");
    fs::write(&script, of_its_world).unwrap();
    build(&place, language);
    assert_eq!(passed(&place), 8);
}

#[test]
fn a_policy_in_javascript_decides_on_all_that_a_backup_policy_asks() {
    decides_on_all_that_a_backup_policy_asks(Language::JavaScript, "policy.js");
}

#[test]
fn a_policy_in_python_decides_on_all_that_a_backup_policy_asks() {
    decides_on_all_that_a_backup_policy_asks(Language::Python, "policy.py");
}

#[test]
fn a_policy_in_go_decides_on_all_that_a_backup_policy_asks() {
    decides_on_all_that_a_backup_policy_asks(Language::Go, "policy.go");
}

#[test]
fn a_new_mover_is_built_and_holds_what_a_mover_must() {
    let place = Place::new();
    new_plugin(&place, Language::Rust, "mover");
    build(&place, Language::Rust);
    fs::write(place.at("token"), "a token").unwrap();
    let report = place.json([
        "plugin",
        "check",
        "acme-1/acme-1.wasm",
        "--settings",
        "acme-1/settings.yaml",
        "--secret",
        "token=token",
        "-ojson",
    ]);
    assert!(report["passed"].as_u64() > Some(2), "{report}");
}

#[test]
fn a_new_plugin_takes_nobodys_place_and_leaves_nothing_when_refused() {
    let place = Place::new();
    fs::write(place.at("there"), "mine").unwrap();
    let refused = place.remora(["plugin", "new", "go", "policy", "there"]);
    assert!(refused.code() != 0 && refused.stderr.contains("there is there already"), "{refused:?}");
    assert_eq!(fs::read_to_string(place.at("there")).unwrap(), "mine");

    for name in ["../out", "Acme", "-x", "", "a/b", "ä"] {
        let refused = place.remora(["plugin", "new", "--", "go", "policy", name]);
        assert!(refused.code() != 0 && refused.stderr.contains("lower-case letter"), "{name:?}: {refused:?}");
    }
    let refused = place.remora(["plugin", "new", "python", "mover", "acme"]);
    assert!(refused.code() != 0 && refused.stderr.contains("in Rust only"), "{refused:?}");
    let left: Vec<_> = fs::read_dir(place.at("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["there"], "and no more");
}
