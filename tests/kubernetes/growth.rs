//! What is asked of the API server grows as the cluster does, and no more.

use std::time::{Duration, Instant};

use remora_tests::fleet::{Load, Pause, Size};
use remora_tests::{ApiServer, Deployed, Fleet};

/// How long a run of each machine may take on a busy machine.
const SOON: Duration = Duration::from_mins(15);

/// More than one of them does at once, so that some wait.
const MACHINES_OF_A_NODE: usize = 8;

/// What one run of each machine costs, and how long they take.
fn measure(nodes: usize) -> (Load, Duration) {
    let api = ApiServer::start();
    let url = api.url();
    let deployed = Deployed::start(api, &url);
    let machines = nodes * MACHINES_OF_A_NODE;
    let mut fleet = Fleet::start(&deployed, &url, Size { nodes, machines, namespaces: 2 }, Pause::None);
    let (from, began) = (deployed.api.mark(), Instant::now());
    fleet.run(0, machines);
    fleet.wait_until("the runs do not end", SOON, |fleet| fleet.ended.len() == machines);
    assert!(fleet.ended.values().all(|reason| reason == "Stored"), "{:?}", fleet.ended);
    assert_eq!(fleet.begun.len(), machines, "some were begun twice");
    let took = began.elapsed();
    (Load::between(&deployed.api, from, deployed.api.mark()), took)
}

/// What is asked for by the clock in so long, the more the slower the machine: by the controller, twelve requests for each look at a
/// run that has not ended; and by agents, for two runs at a time, that they go on, and a look at those that wait.
struct ByClock {
    controller: usize,
    agents: usize,
    /// How often an agent says of a run that it goes on.
    heartbeats: usize,
}

impl ByClock {
    fn of(nodes: usize, took: Duration) -> Self {
        let each = |seconds: u64| usize::try_from(took.as_secs() / seconds).unwrap();
        let (looks, heartbeats) = (each(15), each(10));
        Self { controller: nodes * MACHINES_OF_A_NODE * looks * 12, agents: nodes * heartbeats * 4, heartbeats }
    }

    fn all(&self) -> usize {
        self.controller + self.agents
    }
}

/// Whether that is as much as it may be.
fn is_modest(load: &Load, nodes: usize, by_clock: &ByClock) -> bool {
    let runs = nodes * MACHINES_OF_A_NODE;
    let (object, times) = load.hottest().unwrap();
    println!(
        "{nodes} nodes: {} requests a run of the controller, {} of agents; {object} was written {times} times: {:#?}",
        load.controller / runs,
        load.agents / runs,
        load.by_kind,
    );
    load.controller <= runs * 130 + by_clock.controller
        && load.agents <= runs * 45 + by_clock.agents
        && times <= 25 + by_clock.heartbeats
}

/// On a machine that has no processor some is asked twice: so it is measured again where it is too much.
#[test]
fn twice_the_nodes_and_machines_ask_for_twice_as_much_and_each_object_has_its_own_writers() {
    let all = |load: &Load| load.controller + load.agents;
    let holds = (0..3).any(|_| {
        let ((small, small_took), (large, large_took)) = (measure(3), measure(6));
        for load in [&small, &large] {
            assert_eq!(load.crowded(), [""; 0]);
        }
        println!("{} requests in {small_took:.0?} and {} in {large_took:.0?}", all(&small), all(&large));
        let (of_small, of_large) = (ByClock::of(3, small_took), ByClock::of(6, large_took));
        is_modest(&small, 3, &of_small)
            && is_modest(&large, 6, &of_large)
            && all(&large) * 10 <= all(&small) * 25 + of_large.all() * 10
    });
    assert!(holds, "more is asked for than may be, three times: see above");
}
