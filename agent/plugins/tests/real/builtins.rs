//! What the built-in policies answer, as components in the production host.

#[path = "builtins/authorize.rs"]
pub(crate) mod authorize;
#[path = "builtins/retention.rs"]
mod retention;
#[path = "builtins/schedule.rs"]
mod schedule;
#[path = "builtins/select.rs"]
mod select;

use std::collections::BTreeMap;

use jiff::Timestamp;
use remora_core::VmName;
use remora_core::policy::VmFacts;
use remora_plugins::{Refused, SelectPolicy, builtins};

use super::components::host;

fn builtin(wanted: &str) -> &'static [u8] {
    builtins().find(|(name, _)| *name == wanted).unwrap_or_else(|| panic!("no {wanted}")).1
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn vm(name: &str, labels: &[(&str, &str)]) -> VmFacts {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>();
    VmFacts { labels, ..VmFacts::named(VmName::new(name).unwrap()) }
}

/// The fields that a policy complains of.
fn fields<T: std::fmt::Debug>(loaded: Result<T, Refused>) -> Vec<String> {
    match loaded {
        Err(Refused::Settings(errors)) => errors.into_iter().map(|error| error.path).collect(),
        other => panic!("{other:?}"),
    }
}

/// The SDK reads settings for all of them.
#[test]
fn what_is_wrong_with_settings_is_told_with_its_place() {
    let host = host();
    for (settings, place, said) in [
        ("[]", "", "invalid type: sequence, expected a mapping"),
        (r#"["db-*"]"#, "", "invalid type: sequence, expected a mapping"),
        ("{", "", "it is no JSON: line 1, column 1"),
        (r#"{"nam": []}"#, "/nam", "unknown field `nam`"),
        (r#"{"all": null}"#, "/all", "invalid type: null, expected a boolean"),
        (r#"{"names": "db"}"#, "/names", r#"invalid type: string "db", expected a sequence"#),
        (r#"{"names": ["db", 1.5]}"#, "/names/1", "invalid type: a number with a fraction, expected a string"),
        (r#"{"names": [{}]}"#, "/names/0", "invalid type: map, expected a string"),
        (r#"{"matchLabels": {"a/~b": 7}}"#, "/matchLabels/a~1~0b", "invalid type: integer `7`, expected a string"),
        (r#"{"matchExpressions": [{"key": "a"}]}"#, "/matchExpressions/0", "missing field `operator`"),
        (
            r#"{"matchExpressions": [["a", "In", ["b"]]]}"#,
            "/matchExpressions/0",
            "invalid type: sequence, expected a mapping",
        ),
        (
            r#"{"matchExpressions": [{"key": "a", "operator": "in"}]}"#,
            "/matchExpressions/0/operator",
            "unknown variant `in`, expected one of `In`, `NotIn`",
        ),
        (
            r#"{"matchExpressions": [{"key": "a", "operator": {"In": 1}}]}"#,
            "/matchExpressions/0/operator/In",
            "invalid type: integer `1`, expected nothing",
        ),
    ] {
        let Err(Refused::Settings(errors)) = SelectPolicy::load(&host, builtin("labels"), settings) else {
            panic!("it takes {settings}");
        };
        assert_eq!(errors[0].path, place, "{settings}");
        assert!(errors[0].message.starts_with(said), "{settings}: {}", errors[0].message);
    }
}
