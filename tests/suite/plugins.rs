//! `remora plugin`, and a repository that a mover keeps in a form of its own, through the command line.

use std::fs;

use remora_tests::appliance::{Lie, TOKEN};
use remora_tests::process::run_with_input;
use remora_tests::truth::assert_same;
use remora_tests::{Appliance, DiskSpec, Lab, MIB, Plugin, Remora};
use serde_json::{Value, json};

use crate::documented::the_documented;

/// A folder with the settings and the token of the plain mover in it, and what `remora plugin` is told of them.
fn plain(command: &str) -> (std::path::PathBuf, Vec<String>) {
    told(command, "plain", "canary-5fd1b2")
}

/// The same of any mover that wants an endpoint and a token.
fn told(command: &str, mover: &str, token: &str) -> (std::path::PathBuf, Vec<String>) {
    let folder = Lab::shared().scratch("plugin");
    fs::write(folder.join("settings.yaml"), "endpoint: '{endpoint}'\n").unwrap();
    fs::write(folder.join("token"), format!("{token}\n")).unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    let args = vec![
        "plugin".into(),
        command.into(),
        Plugin::component(mover).display().to_string(),
        "--settings".into(),
        file("settings.yaml"),
        "--secret".into(),
        format!("token={}", file("token")),
    ];
    (folder, args)
}

#[test]
fn a_mover_is_tried_and_the_report_is_the_documented_one() {
    let bare = Remora::new(Lab::shared(), "/nowhere").without("REMORA_REPO");
    let (folder, mut args) = plain("test");
    let kept = folder.join("report.json");
    args.extend(["--json".into(), kept.display().to_string()]);
    let report = bare.json(&args);
    the_documented("remora plugin check FILE").assert_of(&report);
    assert_eq!(report["failed"], 0, "{report:#}");
    let written: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    assert_eq!(written, report);
    let ran = bare.ok(plain("bench").1);
    assert!(ran.text().contains("storing 4 MiB, p50"), "{ran:?}");
    let ran = bare.ok(plain("check").1);
    assert!(ran.text().contains("ok       takes its settings and opens"), "{ran:?}");
    assert!(ran.text().contains("tried    remora:mover/objects@0.1.0"), "{ran:?}");
}

#[test]
fn a_movers_secret_may_come_from_a_pipe() {
    let bare = Remora::new(Lab::shared(), "/nowhere").without("REMORA_REPO");
    let (_, mut args) = plain("check");
    args.pop();
    args.push("token=/dev/stdin".into());
    let ran = run_with_input(&mut bare.command(args), b"canary-5fd1b2\n").ok();
    assert!(ran.text().contains("ok       takes its settings and opens"), "{ran:?}");
}

#[test]
fn a_mover_of_points_is_tried_before_an_array_and_not_without_one() {
    let bare = Remora::new(Lab::shared(), "/nowhere").without("REMORA_REPO");
    let appliance = Appliance::start();
    let upstream = ["--upstream".to_owned(), format!("http://{}", appliance.address())];
    let args = |command| told(command, "appliance", TOKEN).1;
    let report = bare.json([args("test"), upstream.to_vec()].concat());
    the_documented("remora plugin check FILE").assert_of(&report);
    assert!(report["failed"] == 0 && report["skipped"] == 0, "{report:#}");
    let ran = bare.ok([args("bench"), upstream.to_vec()].concat());
    assert!(ran.text().contains("making a point of 4 MiB, read back, p50"), "{ran:?}");
    bare.ok(args("check"));
    bare.fails(args("test"), 2, "--upstream is to name a server");
}

#[test]
fn a_component_that_fails_a_check_is_exit_code_1_and_what_is_none_is_2() {
    let bare = Remora::new(Lab::shared(), "/nowhere").without("REMORA_REPO");
    let hostile = Plugin::component("hostile").display().to_string();
    let ran = bare.fails(["plugin", "test", &hostile], 1, "checks failed");
    assert!(ran.text().contains("FAILED"), "{ran:?}");
    let folder = Lab::shared().scratch("plugin");
    let other = folder.join("other.wasm");
    fs::write(&other, "no component").unwrap();
    bare.fails(["plugin", "check", other.to_str().unwrap()], 2, "no WebAssembly component");
    bare.fails(["plugin", "check", folder.join("none.wasm").to_str().unwrap()], 3, "none.wasm");
    bare.fails(["plugin", "check", folder.to_str().unwrap()], 2, "Name the file NAME.wasm in it");
    bare.fails(["plugin", "test", &hostile, "--upstream", "https://127.0.0.1:1"], 2, "--upstream");
    bare.fails(["plugin", "test", &hostile, "--cases", "x.yaml"], 2, "it is a mover");
}

/// The policy spends more than 5 µs on each decision, and does nothing else wrong.
#[test]
fn what_is_over_its_budget_is_told_and_fails_who_is_strict() {
    let bare = Remora::new(Lab::shared(), "/nowhere").without("REMORA_REPO");
    let settings = Lab::shared().scratch("plugin").join("settings.yaml");
    fs::write(&settings, "misbehave: dawdle in authorize\n").unwrap();
    let (component, settings) = (Plugin::component("hostile-policy"), settings.display().to_string());
    let component = component.display().to_string();
    let told = |command| ["plugin", command, &component, "--settings", &settings, "--questions", "50"];
    let assert_over = |report: &Value| {
        the_documented("remora plugin check FILE").assert_of(report);
        let warm = report["figures"].as_array().unwrap().iter().find(|figure| figure["name"] == WARM).unwrap();
        assert_eq!((&report["failed"], &warm["budget"], &warm["over"]), (&json!(0), &json!(5.0), &json!(true)));
    };
    assert_over(&bare.json(told("test")));
    let strict = ["--strict", "-o", "json"];
    assert_over(&bare.fails(told("test").iter().chain(&strict), 1, "figures are over their budgets").json());
    let ran = bare.fails(told("bench").iter().chain(&["--strict"]), 1, "figures are over their budgets");
    assert!(ran.text().contains(&format!("{WARM}: ")) && ran.text().contains(", OVER its budget of 5"), "{ran:?}");
    // Without a budget nothing is measured against one.
    bare.ok(told("check").iter().chain(&["--strict"]));
}

const WARM: &str = "authorize: a question, warm, p50";

#[test]
fn a_movers_memory_has_a_budget_which_the_plain_one_keeps() {
    let bare = Remora::new(Lab::shared(), "/nowhere").without("REMORA_REPO");
    let (_, mut args) = plain("test");
    args.push("--strict".into());
    let report = bare.json(&args);
    let budgets = report["figures"].as_array().unwrap().iter().filter(|figure| !figure["budget"].is_null());
    let budgets: Vec<_> = budgets.map(|figure| json!([figure["name"], figure["budget"], figure["over"]])).collect();
    assert_eq!(budgets, [json!(["memory of its process, at most", 256.0, false])]);
}

#[test]
fn a_vm_goes_into_a_movers_own_form_and_comes_back() {
    let lab = Lab::shared();
    let domain = lab.domain("on an array").disk(DiskSpec::qcow2("vda", 32 * MIB)).paused();
    let appliance = Appliance::start();
    let plugin = Plugin::of_appliance(&appliance, "on an *");
    let remora = Remora::new(lab, "plugin:array").with("REMORA_PLUGINS", plugin.folder());
    domain.write("vda", 0x5a, 3 * MIB, 5 * MIB);
    let mut expected = Vec::new();
    for decision in ["full", "incremental"] {
        let truth = domain.truth("vda");
        let report = remora.json(["backup", domain.name(), "--quiesce", "never"]);
        assert_eq!(report["decision"], decision, "{report:#}");
        expected.push((report["point"].as_str().unwrap().to_owned(), truth));
        domain.write("vda", 0x17, 20 * MIB, MIB);
    }
    assert!(appliance.seen("unchanged") > 0);
    let listed = remora.json(["points"]);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed:#}");
    for (point, truth) in &expected {
        let to = lab.scratch("restored").join("vda.raw");
        remora.ok(["restore", point, "--disk", "vda", "--to", to.to_str().unwrap()]);
        assert_same(&to, truth);
        assert_eq!(remora.json(["show", point])["point"], point.as_str());
    }
    let before = appliance.seen("listing");
    let verified = remora.json(["verify"]);
    assert_eq!(appliance.seen("listing"), before + 1, "everything is listed once, however many points there are");
    assert!(verified.as_array().unwrap().iter().all(|point| point["ok"] == true), "{verified:#}");
    // What was changed on the array is noticed, and no file is left of it.
    appliance.rot(&appliance.disks_of(&expected[0].0), 0, 4 << 20);
    let to = lab.scratch("damaged").join("vda.raw");
    remora.fails(["restore", &expected[0].0, "--disk", "vda", "--to", to.to_str().unwrap()], 7, "than were stored");
    assert!(!to.exists());
    remora.fails(["verify", &expected[0].0], 7, "points are damaged");
    remora.fails(["verify", "--repair"], 6, "remora's own format");
    // Neither does a lie become a point, nor is the machine kept from its next backup by it.
    appliance.lie(Lie::ForgetWrites);
    remora.fails(["backup", domain.name(), "--quiesce", "never"], 7, "other bytes are there");
    appliance.lie(Lie::None);
    assert_eq!(remora.json(["points"]).as_array().unwrap().len(), 2);
    remora.ok(["backup", domain.name(), "--quiesce", "never"]);
    // What no rule keeps goes, and what is kept restores.
    let pruned = remora.json(["prune", "--keep-last", "2", "--dry-run"]);
    assert_eq!((pruned["points"][0]["fate"].as_str(), appliance.points().len()), (Some("drop"), 6), "{pruned:#}");
    remora.ok(["prune", "--keep-last", "2"]);
    assert_eq!((remora.json(["points"]).as_array().unwrap().len(), appliance.points().len()), (2, 4));
    let to = lab.scratch("kept").join("vda.raw");
    remora.ok(["restore", &expected[1].0, "--disk", "vda", "--to", to.to_str().unwrap()]);
    assert_same(&to, &expected[1].1);
    // The commands of a vault say that they are not for it.
    remora.fails(["gc"], 2, "points in a form of its own");
}
