//! Selects the VMs whose names begin in some way.

use remora_sdk::Invalid;
use remora_sdk::select::{Policy, Verdict, Vm};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Prefix {
    prefix: String,
}

impl Policy for Prefix {
    type Settings = Self;

    fn new(settings: Self) -> Result<Self, Invalid> {
        if settings.prefix.is_empty() { Err(Invalid::field("/prefix", "it is empty")) } else { Ok(settings) }
    }

    fn select(&self, vm: &Vm) -> Verdict {
        let selected = vm.name.starts_with(&self.prefix);
        let begins = if selected { "begins" } else { "does not begin" };
        Verdict { selected, reason: format!("the name {begins} with {}", self.prefix) }
    }
}

remora_sdk::select!(Prefix);
