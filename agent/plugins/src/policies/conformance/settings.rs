//! Settings that make no sense, given to a policy.

use std::sync::Arc;

use serde_json::Value;

use super::{Tried, told};
use crate::conformance::Findings;
use crate::conformance::settings::{self, Refusal, UNKNOWN};
use crate::host::{Host, Module, Refused};

pub(super) fn try_wrong<P: Tried>(
    findings: &mut Findings,
    host: &Host,
    module: &Arc<Module>,
    given: &str,
    refusals: &[Refusal],
) {
    let load = |settings: &Value| P::load(host, module, &settings.to_string()).map(drop);
    let kind = P::KIND;
    let good: Value = serde_json::from_str(given).unwrap_or_default();
    findings.note(format!("{kind}: refuses settings that are none"), none(&load));
    findings.note(format!("{kind}: refuses a setting that it does not have"), unknown(&load, &good));
    findings.note(format!("{kind}: settings of any type make no trap"), mistyped(&load, &good));
    for refusal in refusals {
        findings.note(format!("{kind}: refuses {}", refusal.settings), as_told(&load, refusal));
    }
}

fn none(load: &impl Fn(&Value) -> Result<(), Refused>) -> Result<(), String> {
    settings::none().iter().try_for_each(|settings| match load(settings) {
        Err(Refused::Settings(_)) => Ok(()),
        Err(other) => Err(format!("given {settings}: {}", told(&other))),
        Ok(()) => Err(format!("it takes {settings}")),
    })
}

fn unknown(load: &impl Fn(&Value) -> Result<(), Refused>, good: &Value) -> Result<(), String> {
    let settings = settings::unknown(good).ok_or("its settings are no mapping")?;
    match load(&settings) {
        Err(Refused::Settings(_)) => Ok(()),
        Err(other) => Err(told(&other)),
        Ok(()) => Err(format!("it takes {UNKNOWN}: whoever mistypes a setting is not told")),
    }
}

fn mistyped(load: &impl Fn(&Value) -> Result<(), Refused>, good: &Value) -> Result<(), String> {
    settings::mistyped(good).iter().try_for_each(|(what, settings)| match load(settings) {
        Err(Refused::Because(error)) => Err(format!("{what}: {}", error.chain())),
        _ => Ok(()),
    })
}

fn as_told(load: &impl Fn(&Value) -> Result<(), Refused>, refusal: &Refusal) -> Result<(), String> {
    let fields = match load(&refusal.settings) {
        Err(Refused::Settings(errors)) => errors.into_iter().map(|error| error.path).collect(),
        Err(other) => return Err(told(&other)),
        Ok(()) => Vec::new(),
    };
    refusal.is_told(&fields)
}
