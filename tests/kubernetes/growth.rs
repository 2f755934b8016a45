//! What is asked of the API server grows as the cluster does, and no more.

use std::time::Duration;

use remora_tests::fleet::{Load, Pause, Size};
use remora_tests::{ApiServer, Deployed, Fleet};

/// How long a run of each machine may take on a busy machine.
const SOON: Duration = Duration::from_mins(5);

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

#[test]
fn twice_the_nodes_and_machines_ask_for_twice_as_much_and_each_object_has_its_own_writers() {
    let (small, large) = (measure(3), measure(6));
    let of = |load: &Load, nodes: usize| {
        let runs = nodes * MACHINES_OF_A_NODE;
        println!(
            "{nodes} nodes: {} requests a run of the controller, {} of agents",
            load.controller / runs,
            load.agents / runs
        );
        assert!(load.controller <= runs * 130, "{:#?}", load.by_kind);
        assert!(load.agents <= runs * 45, "{:#?}", load.by_kind);
        assert_eq!(load.crowded(), [""; 0]);
        let (object, times) = load.hottest().unwrap();
        assert!(times <= 25, "{object} was written {times} times");
    };
    of(&small, 3);
    of(&large, 6);
    let all = |load: &Load| load.controller + load.agents;
    assert!(all(&large) * 10 <= all(&small) * 25, "{} and {}: {:#?}", all(&small), all(&large), large.by_kind);
}
