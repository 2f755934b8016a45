//! Settings that make no sense: whoever is given them must say so, each time, and never trap.

use remora_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::yaml::{self, Fault};

/// A field that nobody has.
pub(crate) const UNKNOWN: &str = "no-such-setting";

/// Settings that are to be refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusal {
    pub(crate) settings: Value,
    /// Where the fault is, as a JSON Pointer, if it is to be told there.
    field: Option<String>,
}

impl Refusal {
    /// Whether a complaint about these fields is what was wanted.
    pub(crate) fn is_told(&self, fields: &[String]) -> Result<(), String> {
        match &self.field {
            _ if fields.is_empty() => Err("it takes them".into()),
            Some(field) if !fields.contains(field) => Err(format!("it complains of {}", fields.join(", "))),
            _ => Ok(()),
        }
    }
}

/// Those of a file: YAML, a list.
pub(crate) fn refusals(text: Option<&str>) -> Result<Vec<Refusal>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    yaml::read(text).map_err(|fault| {
        invalid("settings to be refused", &fault)
            .advise("Give a list, each item of it {settings: {…}, field: /where/it/is}.")
    })
}

/// Settings as components are given them, JSON, of a YAML or JSON text.
pub fn settings_of(text: &str) -> Result<String> {
    let read = yaml::read::<Value>(text);
    let value = read.map_err(|fault| invalid("settings", &fault).advise("Write them as YAML or JSON."))?;
    Ok(value.to_string())
}

fn invalid(what: &str, fault: &Fault) -> Error {
    Error::new(ErrorKind::Invalid, format!("{what}, line {}: {}", fault.line.unwrap_or_default(), fault.what))
}

/// What are no settings at all. A list is none either, though a parser may take one for a record, field by field.
pub(crate) fn none() -> [Value; 4] {
    [json!("text"), json!(7), json!(true), json!([])]
}

/// Good settings with a field that nobody has; none if they are no mapping.
pub(crate) fn unknown(good: &Value) -> Option<Value> {
    let mut settings = good.clone();
    settings.as_object_mut()?.insert(UNKNOWN.into(), json!(1));
    Some(settings)
}

/// Good settings of which each in turn is something else: where, and all of them. Whether they are taken is the component's
/// matter.
pub(crate) fn mistyped(good: &Value) -> Vec<(String, Value)> {
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let strange = [
        json!(null),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("\u{0}\u{202e}*{[\\"),
        json!("x".repeat(20_000)),
        json!([]),
        json!({}),
        json!([[], {}, null, "", -1]),
        deep,
    ];
    let mut all = Vec::new();
    for place in places(good, String::new()) {
        for value in &strange {
            let mut settings = good.clone();
            if let Some(at) = settings.pointer_mut(&place) {
                at.clone_from(value);
            }
            let shown: String = value.to_string().chars().take(60).collect();
            all.push((format!("{place} is {shown}"), settings));
        }
    }
    all
}

/// Everything in the settings that can be something else.
fn places(value: &Value, at: String) -> Vec<String> {
    let below = |key: &str, value: &Value| places(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")));
    let mut all: Vec<String> = match value {
        Value::Object(fields) => fields.iter().flat_map(|(key, value)| below(key, value)).collect(),
        Value::Array(items) => items.iter().enumerate().flat_map(|(n, item)| below(&n.to_string(), item)).collect(),
        _ => Vec::new(),
    };
    if !at.is_empty() {
        all.push(at);
    }
    all
}
