//! Settings that make no sense: a policy must say so, each time, and never trap.

use std::sync::Arc;

use remora_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Tried, told};
use crate::conformance::Findings;
use crate::host::{Host, Module, Refused};

/// A field that nobody has.
const UNKNOWN: &str = "no-such-setting";

/// Settings that are to be refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refusal {
    settings: Value,
    /// Where the fault is, as a JSON Pointer, if it is to be told there.
    field: Option<String>,
}

/// Those of a file.
pub(super) fn refusals(text: Option<&str>) -> Result<Vec<Refusal>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let plain = error.without_snippet().to_string();
        Error::new(ErrorKind::Invalid, format!("settings to be refused, line {line}: {plain}"))
            .advise("Give a list, each item of it {settings: {…}, field: /where/it/is}.")
    })
}

pub(super) fn try_wrong<P: Tried>(
    findings: &mut Findings,
    host: &Host,
    module: &Arc<Module>,
    given: &str,
    refusals: &[Refusal],
) {
    let load = |settings: &Value| P::load(host, module, &settings.to_string()).map(drop);
    let kind = P::KIND;
    findings.note(format!("{kind}: refuses settings that are none"), none(&load));
    let good: Value = serde_json::from_str(given).unwrap_or_default();
    findings.note(format!("{kind}: refuses a setting that it does not have"), unknown(&load, &good));
    findings.note(format!("{kind}: takes or refuses settings of any type"), mistyped(&load, &good));
    for refusal in refusals {
        findings.note(format!("{kind}: refuses {}", refusal.settings), as_told(&load, refusal));
    }
}

fn none(load: &impl Fn(&Value) -> Result<(), Refused>) -> Result<(), String> {
    // Not a list: serde takes one for a record, field by field.
    for settings in [json!("text"), json!(7), json!(true)] {
        match load(&settings) {
            Err(Refused::Settings(_)) => {}
            Err(other) => return Err(format!("given {settings}: {}", told(&other))),
            Ok(()) => return Err(format!("it takes {settings}")),
        }
    }
    Ok(())
}

fn unknown(load: &impl Fn(&Value) -> Result<(), Refused>, good: &Value) -> Result<(), String> {
    let mut settings = good.clone();
    let Some(fields) = settings.as_object_mut() else { return Err("its settings are no mapping".into()) };
    fields.insert(UNKNOWN.into(), json!(1));
    match load(&settings) {
        Err(Refused::Settings(_)) => Ok(()),
        Err(other) => Err(told(&other)),
        Ok(()) => Err(format!("it takes {UNKNOWN}: whoever mistypes a setting is not told")),
    }
}

/// Each setting in turn becomes something else. Whether it is taken is the policy's matter; a trap never is.
fn mistyped(load: &impl Fn(&Value) -> Result<(), Refused>, good: &Value) -> Result<(), String> {
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
    for place in places(good, String::new()) {
        for value in &strange {
            let mut settings = good.clone();
            if let Some(at) = settings.pointer_mut(&place) {
                at.clone_from(value);
            }
            if let Err(Refused::Because(error)) = load(&settings) {
                let shown: String = value.to_string().chars().take(100).collect();
                return Err(format!("{place} is {shown}: {}", error.chain()));
            }
        }
    }
    Ok(())
}

/// Everything in the settings that can be something else.
fn places(value: &Value, at: String) -> Vec<String> {
    let below = |key: &str, value: &Value| {
        places(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")))
    };
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

fn as_told(load: &impl Fn(&Value) -> Result<(), Refused>, refusal: &Refusal) -> Result<(), String> {
    match (load(&refusal.settings), &refusal.field) {
        (Err(Refused::Settings(_)), None) => Ok(()),
        (Err(Refused::Settings(errors)), Some(field)) => {
            let told: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
            if told.contains(&field.as_str()) { Ok(()) } else { Err(format!("it complains of {}", told.join(", "))) }
        }
        (Err(other), _) => Err(told(&other)),
        (Ok(()), _) => Err("it takes them".into()),
    }
}
