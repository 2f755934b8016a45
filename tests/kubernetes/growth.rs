//! What is asked of the API server grows as the cluster does, and no more.

use std::time::Duration;

use remora_tests::fleet::{Load, Pause, Size};
use remora_tests::{ApiServer, Deployed, Fleet};

/// How long a run of each machine may take on a busy machine.
const SOON: Duration = Duration::from_mins(15);

/// More than one of them does at once, so that some wait.
const MACHINES_OF_A_NODE: usize = 8;

/// What one run of each machine costs.
fn measure(nodes: usize) -> Load {
    let api = ApiServer::start();
    let url = api.url();
    let deployed = Deployed::start(api, &url);
    let machines = nodes * MACHINES_OF_A_NODE;
    let mut fleet = Fleet::start(&deployed, &url, Size { nodes, machines, namespaces: 2 }, Pause::None);
    let from = deployed.api.mark();
    fleet.run(0, machines);
    fleet.wait_until("the runs do not end", SOON, |fleet| fleet.ended.len() == machines);
    assert!(fleet.ended.values().all(|reason| reason == "Stored"), "{:?}", fleet.ended);
    assert_eq!(fleet.begun.len(), machines, "some were begun twice");
    Load::between(&deployed.api, from, deployed.api.mark())
}

/// Whether that is as much as it may be.
fn is_modest(load: &Load, nodes: usize) -> bool {
    let runs = nodes * MACHINES_OF_A_NODE;
    let (object, times) = load.hottest().unwrap();
    println!(
        "{nodes} nodes: {} requests a run of the controller, {} of agents; {object} was written {times} times: {:#?}",
        load.controller / runs,
        load.agents / runs,
        load.by_kind,
    );
    load.controller <= runs * 130 && load.agents <= runs * 45 && times <= 25
}

/// Some of it is asked for by the clock, and a run takes longer on a busy machine: so it is measured again where it is too much.
#[test]
fn twice_the_nodes_and_machines_ask_for_twice_as_much_and_each_object_has_its_own_writers() {
    let all = |load: &Load| load.controller + load.agents;
    let holds = (0..3).any(|_| {
        let (small, large) = (measure(3), measure(6));
        for load in [&small, &large] {
            assert_eq!(load.crowded(), [""; 0]);
        }
        println!("{} requests and {}", all(&small), all(&large));
        is_modest(&small, 3) && is_modest(&large, 6) && all(&large) * 10 <= all(&small) * 25
    });
    assert!(holds, "more is asked for than may be, three times: see above");
}
