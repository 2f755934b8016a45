//! Which machines they select.

use remora_core::policy::Select;
use remora_plugins::SelectPolicy;

use super::{builtin, fields, host, vm};

#[tokio::test]
async fn labels_select_by_all_that_is_asked_for() {
    let host = host();
    let db = vm("db-1", &[("backup", "nightly"), ("tier", "gold")]);
    let web = vm("web-1", &[("backup", "nightly")]);
    let bare = vm("db-2", &[]);
    let table = [
        (r#"{"matchLabels": {"backup": "nightly"}}"#, [true, true, false]),
        (r#"{"matchLabels": {"backup": "nightly"}, "names": ["db-*"]}"#, [true, false, false]),
        (r#"{"matchExpressions": [{"key": "tier", "operator": "Exists"}]}"#, [true, false, false]),
        (r#"{"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["gold"]}]}"#, [false, true, true]),
        (r#"{"matchExpressions": [{"key": "tier", "operator": "In", "values": ["gold", "x"]}]}"#, [true, false, false]),
        (r#"{"matchExpressions": [{"key": "backup", "operator": "DoesNotExist"}]}"#, [false, false, true]),
        (r#"{"all": true, "excludeNames": ["db-2"]}"#, [true, true, false]),
        (r#"{"namespaces": ["prod"]}"#, [false, false, false]),
    ];
    for (settings, expected) in table {
        let policy = SelectPolicy::load(&host, builtin("labels"), settings).unwrap();
        let answers = policy.select(&[db.clone(), web.clone(), bare.clone()]).await.unwrap();
        assert_eq!(answers.iter().map(|answer| answer.selected).collect::<Vec<_>>(), expected, "{settings}");
    }
    let load = |settings| SelectPolicy::load(&host, builtin("labels"), settings);
    assert_eq!(fields(load("{}")), [""]);
    assert_eq!(
        fields(load(r#"{"matchExpressions": [{"key": "a", "operator": "In"}]}"#)),
        ["/matchExpressions/0/values"]
    );
    assert_eq!(
        fields(load(r#"{"matchExpressions": [{"key": "a", "operator": "in"}]}"#)),
        ["/matchExpressions/0/operator"]
    );
    assert_eq!(fields(load(r#"{"names": ["db-{1"]}"#)), ["/names/0"]);
}

#[tokio::test]
async fn more_vms_than_one_call_takes_are_all_answered() {
    let policy = SelectPolicy::load(&host(), builtin("labels"), r#"{"names": ["vm-*7"]}"#).unwrap();
    let vms: Vec<_> = (0..2_500).map(|n| vm(&format!("vm-{n}"), &[])).collect();
    let answers = policy.select(&vms).await.unwrap();
    assert_eq!(answers.len(), 2_500);
    assert!((0..).zip(answers).all(|(n, answer)| answer.selected == (n % 10 == 7)));
}
