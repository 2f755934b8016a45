//! An agent that is killed, again and again, wherever its run may be; and KubeVirt's own agent of the node.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use remora_tests::cluster::{NAMESPACE, Product, is_true};
use remora_tests::run;
use serde_json::{Value, json};

use crate::scene::{Scene, has};

/// How long after a run has come so far its agent may be killed, in milliseconds.
const LATER: u64 = 1500;

/// How far a run is when its agent is killed.
#[derive(Clone, Copy, Debug)]
enum At {
    /// It has claimed the run.
    Claimed,
    /// It wants a backup of KubeVirt.
    Wanted,
    /// KubeVirt has been asked for it.
    Made,
    /// KubeVirt's job runs: the agent connects, reads, stores, commits.
    Running,
    /// It needs KubeVirt's backup no more: the point is there, or the run is over.
    Ended,
}

/// What becomes of its pod then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// The kubelet starts it again in the same pod: at once, the first time.
    Restarted,
    /// It is deleted, and the node gets another one.
    Replaced,
}

/// At most so many in one run.
const IN_A_RUN: usize = 4;

const KILLS: [(At, Then); 20] = [
    (At::Claimed, Then::Replaced),
    (At::Wanted, Then::Restarted),
    (At::Made, Then::Replaced),
    (At::Running, Then::Replaced),
    (At::Wanted, Then::Restarted),
    (At::Running, Then::Replaced),
    (At::Running, Then::Restarted),
    (At::Ended, Then::Replaced),
    (At::Made, Then::Restarted),
    (At::Made, Then::Replaced),
    (At::Running, Then::Restarted),
    (At::Running, Then::Replaced),
    (At::Running, Then::Restarted),
    (At::Claimed, Then::Replaced),
    (At::Running, Then::Replaced),
    (At::Ended, Then::Restarted),
    (At::Running, Then::Replaced),
    (At::Running, Then::Restarted),
    (At::Wanted, Then::Replaced),
    (At::Running, Then::Replaced),
];

#[test]
fn runs_end_right_whose_agent_is_killed_at_twenty_instants_or_virt_handler_in_the_middle() {
    let _alone = Product::alone();
    let mut scene = Scene::new("kills");
    let seed = std::env::var("REMORA_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("REMORA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    scene.back_up();
    let (mut left, mut resumed) = (&KILLS[..], 0);
    while !left.is_empty() {
        let mut first = Value::Null;
        let status = scene.disturbed(&json!({}), |scene, run| {
            let mut attempt = 0;
            for &(at, then) in left.iter().take(IN_A_RUN) {
                let Some(told) = come_to(scene, run, at, attempt) else { break };
                attempt = told["attempt"]["number"].as_u64().unwrap_or(attempt);
                if first.is_null() {
                    first = told["agent"].clone();
                }
                // The instant itself, not a wait for something.
                let later = Duration::from_millis(random.u64(0..LATER));
                println!("{run}: {at:?} and {later:?} later: {then:?}");
                thread::sleep(later);
                kill(scene, then);
                left = &left[1..];
            }
        });
        resumed += usize::from(is_true(&status, "Complete") && status["agent"] != first);
    }
    assert!(resumed > 0, "no run was resumed by another pod");
    scene.product.wait_for_pods();
    scene.back_up();
    virt_handler_is_killed(&mut scene);
    scene.assert_points_are_right();
}

/// It neither serves the disks nor holds the job: the run goes on, and so does the next one.
fn virt_handler_is_killed(scene: &mut Scene) {
    let status = scene.disturbed_in_the_middle(|scene| {
        scene.vm.cluster().pod("kubevirt", "kubevirt.io=virt-handler").signal("virt-handler", Signal::SIGKILL);
    });
    assert!(is_true(&status, "Complete"), "{status:#}");
    scene.increment();
}

/// Waits until a run has come so far, in an attempt later than `before`; gives its status. None if it has ended before:
/// its last attempt had committed when its agent was killed, or the run has failed.
fn come_to(scene: &Scene, run: &str, at: At, before: u64) -> Option<Value> {
    let agent = || scene.vm.cluster().pods(NAMESPACE, AGENT).first().map(|pod| pod.uid().to_owned());
    let agent = agent();
    let over = |status: &Value| status["completionTime"].is_string();
    let later = |status: &Value| status["attempt"]["number"].as_u64().is_some_and(|number| number > before);
    let there = |status: &Value| match at {
        At::Claimed => status["agent"].is_string() && status["agent"].as_str() == agent.as_deref(),
        At::Wanted => later(status),
        At::Made | At::Running => {
            later(status) && has(status, "Prepared", "True") && status["preparedAttempt"] == status["attempt"]["number"]
        }
        At::Ended => over(status) || (later(status) && status["attempt"]["state"] == "Ended"),
    };
    let status = scene.wait_for(run, &format!("it is not {at:?}"), |status| over(status) || there(status));
    if matches!(at, At::Running) && there(&status) {
        scene.wait_for_job(run);
    }
    there(&status).then_some(status)
}

const AGENT: &str = "app.kubernetes.io/name=remora-agent";

/// Kills the agent's process.
fn kill(scene: &Scene, then: Then) {
    let cluster = scene.vm.cluster();
    let pods = cluster.pods(NAMESPACE, AGENT);
    // Not what it has started: that has another argument.
    let agents = run(cluster.in_node("pgrep").args(["--full", "^/usr/bin/remora-agent node"]));
    for process in agents.text().lines() {
        run(cluster.in_node("kill").args(["-s", "KILL", process]));
    }
    if then == Then::Replaced {
        for pod in pods {
            let args =
                ["delete", "pod", pod.name(), "--namespace", NAMESPACE, "--grace-period=0", "--force", "--wait=false"];
            cluster.kubectl(&args);
        }
    }
}
