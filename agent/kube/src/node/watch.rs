//! The runs of this node, as the API server tells of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, ResourceExt};

use crate::resources::Run;

/// Follows the runs of a node, and of these the ones that `more` selects. A watch that breaks off, or whose version is too
/// old, is begun again with a list; between tries it waits longer and longer.
pub(super) fn runs_of<R: Run>(
    client: &Client,
    node: &str,
    more: &str,
) -> BoxStream<'static, watcher::Result<Event<R>>> {
    let runs: Api<R> = Api::all(client.clone());
    let config = Config::default().fields(&format!("status.node={node}{more}"));
    watcher(runs, config).default_backoff().boxed()
}

/// Whether the API server has forgotten what a watch was to go on from, and said so before the watch began: that the
/// stream does not recover from, as it does from the same answer within a watch. It has to be begun anew.
pub(super) fn is_too_old(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// What an administrator has to do, where the API server knows no such runs, or not the fields that they are selected by.
pub(super) fn advice(error: &watcher::Error) -> Option<&'static str> {
    let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) = error else {
        return None;
    };
    matches!(cause, kube::Error::Api(status) if matches!(status.code, 400 | 404)).then_some(
        "If the definitions of remora's resources are of an older version than this agent: apply deploy/base/crds.yaml of \
         its version, or what `remora crds` prints, with `kubectl apply --server-side`.",
    )
}

/// The runs of this node, by UID.
#[derive(Debug)]
pub(super) struct Runs<R> {
    known: BTreeMap<String, Arc<R>>,
    /// Those of a list that is being read.
    listed: BTreeSet<String>,
    /// Whether one list was read to its end.
    complete: bool,
}

/// What an event says of a run.
#[derive(Debug)]
pub(super) enum News<R> {
    /// It is like this.
    Is(String, Arc<R>),
    /// These are not there any more.
    Gone(Vec<String>),
    Nothing,
}

impl<R> Default for Runs<R> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), listed: BTreeSet::new(), complete: false }
    }
}

impl<R: Run> Runs<R> {
    /// Notes an event.
    pub(super) fn note(&mut self, event: Event<R>) -> News<R> {
        match event {
            Event::Init => {
                self.listed.clear();
                News::Nothing
            }
            Event::InitApply(run) => {
                self.listed.extend(run.uid());
                self.put(run)
            }
            Event::Apply(run) => self.put(run),
            Event::InitDone => {
                self.complete = true;
                let listed = std::mem::take(&mut self.listed);
                let gone: Vec<_> = self.known.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                self.known.retain(|uid, _| listed.contains(uid));
                News::Gone(gone)
            }
            Event::Delete(run) => {
                let uid = run.uid().unwrap_or_default();
                self.known.remove(&uid);
                News::Gone(vec![uid])
            }
        }
    }

    fn put(&mut self, run: R) -> News<R> {
        let (uid, mut run) = (run.uid().unwrap_or_default(), run);
        // Nobody asks for them, and they are most of its size.
        run.meta_mut().managed_fields = None;
        let run = Arc::new(run);
        self.known.insert(uid.clone(), Arc::clone(&run));
        News::Is(uid, run)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<R>> {
        self.known.values()
    }

    /// Whether all runs of this node are known.
    pub(super) fn are_known(&self) -> bool {
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;
    use crate::resources::BackupRun;

    fn run(name: &str) -> BackupRun {
        let spec = json!({"virtualMachine": "vm", "repository": {"name": "r"}});
        serde_json::from_value(json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "BackupRun", "metadata": {"name": name, "uid": name}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn definitions_that_are_older_than_the_agent_are_to_be_applied_anew() {
        let answers = |code: u16| {
            let answer = Status::failure("field label not supported: spec.verify", "BadRequest").with_code(code);
            kube::Error::Api(Box::new(answer))
        };
        for code in [400, 404] {
            for error in
                [watcher::Error::InitialListFailed(answers(code)), watcher::Error::WatchStartFailed(answers(code))]
            {
                assert!(advice(&error).is_some_and(|advice| advice.contains("deploy/base/crds.yaml")), "{error}");
            }
        }
        for error in [
            watcher::Error::InitialListFailed(answers(403)),
            watcher::Error::WatchStartFailed(answers(410)),
            watcher::Error::NoResourceVersion,
        ] {
            assert_eq!(advice(&error), None, "{error}");
        }
    }

    #[test]
    fn a_new_list_takes_away_what_is_not_in_it() {
        let mut runs = Runs::default();
        for event in [Event::Init, Event::InitApply(run("a")), Event::InitApply(run("b"))] {
            runs.note(event);
        }
        assert!(!runs.are_known());
        runs.note(Event::InitDone);
        runs.note(Event::Apply(run("c")));
        runs.note(Event::Init);
        runs.note(Event::InitApply(run("c")));
        // What is not listed yet may be listed still.
        assert_eq!(runs.iter().count(), 3);
        let News::Gone(gone) = runs.note(Event::InitDone) else { panic!("nothing is gone") };
        assert_eq!(gone, ["a", "b"]);
        runs.note(Event::Delete(run("c")));
        assert_eq!(runs.iter().count(), 0);
    }
}
