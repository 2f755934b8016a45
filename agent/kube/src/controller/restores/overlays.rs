//! What would hide restored bytes.
//!
//! KubeVirt tracks the changes of a claim in an overlay, a file of the machine's own state that lies above the claim's image
//! and outlives the instance. Of what the guest has discarded, or zeroed in one go, the overlay says that it reads as zeros,
//! whatever the image below holds. So the worker removes the overlays of what it writes: KubeVirt makes another one, which
//! knows of nothing, when the machine starts.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::Value;

use crate::controller::observe::Reader;
use crate::controller::users::has_claim;
use crate::controller::worker::Overlay;

/// Which machine a claim is the state of: KubeVirt's label.
const STATE_OF: &str = "persistent-state-for";

/// The machines of a namespace that have a state, each with the claim of it.
pub(super) async fn states(reader: &Reader<'_>) -> Result<Vec<(String, String)>, kube::Error> {
    let labelled = ListParams::default().labels(STATE_OF);
    let claims = reader.api::<PersistentVolumeClaim>().list_metadata(&labelled).await?.items;
    Ok(claims.iter().filter_map(|claim| Some((claim.labels().get(STATE_OF)?.clone(), claim.name_any()))).collect())
}

/// The overlays of a claim. `states` are the claims that have that label: machine and name.
pub(super) fn overlays(claim: &str, machines: &[Value], states: &[(String, String)]) -> Vec<Overlay> {
    let of_machine = |machine: &Value| {
        let name = machine["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let volumes = machine["spec"]["template"]["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        let volumes = volumes.into_iter().filter(|volume| has_claim(volume, claim));
        let names =
            volumes.filter_map(|volume| Some(volume["name"].as_str()?.to_owned())).filter(|name| is_plain(name));
        let states: Vec<_> = states.iter().filter(|(of, _)| *of == name).map(|(_, state)| state.clone()).collect();
        names
            .flat_map(|volume| states.clone().into_iter().map(move |state| Overlay { state, volume: volume.clone() }))
            .collect::<Vec<_>>()
    };
    machines.iter().flat_map(of_machine).collect()
}

/// It becomes a part of a path.
fn is_plain(volume: &str) -> bool {
    !volume.is_empty() && volume.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_overlays_of_a_claim_are_those_of_each_volume_that_has_it() {
        let machine = |name: &str, volumes: Value| json!({"metadata": {"name": name}, "spec": {"template": {"spec": {"volumes": volumes}}}});
        let volume = |name: &str, claim: &str| json!({"name": name, "persistentVolumeClaim": {"claimName": claim}});
        let machines = [
            machine("web", json!([volume("root", "web-root"), volume("data", "shared")])),
            machine("other", json!([{"name": "disk", "dataVolume": {"name": "shared"}}])),
            machine("untracked", json!([volume("data", "shared")])),
            machine("bad", json!([volume("../data", "shared")])),
        ];
        let states = [("web", "state-1"), ("web", "state-2"), ("other", "state-3"), ("bad", "state-4")];
        let states = states.map(|(of, name)| (of.to_owned(), name.to_owned()));
        let overlay = |state: &str, volume: &str| Overlay { state: state.into(), volume: volume.into() };
        let wanted = [overlay("state-1", "data"), overlay("state-2", "data"), overlay("state-3", "disk")];
        assert_eq!(overlays("shared", &machines, &states), wanted);
        assert_eq!(overlays("nobodys", &machines, &states), []);
    }
}
