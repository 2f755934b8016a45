//! Runs of machines that are halted.

use super::*;
use crate::conditions::Truth;
use crate::controller::worker::{PodState, WorkerFacts};

/// The machine is halted, and nothing uses its claims.
fn halted() -> Observed {
    let mut observed = sound();
    let claim = |name: &str, block| Claim { name: name.into(), block: Some(block), users: Vec::new() };
    let machine = found(&mut observed);
    (machine.state, machine.instance) = ("Stopped".into(), None);
    let claims = vec![claim("root-claim", false), claim("data-claim", true)];
    machine.halted = Some(Halted { claims, ..Halted::default() });
    observed.agents.clear();
    observed
}

/// The same, and the status says so.
fn known_halted() -> Observed {
    let mut observed = halted();
    status(&mut observed).halted = true;
    observed
}

fn claims(observed: &mut Observed) -> &mut Vec<Claim> {
    &mut found(observed).halted.as_mut().unwrap().claims
}

fn worker(state: PodState) -> Worker {
    Worker { pod: WorkerFacts::Pod(thing("remora-worker-uid"), state), secret: Taken::Ours { leaving: false } }
}

#[test]
fn a_halted_machine_is_read_by_the_agent_of_the_node_on_which_its_worker_runs() {
    // It is written first that there may be a worker.
    let first = plan(&halted());
    assert!(first.steps.is_empty() && first.status.unwrap().halted);
    let mut observed = known_halted();
    assert_eq!(steps(&observed), ["secret", "worker"]);
    let Some(Step::Worker(WorkerStep::MakePod(pod))) = plan(&observed).steps.pop() else { panic!("no worker") };
    let spec = pod.spec.unwrap();
    let container = &spec.containers[0];
    assert_eq!(container.args.as_ref().unwrap()[0], "lend");
    assert_eq!(&container.args.as_ref().unwrap()[3..], ["--disk=/disks/0", "--disk=/dev/disk-1"]);
    let mounts = container.volume_mounts.as_ref().unwrap();
    assert!(mounts.iter().all(|mount| mount.read_only == Some(true)), "{mounts:?}");
    assert_eq!(container.volume_devices.as_ref().unwrap()[0].device_path, "/dev/disk-1");

    observed.worker = worker(PodState::Waiting("no volume".into()));
    assert_eq!(assigned(&observed).reason, "WorkerPending");
    observed.worker = worker(PodState::Runs("two".into()));
    assert_eq!(assigned(&observed).reason, "NoAgent");
    observed.agents = vec![agent("agent")];
    let status = plan(&observed).status.unwrap();
    assert_eq!((status.node.as_deref(), status.halted), (Some("two"), true));
    assert_eq!(status.assigned.unwrap().truth, Truth::True);
    // One that has ended is made again.
    observed.worker = worker(PodState::Ended("Evicted".into()));
    assert_eq!(
        (steps(&observed), &*assigned(&observed).reason),
        (vec!["remove worker", "remove secret"], "WorkerFailed")
    );
}

#[test]
fn what_keeps_a_halted_machine_from_being_read_is_said() {
    type Wrong = fn(&mut Observed);
    let rows: &[(Wrong, &str, &str)] = &[
        (|o| claims(o).clear(), "NoEligibleDisk", "PersistentVolumeClaim"),
        (|o| claims(o)[1].block = None, "NoClaim", "no PersistentVolumeClaim data-claim"),
        (|o| claims(o)[0].users = vec!["pod app".into()], "ClaimInUse", "root-claim is used by pod app"),
        (|o| o.image = None, "NoImage", "REMORA_IMAGE"),
        (|o| o.worker.pod = WorkerFacts::Foreign, "NameTaken", "Pod remora-worker-"),
        (|o| o.repository = RepositoryFacts::NotAllowed, "RepositoryNotAllowed", "allowedNamespaces"),
    ];
    for (wrong, reason, words) in rows {
        let mut observed = known_halted();
        wrong(&mut observed);
        let says = assigned(&observed);
        assert_eq!(says.reason, *reason);
        assert!(says.message.contains(words), "wanted {words:?} in {says:?}");
        assert!(plan(&observed).status.unwrap().node.is_none(), "{reason}");
    }
}

#[test]
fn a_machine_that_is_started_before_it_is_read_is_backed_up_as_it_runs() {
    let started = |observed: &mut Observed| {
        let running = sound();
        observed.machine = running.machine;
        observed.agents = running.agents;
    };
    // The worker goes, and then the run is one of a machine that runs.
    let mut observed = known_halted();
    observed.worker = worker(PodState::Runs("two".into()));
    started(&mut observed);
    assert_eq!(
        (steps(&observed), &*assigned(&observed).reason),
        (vec!["remove worker", "remove secret"], "CleaningUp")
    );
    assert!(plan(&observed).status.unwrap().halted);
    observed.worker = Worker::default();
    let says = plan(&observed).status.unwrap();
    assert_eq!((says.node.as_deref(), says.halted), (Some("one"), false));
}

/// The agent ends the run.
#[test]
fn a_machine_that_is_started_while_it_is_read_gets_its_claims_back_at_once() {
    type Change = fn(&mut Observed);
    let changes: [(Change, bool); 4] = [
        (|_| {}, true),
        (|o| claims(o)[0].users = vec!["pod app".into()], false),
        (|o| found(o).halted = None, false),
        (|o| o.machine = Machine::Missing, false),
    ];
    for (number, (change, stays)) in changes.iter().enumerate() {
        let mut observed = known_halted();
        observed.worker = worker(PodState::Runs("two".into()));
        status(&mut observed).node = Some("two".into());
        status(&mut observed).agent = Some("agent".into());
        change(&mut observed);
        assert_eq!(steps(&observed).is_empty(), *stays, "{number}");
        let says = plan(&observed).status.unwrap();
        assert_eq!((says.node.as_deref(), says.halted, says.ended), (Some("two"), true, None), "{number}");
    }
}

#[test]
fn a_run_that_has_ended_keeps_its_finalizer_until_its_worker_is_gone() {
    let mut observed = known_halted();
    observed.worker = worker(PodState::Runs("two".into()));
    observed.run.status.as_mut().unwrap().conditions = vec![condition("Failed", "True")];
    assert_eq!(steps(&observed), ["remove worker", "remove secret"]);
    observed.worker = Worker::default();
    assert_eq!(plan(&observed).finalizer, Finalizer::Remove);
}
