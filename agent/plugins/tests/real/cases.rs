//! Golden cases, asked of the policies of documents.

use std::fs;

use remora_plugins::{builtins, cases};

use super::components::host;
use super::folder::{ACCESS, NIGHTLY};

#[tokio::test]
async fn golden_cases_say_what_was_answered_instead() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("nightly.yaml"), NIGHTLY).unwrap();
    fs::write(folder.path().join("access.yaml"), ACCESS).unwrap();
    let text = "\
kind: PolicyTest
policies: [nightly.yaml, access.yaml]
cases:
- {name: database, select: {policy: nightly, vm: {name: db-1}, expect: {selected: true}}}
- {name: web, select: {policy: nightly, vm: {name: web-1}, expect: {selected: true}}}
- name: tonight
  schedule: {policy: nightly, vm: {name: db-1}, after: 2026-01-10T12:00:00Z, expect: {start: 2026-01-11T02:15:00Z}}
- name: two days
  retention:
    policy: nightly
    vm: {name: db-1}
    now: 2026-01-03T00:00:00Z
    points: [2026-01-01T01:00:00Z, 2026-01-01T02:00:00Z, 2026-01-02T02:00:00Z]
    expect: {keep: [2026-01-01T02:00:00Z, 2026-01-02T02:00:00Z]}
- name: pay
  authorize:
    {subject: {user: root}, action: read, vm: {name: db-1}, path: /srv/hr/pay, now: 2026-01-03T00:00:00Z,
     expect: {allowed: false, code: path-denied}}
";
    let file = folder.path().join("cases.yaml");
    fs::write(&file, text).unwrap();
    let results = cases::run(&host(), &file).await.unwrap();
    let failed: Vec<_> = results.iter().filter_map(|result| result.failed.as_deref()).collect();
    assert_eq!(results.len(), 5);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].starts_with("expected selected: true, got selected: false"), "{failed:?}");
    fs::write(&file, text.replace("policy: nightly, vm: {name: web-1}", "policy: nightli, vm: {name: web-1}")).unwrap();
    let error = cases::run(&host(), &file).await.unwrap_err();
    assert!(error.to_string().contains("case \"web\""), "{error}");
    fs::write(&file, "kind: PolicyTest\npolicies: [nightly.yaml]\ncases: []\n").unwrap();
    let error = cases::run(&host(), &file).await.unwrap_err();
    assert!(error.to_string().contains("it has no case") && error.advice().is_some(), "{error}");
}

/// None of them is passed over, which may be the one that denies.
#[tokio::test]
async fn golden_cases_are_asked_of_all_documents_whatever_their_folders() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        let text =
            ACCESS.replace("/srv/hr/**", &format!("/srv/{name}/**")).replace("name: files", &format!("name: {name}"));
        fs::write(folder.path().join(name).join("access.yaml"), text).unwrap();
    }
    let case = |name: &str| {
        format!(
            "- name: {name}\n  authorize: {{subject: {{user: root}}, action: read, vm: {{name: db}}, path: /srv/{name}/x, \
             now: 2026-01-03T00:00:00Z, expect: {{allowed: false, code: path-denied}}}}\n"
        )
    };
    let file = folder.path().join("cases.yaml");
    let head = "kind: PolicyTest\npolicies: [one/access.yaml, two/access.yaml]\ncases:\n";
    fs::write(&file, format!("{head}{}{}", case("one"), case("two"))).unwrap();
    let results = cases::run(&host(), &file).await.unwrap();
    assert!(results.len() == 2 && results.iter().all(|result| result.failed.is_none()), "{results:?}");
}

/// As in production: each document's own lies beside it, also if another one of that name lies beside the cases.
#[tokio::test]
async fn golden_cases_take_modules_from_beside_the_document_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let component = |wanted: &str| builtins().find(|(name, _)| *name == wanted).unwrap().1;
    let policies = folder.path().join("policies");
    fs::create_dir(&policies).unwrap();
    fs::write(policies.join("nightly.yaml"), NIGHTLY.replace("builtin:labels", "file:mine.wasm")).unwrap();
    fs::write(folder.path().join("mine.wasm"), component("cron")).unwrap();
    let file = folder.path().join("cases.yaml");
    let text = "\
kind: PolicyTest
policies: [policies/nightly.yaml]
cases:
- {name: database, select: {policy: nightly, vm: {name: db-1}, expect: {selected: true}}}
";
    fs::write(&file, text).unwrap();
    let error = cases::run(&host(), &file).await.unwrap_err();
    let looked_at = policies.join("mine.wasm").display().to_string();
    assert!(error.to_string().contains("reading the module mine.wasm"), "{error}");
    assert!(error.advice().unwrap().contains(&looked_at), "{:?}", error.advice());
    fs::write(policies.join("mine.wasm"), component("labels")).unwrap();
    let results = cases::run(&host(), &file).await.unwrap();
    assert!(results.len() == 1 && results[0].failed.is_none(), "{results:?}");
}
