//! Since when machines are selected that have had no run yet, kept in a `ConfigMap`: of all others their runs tell.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use remora_core::VmName;

use super::Since;
use crate::controller::objects::managed;
use crate::controller::{OWNER, Settings};

/// Its name.
const CONFIG_MAP: &str = "remora-controller-schedule";

/// More than this is not kept: a `ConfigMap` takes 1 MiB.
const LARGEST: usize = 900 << 10;

/// As it is stored: many machines are selected in one instant.
type Stored = BTreeMap<Timestamp, Vec<VmName>>;

/// What is kept, as it was written last.
pub(super) struct Memory(Since);

impl Memory {
    /// Reads it; nothing if there is none.
    pub(super) async fn read(client: &Client, settings: &Settings) -> Result<Self, kube::Error> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &settings.namespace);
        let data = api.get_opt(CONFIG_MAP).await?.and_then(|found| found.data).unwrap_or_default();
        Ok(Self(data.iter().map(|(policy, text)| (policy.clone(), parse(policy, text))).collect()))
    }

    /// What was kept.
    pub(super) const fn since(&self) -> &Since {
        &self.0
    }

    /// Keeps this, if there is anything in it that is not kept yet: what is not needed any more goes with that.
    pub(super) async fn keep(&mut self, client: &Client, settings: &Settings, since: Since) -> Result<(), kube::Error> {
        let is_kept = |policy: &String, vm: &VmName| self.0.get(policy).is_some_and(|kept| kept.contains_key(vm));
        if since.iter().all(|(policy, machines)| machines.keys().all(|vm| is_kept(policy, vm))) {
            return Ok(());
        }
        let data: BTreeMap<_, _> = since.iter().map(|(policy, all)| (policy.clone(), text(all))).collect();
        let size: usize = data.iter().map(|(policy, text)| policy.len() + text.len()).sum();
        if size > LARGEST {
            tracing::warn!(
                size,
                "too many machines are new: a controller that follows takes them for selected since then"
            );
            self.0 = since;
            return Ok(());
        }
        let metadata = ObjectMeta { name: Some(CONFIG_MAP.into()), labels: Some(managed()), ..ObjectMeta::default() };
        let object = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &settings.namespace);
        api.patch(CONFIG_MAP, &PatchParams::apply(OWNER).force(), &Patch::Apply(&object)).await?;
        self.0 = since;
        Ok(())
    }
}

fn text(machines: &BTreeMap<VmName, Timestamp>) -> String {
    let mut stored = Stored::new();
    for (vm, since) in machines {
        stored.entry(*since).or_default().push(vm.clone());
    }
    serde_json::to_string(&stored).expect("times and names are plain data")
}

fn parse(policy: &str, text: &str) -> BTreeMap<VmName, Timestamp> {
    let stored: Stored = serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::warn!(policy, %error, "ConfigMap {CONFIG_MAP} cannot be read: its machines are selected since now");
        Stored::new()
    });
    stored.into_iter().flat_map(|(since, machines)| machines.into_iter().map(move |vm| (vm, since))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing::at;

    #[test]
    fn what_is_kept_is_read_back() {
        let vm = |name: &str| VmName::new(name).expect("a name");
        let machines: BTreeMap<_, _> =
            [(vm("shop/web"), at(7)), (vm("shop/db"), at(7)), (vm("bank/web"), at(9))].into();
        assert_eq!(parse("nightly", &text(&machines)), machines);
        assert_eq!(text(&machines).matches("1970").count(), 2, "{}", text(&machines));
        assert!(parse("nightly", "{").is_empty());
    }
}
