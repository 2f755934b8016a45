//! `builtin:labels`: selects VMs by labels, names and namespaces. Everything that the settings name must hold.

use std::collections::BTreeMap;

use fast_glob::glob_match;
use remora_sdk::select::{Policy, Verdict, Vm};
use remora_sdk::{Facts, Invalid};
use serde::Deserialize;

/// As Kubernetes' label selectors, with names and namespaces beside them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct Settings {
    /// Labels and the values that they must have.
    match_labels: BTreeMap<String, String>,
    /// What else must hold of labels.
    match_expressions: Vec<Expression>,
    /// Globs, one of which the name must match.
    names: Vec<String>,
    /// Globs, one of which the namespace must match.
    namespaces: Vec<String>,
    /// Globs that the name must not match.
    exclude_names: Vec<String>,
    /// Selects every VM that nothing above leaves out.
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Expression {
    /// Whether it holds of a label's value.
    fn holds(&self, value: Option<&str>) -> bool {
        let listed = value.is_some_and(|value| self.values.iter().any(|listed| listed == value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }

    fn check(&self, path: &str, invalid: &mut Invalid) {
        let wants = matches!(self.operator, Operator::In | Operator::NotIn);
        match (wants, self.values.is_empty()) {
            (true, true) => invalid.add(format!("{path}/values"), "In and NotIn need at least one value"),
            (false, false) => invalid.add(format!("{path}/values"), "Exists and DoesNotExist take no values"),
            _ => {}
        }
    }
}

struct Labels(Settings);

impl Policy for Labels {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        let mut invalid = Invalid::default();
        for (n, expression) in settings.match_expressions.iter().enumerate() {
            expression.check(&format!("/matchExpressions/{n}"), &mut invalid);
        }
        let globs = [
            ("names", &settings.names),
            ("namespaces", &settings.namespaces),
            ("excludeNames", &settings.exclude_names),
        ];
        for (field, globs) in globs {
            for (n, glob) in globs.iter().enumerate() {
                if let Err(error) = fast_glob::validate(glob) {
                    invalid.add(format!("/{field}/{n}"), error.to_string());
                }
            }
        }
        let conditions = settings.match_labels.len() + settings.match_expressions.len();
        if conditions + settings.names.len() + settings.namespaces.len() == 0 && !settings.all {
            invalid
                .add("", "nothing is selected: give matchLabels, matchExpressions, names or namespaces, or all: true");
        }
        invalid.or(Self(settings))
    }

    fn facts(&self) -> Facts {
        Facts::new()
    }

    fn select(&self, vm: &Vm) -> Verdict {
        match self.misses(vm) {
            Some(reason) => Verdict { selected: false, reason },
            None => Verdict { selected: true, reason: "everything that is asked for holds".into() },
        }
    }
}

impl Labels {
    /// The first thing that does not hold.
    fn misses(&self, vm: &Vm) -> Option<String> {
        let Self(settings) = self;
        let label = |key: &str| vm.labels.iter().find(|pair| pair.key == key).map(|pair| pair.value.as_str());
        for (key, wanted) in &settings.match_labels {
            match label(key) {
                Some(value) if value == wanted => {}
                Some(value) => return Some(format!("its label {key} is \"{value}\", not \"{wanted}\"")),
                None => return Some(format!("it has no label {key}")),
            }
        }
        let failed = settings.match_expressions.iter().find(|expression| !expression.holds(label(&expression.key)));
        if let Some(expression) = failed {
            return Some(format!("what is asked of its label {} does not hold", expression.key));
        }
        let any = |globs: &[String], text: &str| globs.iter().any(|glob| glob_match(glob, text));
        if !settings.names.is_empty() && !any(&settings.names, &vm.name) {
            return Some("its name is not among those asked for".into());
        }
        if !settings.namespaces.is_empty() && !any(&settings.namespaces, &vm.namespace) {
            return Some("its namespace is not among those asked for".into());
        }
        any(&settings.exclude_names, &vm.name).then(|| "its name is left out".into())
    }
}

remora_sdk::select!(Labels);
