//! An agent that is killed, again and again, wherever its run may be; and KubeVirt's own agent of the node.

// Its test is one that is alone, too. By their names those begin first, one right after the other: in between, each of them would
// wait for the tests that are at work, and the next test for it.
mod privileges;

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use remora_tests::cluster::{NAMESPACE, Product, condition, is_true};
use remora_tests::truth::assert_same;
use remora_tests::{Fault, Meddler, run, wait_until};
use serde_json::{Value, json};

use crate::scene::{LOOK_EVERY, Scene, has, why_failed};

/// How long a run may take to come somewhere, and an agent to be there, on a busy machine.
const LIMIT: Duration = Duration::from_mins(10);

/// How long after its job runs an agent may be killed that is killed by chance, in milliseconds.
const LATER: u64 = 1500;

/// How far a run is, by what the API server, KubeVirt and the store have of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Its node is known, and no agent has claimed it.
    Unclaimed,
    /// An agent has, which asks for keys and reads the store.
    Claimed,
    /// It wants a backup of KubeVirt.
    Wanted,
    /// KubeVirt has been asked for it: the agent waits for the job and its socket.
    Made,
    /// KubeVirt's job runs: the agent connects and reads.
    Reading,
    /// The store is asked to take what was read.
    Storing,
    /// The store is asked to take the point.
    Committing,
    /// It has the point, and nobody has been told.
    Committed,
    /// KubeVirt's backup is no longer wanted, and still there.
    CleaningUp,
    /// How the run ended has been said.
    Over,
}

use Phase::{Claimed, CleaningUp, Committed, Committing, Made, Over, Reading, Storing, Unclaimed, Wanted};

/// What becomes of its pod then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// The kubelet starts it again in the same pod: at once, the first time.
    Restarted,
    /// It is deleted, and the node gets another one.
    Replaced,
}

use Then::{Replaced, Restarted};

/// Those of one run after another. An agent that is to be killed while a run is `Reading` is killed some time after that
/// began, wherever it is by then; all others are caught where they are said to be.
const KILLS: [[(Phase, Then); 4]; 5] = [
    [(Unclaimed, Replaced), (Wanted, Restarted), (Made, Replaced), (Reading, Restarted)],
    [(Claimed, Replaced), (Wanted, Restarted), (Storing, Replaced), (CleaningUp, Restarted)],
    [(Made, Replaced), (Storing, Restarted), (Committed, Replaced), (Over, Restarted)],
    [(Claimed, Replaced), (Made, Restarted), (Committing, Replaced), (CleaningUp, Restarted)],
    [(Unclaimed, Replaced), (Wanted, Restarted), (Committing, Replaced), (Reading, Restarted)],
];

/// Where kills have fallen in the end. A run stays `Unclaimed`, `Storing`, `Committing` and `Committed` as long as the test
/// has it so, `Claimed` while the store answers nothing, and `Over` for ever. It is `Made` and `CleaningUp` while KubeVirt attaches
/// and detaches volumes, which takes seconds, and `Wanted` for a few requests of the controller's: a kill may come later.
const SURE: [Phase; 6] = [Unclaimed, Claimed, Storing, Committing, Committed, Over];

/// As many runs as all that takes at the most, of which some may end before their agent was killed as often as it should.
const RUNS: usize = 15;

#[test]
fn runs_end_right_whose_agent_is_killed_at_twenty_instants_or_replaced_or_virt_handler_in_the_middle() {
    let mut scene = {
        let _undisturbed = Product::undisturbed();
        let mut scene = Scene::new("kills");
        scene.back_up();
        scene
    };
    let _alone = Product::alone();
    let mut killer = Killer::new(scene.store.clone());
    let (mut runs, mut resumed) = (0, 0);
    for kills in &KILLS {
        let mut left = &kills[..];
        while let Some(&(first, _)) = left.first() {
            assert!(runs < RUNS, "runs end before their agents are killed: {:?}", killer.fell);
            runs += 1;
            killer.lie_in_wait(&scene, first);
            let mut agent = Value::Null;
            let status = scene.disturbed(&json!({}), |scene, run| {
                for &(at, then) in left {
                    let Some(told) = killer.kill(scene, run, at, then) else { break };
                    if agent.is_null() {
                        agent = told["agent"].clone();
                    }
                    left = &left[1..];
                }
            });
            killer.store.come_back();
            resumed += usize::from(agent.is_string() && is_true(&status, "Complete") && status["agent"] != agent);
        }
    }
    assert!(resumed > 0, "no run was resumed by another pod");
    killer.assert_fell_everywhere();
    scene.product.wait_for_pods();
    scene.back_up();
    is_rolled_out(&mut scene);
    virt_handler_is_killed(&mut scene);
    restores_lose_their_agent_and_one_its_worker(&scene);
    scene.assert_points_are_right();
}

/// The agent is told to stop, gives its run back in its middle, and the one that comes in its place does the same run.
fn is_rolled_out(scene: &mut Scene) {
    let (store, mut held) = (scene.store.clone(), Value::Null);
    let cluster = scene.vm.cluster();
    let before = cluster.pod(NAMESPACE, AGENT).uid().to_owned();
    // Without an answer to this one it cannot commit; all else that it asks for when it is to stop is answered.
    store.meddle("PUT", "/s/", Fault::Hang, 1);
    let status = scene.disturbed(&json!({}), |scene, run| {
        wait_until("it stores nothing", LIMIT, || store.left() == 0);
        held = scene.status(run);
        assert_eq!(held["agent"], before.as_str());
        cluster.kubectl(&["rollout", "restart", "daemonset/remora-agent", "--namespace", NAMESPACE]);
    });
    store.come_back();
    assert!(is_true(&status, "Complete"), "{status:#}\n{}", scene.product.logs());
    let pod = cluster.pod(NAMESPACE, AGENT);
    assert!(pod.uid() != before && status["agent"] == pod.uid(), "{before}, {}: {status:#}", pod.uid());
    assert!(status["attempt"]["number"].as_u64() > Some(1), "{status:#}");
    // For how long nobody has it is a matter of luck. What is taken over, instead of given back, is claimed since it was at first.
    assert_ne!(claimed_since(&status), claimed_since(&held), "it was not given back: {status:#}");
    scene.product.wait_for_pods();
    scene.increment();
}

fn claimed_since(status: &Value) -> String {
    let object = json!({"status": status});
    condition(&object, "Claimed").unwrap()["lastTransitionTime"].as_str().unwrap().to_owned()
}

/// It neither serves the disks nor holds the job: the run goes on, and so does the next one.
fn virt_handler_is_killed(scene: &mut Scene) {
    let status = scene.disturbed_in_the_middle(&json!({}), |scene, _, _held| {
        scene.vm.cluster().pod("kubevirt", "kubevirt.io=virt-handler").signal("virt-handler", Signal::SIGKILL);
    });
    assert!(is_true(&status, "Complete"), "{status:#}");
    scene.increment();
}

/// Of two restores that read the point when their agent is killed, the one whose worker is killed too fails and leaves no claim;
/// the other one is begun again, and right.
fn restores_lose_their_agent_and_one_its_worker(scene: &Scene) {
    const NAMES: [&str; 2] = ["kept", "lost"];
    let (cluster, namespace, newest) = (scene.vm.cluster(), scene.vm.namespace(), scene.last_run());
    let store = &scene.store;
    let wait = |name: &str, what: &str, ready: &dyn Fn(&Value) -> bool| {
        let ready = |run: Option<&Value>| run.is_some_and(ready);
        cluster.wait_for("restorerun", namespace, name, what, LIMIT, ready).unwrap()
    };
    // Until it is the agent alone that reads segments.
    freeze_once_ready(scene);
    for name in NAMES {
        cluster.apply(&restore(scene, name));
    }
    let [_, lost] =
        NAMES.map(|name| wait(name, "it has no worker", &|run: &Value| has(&run["status"], "Assigned", "True")));
    // Silent, not down: of a store that is down an agent says so within seconds.
    let read = store.seen("GET", "/s/");
    store.meddle("GET", "/s/", Fault::Hang, usize::MAX);
    thaw(scene);
    wait_until("no restore reads a segment", LIMIT, || store.seen("GET", "/s/") > read);
    for name in NAMES {
        wait(name, "it is not claimed", &|run: &Value| run["status"]["agent"].is_string());
    }
    freeze(scene);
    let worker = format!("remora-worker-{}", lost["metadata"]["uid"].as_str().unwrap());
    delete_pod(scene, namespace, &worker);
    kill(scene, Replaced);
    store.come_back();

    let over = |run: &Value| {
        (is_true(&run["status"], "Complete") || is_true(&run["status"], "Failed"))
            && run["metadata"]["finalizers"].is_null()
    };
    let [kept, lost] = NAMES.map(|name| wait(name, "the restore does not end", &over)["status"].take());
    assert!(is_true(&kept, "Complete"), "{kept:#}\n{}", scene.product.logs());
    assert_same(&cluster.volume(namespace, "kept-data").join("disk.img"), &scene.truth(newest, "data"));
    let (reason, message) = why_failed(&lost);
    assert_eq!(reason, "WorkerLost", "{message}");
    cluster.wait_gone("pvc", namespace, "lost-data", LIMIT);
}

/// What asks for a disk of the last run's point in a new claim.
fn restore(scene: &Scene, name: &str) -> Value {
    json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "RestoreRun",
        "metadata": {"name": name, "namespace": scene.vm.namespace()},
        "spec": {
            "point": scene.status(scene.last_run())["point"],
            "repository": {"name": scene.repository, "namespace": NAMESPACE},
            "disks": [{"disk": "data", "claim": format!("{name}-data")}],
        },
    })
}

/// Who kills the agent, and where the kills fell.
struct Killer {
    /// Before the store.
    store: Meddler,
    random: fastrand::Rng,
    fell: Vec<Phase>,
    run: Progress,
}

/// What there was of a run before what is looked for now.
#[derive(Default)]
struct Progress {
    /// The entries in the store before the run.
    entries: usize,
    /// The number of the attempt whose agent was killed last.
    attempt: u64,
    /// The requests to store segments and entries that dead agents have made.
    segments: usize,
    commits: usize,
}

impl Killer {
    fn new(store: Meddler) -> Self {
        let seed = std::env::var("REMORA_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        println!("REMORA_TEST_SEED={seed}");
        Self { store, random: fastrand::Rng::with_seed(seed), fell: Vec::new(), run: Progress::default() }
    }

    /// Does what has to be done before a run is there whose agent is to be caught there first.
    #[track_caller]
    fn lie_in_wait(&mut self, scene: &Scene, first: Phase) {
        self.run = Progress { entries: scene.entries(), ..self.asked() };
        if matches!(first, Unclaimed | Claimed) {
            freeze_once_ready(scene);
        }
    }

    /// What agents have asked of the store so far.
    fn asked(&self) -> Progress {
        let (segments, commits) = (self.store.seen("PUT", "/s/"), self.store.seen("PUT", "/m/"));
        Progress { segments, commits, ..Progress::default() }
    }

    /// Kills the agent where its run is to be, in an attempt that is later than the one before. Gives the run's status then. None
    /// if the run has ended before: its last attempt had committed when its agent was killed, or the run has failed.
    fn kill(&mut self, scene: &Scene, run: &str, at: Phase, then: Then) -> Option<Value> {
        if !self.comes_to(scene, run, at) {
            return None;
        }
        if at == Reading {
            // The instant itself, not a wait for something.
            thread::sleep(Duration::from_millis(self.random.u64(0..LATER)));
        }
        // It gets no further than where it is seen.
        freeze(scene);
        let status = scene.status(run);
        let fell = self.phase(scene, &status);
        println!("{run}: to be killed when {at:?}, killed when {fell:?} ({}), {then:?}", reasons(&status));
        self.fell.push(fell);
        kill(scene, then);
        self.store.come_back();
        let attempt = status["attempt"]["number"].as_u64().unwrap_or(self.run.attempt);
        self.run = Progress { entries: self.run.entries, attempt, ..self.asked() };
        Some(status)
    }

    /// Waits until a run is there; false if it has ended before.
    fn comes_to(&self, scene: &Scene, run: &str, at: Phase) -> bool {
        let come = |there: &dyn Fn(&Value) -> bool| {
            let status = scene.wait_for(run, &format!("it is not {at:?}"), |status| is_over(status) || there(status));
            there(&status)
        };
        let unclaimed = |status: &Value| has(status, "Assigned", "True") && !status["agent"].is_string();
        match at {
            Unclaimed => come(&unclaimed),
            Claimed => {
                let assigned = come(&unclaimed);
                // Whoever reads first gets no answer: the controller, for the keys, or the agent.
                self.store.meddle("GET", "", Fault::GoDown, 1);
                thaw(scene);
                assigned && come(&|status: &Value| status["agent"].is_string())
            }
            Wanted => come(&|status: &Value| self.is_later(status)),
            Made => come(&|status: &Value| self.is_made(status)),
            Reading => {
                let made = come(&|status: &Value| self.is_made(status));
                if made {
                    scene.wait_for_job(run);
                }
                made
            }
            Storing => self.is_caught(scene, run, "/s/", Fault::GoDown),
            Committing => self.is_caught(scene, run, "/m/", Fault::GoDown),
            Committed => self.is_caught(scene, run, "/m/", Fault::LoseAnswerAndGoDown),
            CleaningUp => come(&|status: &Value| {
                self.is_later(status) && status["attempt"]["state"] == "Ended" && !is_over(status)
            }),
            Over => come(&is_over),
        }
    }

    /// Whether the store is asked to take something there before the run ends. It answers nothing from then on.
    fn is_caught(&self, scene: &Scene, run: &str, path: &str, fault: Fault) -> bool {
        self.store.meddle("PUT", path, fault, 1);
        let mut looked = Instant::now();
        wait_until(format_args!("{run} does not ask the store to take {path}"), LIMIT, || {
            if self.store.is_down() || looked.elapsed() < LOOK_EVERY {
                return self.store.is_down();
            }
            looked = Instant::now();
            is_over(&scene.status(run))
        });
        self.store.is_down()
    }

    fn is_later(&self, status: &Value) -> bool {
        status["attempt"]["number"].as_u64().is_some_and(|number| number > self.run.attempt)
    }

    fn is_made(&self, status: &Value) -> bool {
        self.is_later(status)
            && has(status, "Prepared", "True")
            && status["preparedAttempt"] == status["attempt"]["number"]
    }

    /// Where a run is that has this status.
    fn phase(&self, scene: &Scene, status: &Value) -> Phase {
        let (asked, attempt) = (self.asked(), &status["attempt"]);
        let has_job = || {
            let backup = scene.vm.cluster().find("vmbackup", scene.vm.namespace(), attempt["backup"].as_str().unwrap());
            backup.is_some_and(|backup| backup["status"]["type"].is_string())
        };
        if is_over(status) {
            Over
        } else if attempt["state"] == "Ended" {
            CleaningUp
        } else if scene.entries() > self.run.entries {
            Committed
        } else if asked.commits > self.run.commits {
            Committing
        } else if asked.segments > self.run.segments {
            Storing
        } else if self.is_made(status) {
            if has_job() { Reading } else { Made }
        } else if self.is_later(status) {
            Wanted
        } else if status["agent"].is_string() {
            Claimed
        } else {
            Unclaimed
        }
    }

    #[track_caller]
    fn assert_fell_everywhere(&self) {
        println!("{} kills fell when their runs were {:?}", self.fell.len(), self.fell);
        for phase in SURE {
            assert!(self.fell.contains(&phase), "none fell when a run was {phase:?}: {:?}", self.fell);
        }
    }
}

fn is_over(status: &Value) -> bool {
    status["completionTime"].is_string()
}

/// What the conditions of a status say, in short.
fn reasons(status: &Value) -> String {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let says = |one: &Value| format!("{}={}:{}", text(one, "type"), text(one, "status"), text(one, "reason"));
    conditions.iter().map(says).collect::<Vec<_>>().join(" ")
}

const AGENT: &str = "app.kubernetes.io/name=remora-agent";

/// Stops the agent's process before it has anything to do, but not before it is known to be ready: what is given to agents is then
/// given to it.
#[track_caller]
fn freeze_once_ready(scene: &Scene) {
    scene.product.wait_for_agent(scene.vm.cluster().node_name());
    freeze(scene);
}

/// Stops the agent's process where it is.
#[track_caller]
fn freeze(scene: &Scene) {
    wait_until("no agent runs", LIMIT, || signal_agent(scene, "STOP"));
}

/// Lets it go on.
#[track_caller]
fn thaw(scene: &Scene) {
    wait_until("no agent goes on", LIMIT, || signal_agent(scene, "CONT"));
}

/// Sends a signal to the agent's process; false if there is none.
fn signal_agent(scene: &Scene, signal: &str) -> bool {
    let cluster = scene.vm.cluster();
    // Not what it has started: that has another argument.
    let agents = run(cluster.in_node("pgrep").args(["--full", "^/usr/bin/remora-agent node"]));
    let mut sent = false;
    for process in agents.text().lines() {
        sent |= run(cluster.in_node("kill").args(["-s", signal, process])).status.success();
    }
    sent
}

/// Kills the agent's process.
fn kill(scene: &Scene, then: Then) {
    let pods = scene.vm.cluster().pods(NAMESPACE, AGENT);
    signal_agent(scene, "KILL");
    if then == Replaced {
        for pod in pods {
            delete_pod(scene, NAMESPACE, pod.name());
        }
    }
}

/// Deletes a pod without a word to what runs in it.
#[track_caller]
fn delete_pod(scene: &Scene, namespace: &str, name: &str) {
    let args = ["delete", "pod", name, "--namespace", namespace, "--grace-period=0", "--force", "--wait=false"];
    scene.vm.cluster().kubectl(&args);
}
