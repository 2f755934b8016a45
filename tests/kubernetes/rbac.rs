//! Each rule of the deployed roles is needed: what the programs ask of the API server is what the roles allow, no more and no
//! less, and without a rule the API server refuses what was asked under it.

use std::collections::BTreeSet;
use std::time::Duration;

use remora_tests::fleet::{Pause, Size};
use remora_tests::{ApiServer, Deployed, Fleet, Mark, wait_until};
use serde_json::{Value, json};

use crate::controller::Cluster;
use crate::deploy::{built, texts};
use crate::{api, controller, node};

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_mins(10);

const PROGRAMS: [&str; 2] = ["remora-agent", "remora-controller"];

/// What a role allows, one by one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    account: String,
    /// Only in remora's namespace.
    own_namespace: bool,
    group: String,
    resource: String,
    /// Empty of any.
    name: String,
    verb: String,
}

/// Where a right stands: the role's path, the number of the rule, and the rule without it.
struct Place {
    path: String,
    rules: Vec<Value>,
    without: Vec<Value>,
}

fn kind_and_path(role: &Value) -> (bool, String) {
    let (own, name) = (role["kind"] == "Role", role["metadata"]["name"].as_str().unwrap());
    let place = if own { "namespaces/remora/roles" } else { "clusterroles" };
    (own, format!("/apis/rbac.authorization.k8s.io/v1/{place}/{name}"))
}

/// All rights of the two programs.
fn rights(objects: &[Value]) -> Vec<(Right, Place)> {
    let with_rules = objects.iter().filter(|object| object["rules"].is_array());
    let program_roles = with_rules.filter(|role| PROGRAMS.iter().any(|name| role["metadata"]["name"] == *name));
    let mut all = Vec::new();
    for role in program_roles {
        let (own_namespace, path) = kind_and_path(role);
        let rules = role["rules"].as_array().unwrap();
        for (number, rule) in rules.iter().enumerate() {
            for (resource, verb) in texts(&rule["resources"])
                .iter()
                .flat_map(|resource| texts(&rule["verbs"]).into_iter().map(move |verb| (*resource, verb)))
            {
                let right = Right {
                    account: role["metadata"]["name"].as_str().unwrap().into(),
                    own_namespace,
                    group: rule["apiGroups"][0].as_str().unwrap().into(),
                    resource: resource.into(),
                    name: rule["resourceNames"][0].as_str().unwrap_or_default().into(),
                    verb: verb.into(),
                };
                let mut without = rules.clone();
                let of_resource = |verbs: Vec<&str>| {
                    let mut other = rule.clone();
                    (other["resources"], other["verbs"]) = (json!([resource]), json!(verbs));
                    other
                };
                let verbs: Vec<_> = texts(&rule["verbs"]).into_iter().filter(|one| *one != verb).collect();
                let others: Vec<_> = texts(&rule["resources"]).into_iter().filter(|one| *one != resource).collect();
                without[number]["resources"] = json!(others);
                without.push(of_resource(verbs));
                // A rule that allows nothing is none.
                without.retain(|rule| !texts(&rule["resources"]).is_empty() && !texts(&rule["verbs"]).is_empty());
                all.push((right, Place { path: path.clone(), rules: rules.clone(), without }));
            }
        }
    }
    all
}

/// The requests that the programs made of an API server, as rights that allow them; of names those that roles name.
fn used(server: &ApiServer, names: &BTreeSet<String>, into: &mut BTreeSet<Right>) {
    server.asked(Mark::default(), server.mark(), |request| {
        if !PROGRAMS.contains(&request.user.as_str()) || !request.allowed || request.resource.is_empty() {
            return;
        }
        // Who applies what is not there has to have the right to make it, which the API server looks at without a word in
        // its log.
        let makes = (request.verb == "patch" && request.code == 201).then_some("create");
        // Both programs tell of events with the same code.
        let tellers = if request.resource == "events" { PROGRAMS.to_vec() } else { vec![request.user.as_str()] };
        for (own_namespace, name) in [(false, ""), (true, ""), (true, request.name.as_str())] {
            let fits = (!own_namespace || request.namespace == "remora") && (name.is_empty() || names.contains(name));
            for (account, verb) in
                tellers.iter().flat_map(|account| [Some(request.verb.as_str()), makes].map(|verb| (account, verb)))
            {
                into.extend(verb.filter(|_| fits).map(|verb| Right {
                    account: (*account).into(),
                    own_namespace,
                    group: request.group.clone(),
                    resource: request.resource.clone(),
                    name: name.into(),
                    verb: verb.into(),
                }));
            }
        }
    });
}

/// A cluster in which both programs back machines up under the rules that are deployed, with nothing else that allows.
fn backed_up() -> Deployed {
    let server = ApiServer::start();
    let url = server.url();
    let deployed = Deployed::start(server, &url);
    let mut fleet = Fleet::start(&deployed, &url, Size { nodes: 1, machines: 2, namespaces: 1 }, Pause::None);
    fleet.run(0, 2);
    fleet.wait_until("the runs do not end", SOON, |fleet| fleet.ended.len() == 2);
    assert!(fleet.ended.values().all(|reason| reason == "Stored"), "{:?}", fleet.ended);
    let mut refused = Vec::new();
    deployed.api.asked(Mark::default(), deployed.api.mark(), |request| {
        if PROGRAMS.contains(&request.user.as_str()) && request.code == 403 {
            refused.push(request);
        }
    });
    assert_eq!(refused, [], "they were refused what they asked for");
    deployed
}

#[test]
fn each_right_is_used_and_without_it_the_request_is_refused() {
    let deployed = backed_up();
    let objects = built(api(), "overlays/plain");
    let rights = rights(&objects);
    let names = rights.iter().map(|(right, _)| right.name.clone()).filter(|name| !name.is_empty()).collect();
    // What is not part of a sound backup: the tests of each are the scenario.
    controller::scenario();
    node::scenario();
    let mut all = BTreeSet::new();
    for server in [&deployed.api, &Cluster::shared().api, &Cluster::scheduled(0).api, api()] {
        used(server, &names, &mut all);
    }
    let idle: Vec<_> = rights.iter().map(|(right, _)| right).filter(|right| !all.contains(right)).collect();
    assert!(idle.is_empty(), "nobody needs these rights: {idle:#?}");

    for (right, place) in &rights {
        let (resource, sub) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
        let namespace = if right.own_namespace { "remora" } else { "fleet-0" };
        let what = json!({
            "namespace": namespace, "group": right.group, "resource": resource, "subresource": sub, "verb": right.verb,
            "name": right.name,
        });
        assert!(deployed.api.may(&right.account, &what), "{right:?}");
        deployed.api.merge(&place.path, &json!({"rules": place.without})).ok();
        wait_until(format_args!("{right:?} is taken away, and granted by something else"), SOON, || {
            !deployed.api.may(&right.account, &what)
        });
        deployed.api.merge(&place.path, &json!({"rules": place.rules})).ok();
        wait_until(format_args!("{right:?} does not come back"), SOON, || deployed.api.may(&right.account, &what));
    }
}

/// What programs say of a right that is missing names it, and when it is given the run goes on.
#[test]
fn a_right_that_is_missing_is_named_and_its_run_goes_on_once_it_is_there() {
    let server = ApiServer::start();
    let url = server.url();
    let deployed = Deployed::start(server, &url);
    let mut fleet = Fleet::start(&deployed, &url, Size { nodes: 1, machines: 2, namespaces: 1 }, Pause::None);
    let rights = rights(&built(api(), "overlays/plain"));
    let of = |account: &str| {
        let wanted = |right: &Right| {
            right.account == account && right.resource == "virtualmachineinstances" && right.verb == "get"
        };
        &rights.iter().find(|(right, _)| wanted(right)).unwrap().1
    };
    for (number, account) in ["remora-controller", "remora-agent"].into_iter().enumerate() {
        let place = of(account);
        let what = json!({"namespace": "fleet-0", "group": "kubevirt.io", "resource": "virtualmachineinstances", "verb": "get"});
        deployed.api.merge(&place.path, &json!({"rules": place.without})).ok();
        wait_until("it may still", SOON, || !deployed.api.may(account, &what));
        fleet.run(number, 1);
        let log = |fleet: &Fleet| {
            let of_controller = std::fs::read_to_string(deployed.controller.log()).unwrap();
            if account == "remora-agent" { fleet.log() } else { of_controller }
        };
        let says = "cannot get resource \"virtualmachineinstances\" in API group \"kubevirt.io\"";
        let named = |fleet: &Fleet| log(fleet).replace('\\', "").contains(says);
        fleet.wait_until("it is not said what is missing", SOON, named);
        deployed.api.merge(&place.path, &json!({"rules": place.rules})).ok();
        fleet.wait_until("the run does not go on", SOON, |fleet| fleet.ended.len() == number + 1);
    }
    assert!(fleet.ended.values().all(|reason| reason == "Stored"), "{:?}", fleet.ended);
}
