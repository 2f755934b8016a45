//! What to do about a worker: pure, but for [`take`].

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::DeleteParams;
use kube::{Api, Client};

use super::{Image, Mounts, PodState, Task, Worker, WorkerFacts, objects};
use crate::conditions::Says;
use crate::controller::apply::{make, remove};
use crate::controller::observed::{Agent, Taken, Thing};
use crate::resources::Run;

/// Why a run does not go on.
pub(in crate::controller) enum Trouble {
    /// It will not.
    Ends(Says),
    /// It may yet.
    Waits(Says),
}

impl From<Says> for Trouble {
    fn from(says: Says) -> Self {
        Self::Ends(says)
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::controller) enum WorkerStep {
    RemovePod(Thing),
    /// By its name, which has the run's UID: there is no other of that name.
    RemoveSecret(String),
    MakeSecret(Box<Secret>),
    MakePod(Box<Pod>),
}

impl Worker {
    /// Whether there is anything of it.
    pub(in crate::controller) const fn is_there(&self) -> bool {
        matches!(self.pod, WorkerFacts::Pod(..)) || matches!(self.secret, Taken::Ours { .. })
    }

    /// What removes it, unless it goes already.
    pub(in crate::controller) fn removal(&self, run: &impl Run) -> Vec<WorkerStep> {
        let mut steps = Vec::new();
        if let WorkerFacts::Pod(thing, _) = &self.pod
            && !thing.leaving
        {
            steps.push(WorkerStep::RemovePod(thing.clone()));
        }
        if self.secret == (Taken::Ours { leaving: false }) {
            steps.push(WorkerStep::RemoveSecret(objects::worker_name(run)));
        }
        steps
    }

    /// What of it is still to be made.
    pub(in crate::controller) fn making(
        &self,
        run: &impl Run,
        task: Task,
        image: Option<&Image>,
        mounts: &Mounts,
    ) -> Result<Vec<WorkerStep>, Trouble> {
        let (mut steps, name) = (Vec::new(), objects::worker_name(run));
        match self.secret {
            Taken::Free => steps.push(WorkerStep::MakeSecret(Box::new(objects::secret(run)))),
            Taken::Ours { leaving: false } => {}
            _ => return Err(taken(run, "Secret", &name)),
        }
        match &self.pod {
            WorkerFacts::None => {
                let image = image.ok_or_else(|| {
                    let message = "The controller does not know the image of its own pod. Ask the administrators to set \
                                   REMORA_IMAGE of the Deployment remora-controller.";
                    Trouble::Waits(Says::no("NoImage", message))
                })?;
                steps.push(WorkerStep::MakePod(Box::new(objects::pod(run, task, image, mounts))));
            }
            WorkerFacts::Foreign => return Err(taken(run, "Pod", &name)),
            WorkerFacts::Pod(..) => {}
        }
        Ok(steps)
    }

    /// Where it runs. `agents` are those of that node.
    pub(in crate::controller) fn node<R: Run>(&self, run: &R, task: Task, agents: &[Agent]) -> Result<String, Trouble> {
        let pod = task.described();
        let node = match &self.pod {
            WorkerFacts::Pod(_, PodState::Runs(node)) => node,
            WorkerFacts::Pod(_, PodState::Waiting(why)) => {
                // Why a volume is not mounted is in its events alone, which are not ours to read.
                let (why, name) = (why.trim_end_matches('.'), objects::worker_name(run));
                let message = format!("{pod} does not run yet: {why}. `kubectl describe pod {name}` tells more.");
                return Err(Trouble::Waits(Says::not_yet("WorkerPending", message)));
            }
            WorkerFacts::Pod(_, PodState::Ended(why)) => {
                let message = format!("{pod} has ended: {why}. Create another {}.", R::kind(&()));
                return Err(Says::no("WorkerFailed", message).into());
            }
            WorkerFacts::None | WorkerFacts::Foreign => {
                return Err(Trouble::Waits(Says::not_yet("Preparing", format!("{pod} is being made."))));
            }
        };
        if agents.iter().all(|agent| !agent.is_ready) {
            return Err(Trouble::Waits(no_agent(node)));
        }
        Ok(node.clone())
    }
}

impl Task {
    /// The pod, as a subject.
    pub(in crate::controller) const fn described(self) -> &'static str {
        match self {
            Self::Receive => "The pod that writes the claims",
            Self::Lend => "The pod that reads the machine's claims",
        }
    }
}

pub(in crate::controller) fn no_agent(node: &str) -> Says {
    let message = format!(
        "No pod of remora's agent is ready on node {node}. Look at its DaemonSet, whether it tolerates that node's taints, and \
         whether its pod there crashes: kubectl get pods -o wide -n remora."
    );
    Says::no("NoAgent", message)
}

fn taken<R: Run>(_: &R, kind: &str, name: &str) -> Trouble {
    let message = format!("There is a {kind} {name} already. Delete it, and create another {}.", R::kind(&()));
    Says::no("NameTaken", message).into()
}

/// Does it.
pub(in crate::controller) async fn take(
    client: &Client,
    namespace: &str,
    step: &WorkerStep,
) -> Result<(), kube::Error> {
    match step {
        WorkerStep::RemovePod(thing) => remove::<Pod>(client, namespace, &thing.name, &thing.uid).await,
        WorkerStep::RemoveSecret(name) => {
            let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
            match secrets.delete(name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                deleted => deleted.map(drop),
            }
        }
        WorkerStep::MakeSecret(secret) => {
            let secret = objects::with_certificates((**secret).clone());
            let secret = secret.map_err(|error| kube::Error::Service(error.into()))?;
            make(client, namespace, &secret).await
        }
        WorkerStep::MakePod(pod) => make(client, namespace, &**pod).await,
    }
}

/// The reason and the thing that the cluster refused.
pub(in crate::controller) const fn refused(step: &WorkerStep) -> (&'static str, &'static str) {
    match step {
        WorkerStep::MakeSecret(_) => ("SecretRefused", "Secret of the worker's certificates"),
        WorkerStep::MakePod(_) => ("WorkerRefused", "pod that has the claims"),
        WorkerStep::RemovePod(_) | WorkerStep::RemoveSecret(_) => ("RemovalRefused", "removal of the worker"),
    }
}
