//! An API server that is away, forgets, throttles, knows no token any more or is slow, with the controller and agents as they
//! are: runs are late, and no run is lost, done twice or failed for it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use remora_tests::fleet::{Pause, Size};
use remora_tests::{ApiServer, Deployed, Fleet, Mark, Relay, wait_until};
use serde_json::json;

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_mins(10);

/// Longer than an agent may be silent without being held for dead, than a lease lasts, and than any request waits.
const LONG: Duration = Duration::from_secs(135);

/// Longer than a request waits, and than several heartbeats.
const SILENCE: Duration = Duration::from_secs(35);

const NODES: usize = 2;

/// The programs of remora, with a relay between them and the API server, and one between that and its etcd.
struct World {
    deployed: Deployed,
    way: Relay,
    etcd: Relay,
    fleet: Fleet,
    /// The number of the next run, each of another machine.
    next: usize,
}

impl World {
    fn start() -> Self {
        let (api, etcd) = ApiServer::start_before_etcd();
        let way = Relay::before(api.address());
        let url = format!("https://{}:{}", Ipv4Addr::LOCALHOST, way.address().port());
        let deployed = Deployed::start(api, &url);
        let size = Size { nodes: NODES, machines: 24, namespaces: 1 };
        let fleet = Fleet::start(&deployed, &url, size, Pause::UntilReleased);
        Self { deployed, way, etcd, fleet, next: 0 }
    }

    /// That of the short faults, one test at a time.
    fn shared() -> MutexGuard<'static, Self> {
        static SHARED: OnceLock<Mutex<World>> = OnceLock::new();
        SHARED.get_or_init(|| Mutex::new(Self::start())).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a run; its name.
    fn ask(&mut self) -> String {
        let number = self.next;
        self.next += 1;
        self.fleet.run(number, 1);
        format!("fleet-0/vm-{number}-{number}")
    }

    /// A run whose job runs.
    fn at_work(&mut self) -> String {
        let run = self.ask();
        let works = |fleet: &Fleet| fleet.works.contains(&run);
        self.fleet.wait_until("the run does not begin", SOON, works);
        run
    }

    /// That these runs end well once they are let, each begun once and with one backup of KubeVirt.
    #[track_caller]
    fn all_end_well(&mut self, since: Mark, runs: &[String]) {
        self.fleet.release(runs.len());
        let all = |fleet: &Fleet| runs.iter().all(|run| fleet.ended.contains_key(run));
        self.fleet.wait_until("the runs do not end", SOON, all);
        for run in runs {
            assert_eq!(self.fleet.ended[run], "Stored", "{run}");
            assert_eq!(self.fleet.begun.iter().filter(|begun| *begun == run).count(), 1, "{run} was begun again");
        }
        let mut made = 0;
        self.each_since(since, |request| {
            made += usize::from(
                request.verb == "create" && request.resource == "virtualmachinebackups" && request.code < 300,
            );
        });
        // Each had one, or its job would not have run. One whose answer was lost need not be among these.
        assert!(made <= runs.len(), "{made} backups of KubeVirt for {} runs", runs.len());
    }

    fn each_since(&self, since: Mark, each: impl FnMut(remora_tests::Request)) {
        self.deployed.api.asked(since, self.deployed.api.mark(), each);
    }

    /// Who was answered this since then.
    fn answered(&self, since: Mark, code: u16) -> Vec<(String, String)> {
        let mut who = Vec::new();
        self.each_since(since, |request| {
            if request.code == code {
                who.push((request.user, request.node));
            }
        });
        who
    }
}

/// Lets time pass: what is away, is away for so long.
fn lasts(time: Duration) {
    let began = Instant::now();
    wait_until("time does not pass", time * 2, || began.elapsed() > time);
}

#[test]
fn an_api_server_that_is_away_for_longer_than_an_agent_may_be_silent_fails_no_run() {
    let mut world = World::start();
    let since = world.deployed.api.mark();
    let first = world.at_work();
    world.way.go();
    // One that is asked for meanwhile, by somebody who reaches the API server.
    let second = world.ask();
    lasts(LONG);
    assert!(!world.fleet.begun.contains(&second));
    world.way.come_back();
    let beats = |world: &World| world.deployed.api.get(&path(&first))["status"]["heartbeat"].clone();
    let before = beats(&world);
    wait_until("its heart does not beat again", SOON, || beats(&world) != before);
    world.all_end_well(since, &[first, second]);
}

fn path(run: &str) -> String {
    let (namespace, name) = run.split_once('/').unwrap();
    format!("/apis/remora.dev/v1alpha1/namespaces/{namespace}/backupruns/{name}")
}

#[test]
fn connections_that_break_off_lose_nothing() {
    let mut world = World::shared();
    let since = world.deployed.api.mark();
    let first = world.at_work();
    let mut runs = vec![first];
    for _ in 0..3 {
        runs.push(world.ask());
        // At whatever instant of the run that is.
        let before = world.way.connections();
        world.way.break_off();
        wait_until("nobody connects again", SOON, || world.way.connections() > before);
    }
    world.all_end_well(since, &runs);
}

#[test]
fn a_network_that_swallows_what_is_sent_costs_time() {
    let mut world = World::shared();
    let since = world.deployed.api.mark();
    let first = world.at_work();
    world.way.fall_silent();
    let second = world.ask();
    lasts(SILENCE);
    world.way.come_back();
    world.all_end_well(since, &[first, second]);
}

#[test]
fn an_api_server_that_was_killed_and_has_forgotten_is_listed_anew() {
    let mut world = World::shared();
    let since = world.deployed.api.mark();
    let first = world.at_work();
    let begun = world.deployed.api.mark();
    // What happens while the programs do not see it is forgotten when they ask for it.
    world.way.go();
    let second = world.ask();
    let path = path(&second);
    wait_until("the run is not there", SOON, || world.deployed.api.look(&path).code == 200);
    world.deployed.api.stop();
    world.deployed.api.compact();
    world.deployed.api.start_again();
    world.way.come_back();
    let listed = |world: &World| {
        let mut who = BTreeSet::new();
        world.each_since(begun, |request| {
            if request.verb == "list" && request.resource == "backupruns" && request.namespace.is_empty() {
                who.insert((request.user, request.node));
            }
        });
        who
    };
    let wanted: BTreeSet<_> = [("remora-controller", ""), ("remora-agent", "node-0"), ("remora-agent", "node-1")]
        .map(|(user, node)| (user.to_owned(), node.to_owned()))
        .into();
    wait_until("not all have listed anew", SOON, || listed(&world).is_superset(&wanted));
    world.all_end_well(since, &[first, second]);
}

/// Where it is said how many requests of whom are taken.
const FLOWS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

/// Takes one request at a time of remora's two accounts, and refuses the others with 429 and when to ask again.
fn throttle(api: &ApiServer) {
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": "nothing"},
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Reject"},
        }},
    });
    let made = api.create(&format!("{FLOWS}/prioritylevelconfigurations"), &level);
    assert!(matches!(made.code, 201 | 409), "{made:?}");
    let subject =
        |name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "remora", "name": name}});
    let all =
        json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true});
    let schema = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "nothing"},
        "spec": {"matchingPrecedence": 2, "priorityLevelConfiguration": {"name": "nothing"}, "rules": [{
            "subjects": [subject("remora-agent"), subject("remora-controller")],
            "resourceRules": [all], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }]},
    });
    api.create(&format!("{FLOWS}/flowschemas"), &schema).ok();
}

#[test]
fn an_api_server_that_takes_too_few_requests_is_asked_again() {
    let mut world = World::shared();
    let since = world.deployed.api.mark();
    let first = world.at_work();
    throttle(&world.deployed.api);
    // So that a request takes long enough to be in the way of others.
    world.etcd.answers_come_late(Duration::from_millis(500));
    let mut runs = vec![first];
    runs.extend((0..3).map(|_| world.ask()));
    wait_until("nobody is refused", SOON, || {
        let refused = world.answered(since, 429);
        let of = |user: &str| refused.iter().filter(|(who, _)| who == user).count();
        of("remora-agent") > 0 && of("remora-controller") > 0
    });
    world.deployed.api.delete(&format!("{FLOWS}/flowschemas/nothing")).ok();
    world.etcd.come_back();
    world.all_end_well(since, &runs);
}

#[test]
fn tokens_that_expire_before_they_are_renewed_are_read_anew() {
    let mut world = World::shared();
    let since = world.deployed.api.mark();
    let first = world.at_work();
    world.deployed.api.renew_account_key();
    world.deployed.api.stop();
    world.deployed.api.start_again();
    wait_until("nobody is refused", SOON, || world.answered(since, 401).len() > 5);
    let second = world.ask();
    world.deployed.controller.renew_token(&world.deployed.api);
    world.fleet.renew_tokens(&world.deployed, NODES);
    world.all_end_well(since, &[first, second]);
}

#[test]
fn an_etcd_that_is_slow_or_hangs_costs_time() {
    let mut world = World::shared();
    let since = world.deployed.api.mark();
    let first = world.at_work();
    world.etcd.answers_come_late(Duration::from_millis(400));
    let second = world.at_work();
    world.etcd.fall_silent();
    lasts(SILENCE);
    world.etcd.come_back();
    world.all_end_well(since, &[first, second]);
}
