//! Keeps the policies in force: watches their folder, and puts the next generation in place when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use remora_core::{Error, ErrorKind, Result};
use remora_plugins::set::{Generation, Kept, Snapshot};
use remora_plugins::{Host, Wants};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::PolicyMetrics;

/// A change is often several: the swap of a `ConfigMap` makes and removes folders too. So long nothing must happen.
const SETTLED: Duration = Duration::from_millis(300);

/// But a folder that never rests is read all the same.
const AT_MOST: Duration = Duration::from_secs(1);

/// The folder is looked at so often whatever is told of it: a mount that is replaced takes its watch with it.
const POLL: Duration = Duration::from_secs(30);

/// What was fetched and what was compiled is tidied up so often.
const TIDIED_EVERY: Duration = Duration::from_hours(24);

/// The folder of policies and what is in force of it.
pub struct Policies {
    folder: PathBuf,
    host: Host,
    kept: Option<Kept>,
    metrics: PolicyMetrics,
    current: watch::Sender<Arc<Generation>>,
    read: Option<Snapshot>,
    /// How often the folder is looked at whatever is told of it.
    poll: Duration,
}

impl Policies {
    /// That of a folder, of which nothing is in force yet. Good versions are `kept`, if there is a place for them.
    pub fn new(folder: PathBuf, host: Host, kept: Option<Kept>, metrics: PolicyMetrics) -> Self {
        let (current, _) = watch::channel(Arc::new(Generation::default()));
        Self { folder, host, kept, metrics, current, read: None, poll: POLL }
    }

    /// What is in force, now and from then on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Generation>> {
        self.current.subscribe()
    }

    /// Follows the folder until `cancel`.
    pub async fn keep(mut self, cancel: CancellationToken) {
        // Watched before it is read: nothing can slip through between.
        let (mut changes, mut watcher) = watched(&self.folder);
        let (mut fetching, mut compiling, mut wants, mut tidied) = (None, None, Wants::New, None);
        loop {
            // A compiler may take minutes; it ends with this process.
            let reloaded = tokio::select! {
                () = cancel.cancelled() => return,
                reloaded = self.reload() => reloaded,
            };
            if let Err(error) = reloaded {
                self.lost(error);
            }
            if fetching.is_none() && self.host.registries().wants(wants) {
                let host = self.host.clone();
                fetching = beside("fetching", move || host.registries().fetch_wanted(wants));
            }
            if compiling.is_none() && self.host.wants_compiling(wants) {
                let host = self.host.clone();
                compiling = beside("compiling", move || host.compile_wanted());
            }
            wants = Wants::New;
            if let Some(read) = &self.read
                && tidied.is_none_or(|last: Instant| last.elapsed() >= TIDIED_EVERY)
            {
                tidied = Some(Instant::now());
                self.tidy(read.clone()).await;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = settled(&mut changes) => {}
                () = over(&mut fetching) => fetching = None,
                () = over(&mut compiling) => compiling = None,
                () = tokio::time::sleep(self.poll) => {
                    // What could not be had may be there now.
                    wants = Wants::All;
                    // Watched anew: the folder may be another one under the same name.
                    drop(watcher.take());
                    (changes, watcher) = watched(&self.folder);
                }
            }
        }
    }

    /// Reads the folder for the first time. If that fails, the last good versions are in force, and stale, if there are any.
    pub async fn begin(&mut self) -> Result<()> {
        let Err(error) = self.reload().await else { return Ok(()) };
        let Some(kept) = self.kept.clone() else { return Err(error) };
        let (host, told) = (self.host.clone(), error.chain());
        let revived = tokio::task::spawn_blocking(move || Generation::last_good(&host, &kept, error)).await;
        let revived = revived.map_err(|died| Error::new(ErrorKind::Failed, "loading the policies").because(died))??;
        tracing::error!(error = told, "the policies cannot be read; their last good versions are in force");
        self.put(revived);
        Ok(())
    }

    /// Reads the folder, and puts the next generation in place if anything in it is new, or may be had now from a registry or a
    /// compiler.
    pub async fn reload(&mut self) -> Result<()> {
        let (folder, host, kept) = (self.folder.clone(), self.host.clone(), self.kept.clone());
        let (read, before) = (self.read.clone(), Arc::clone(&self.current.borrow()));
        let work = move || -> Result<Option<(Snapshot, Generation)>> {
            let snapshot = Snapshot::read(&folder)?;
            let same = read.is_some_and(|read| read.digest == snapshot.digest);
            if same && !before.is_due(&host) {
                return Ok(None);
            }
            let now = Timestamp::now();
            let generation = before.next_at_hand(&host, &snapshot, kept.as_ref(), now);
            // What failed before and fails again is no news.
            Ok((!same || !generation.is_same(&before)).then_some((snapshot, generation)))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let done = done.map_err(|died| Error::new(ErrorKind::Failed, "loading the policies").because(died))?;
        if let Some((snapshot, generation)) = done? {
            tell(&generation);
            self.read = Some(snapshot);
            self.put(generation);
        }
        Ok(())
    }

    /// Removes what was fetched for documents that are long gone, and what was compiled and is long unused.
    async fn tidy(&self, read: Snapshot) {
        let (host, kept) = (self.host.clone(), self.kept.clone());
        let tidied = tokio::task::spawn_blocking(move || {
            host.tidy();
            match kept.map(|kept| kept.texts()).transpose() {
                Ok(kept) => {
                    let kept = kept.unwrap_or_default();
                    host.registries().tidy(read.documents.values().chain(&kept).map(String::as_str));
                }
                // What they name is not known.
                Err(error) => tracing::warn!(%error, "good versions cannot be read: what was fetched is not tidied up"),
            }
        });
        if let Err(died) = tidied.await {
            tracing::warn!(error = %died, "tidying up the state folder died");
        }
    }

    /// The folder cannot be read: what was in force stays, and grows stale.
    fn lost(&mut self, error: Error) {
        tracing::error!(error = error.chain(), "the policies cannot be read; what was in force stays");
        // It was so already if nothing had been read.
        if self.read.take().is_some() {
            let generation = self.current.borrow().unreadable(error, Timestamp::now());
            self.put(generation);
        }
    }

    fn put(&self, generation: Generation) {
        self.metrics.in_force(&generation);
        self.current.send_replace(Arc::new(generation));
    }
}

/// Works in a thread that holds up nothing, not even the end of the process; then the receiver is told. None if there is no thread to
/// be had.
fn beside(name: &str, work: impl FnOnce() + Send + 'static) -> Option<oneshot::Receiver<()>> {
    let (done, over) = oneshot::channel();
    let work = move || {
        work();
        done.send(()).ok();
    };
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    started.inspect_err(|error| tracing::warn!(%error, "no thread for {name} modules")).ok().map(|_| over)
}

/// Waits for what is at work beside, if something is.
async fn over(beside: &mut Option<oneshot::Receiver<()>>) {
    match beside {
        Some(beside) => drop(beside.await),
        None => std::future::pending().await,
    }
}

/// What of the new generation is not as it should be.
fn tell(generation: &Generation) {
    for (file, error) in generation.broken() {
        let advice = error.advice().unwrap_or_default();
        let kept = if file.active.is_some() { "its last good version stays" } else { "it has no good version" };
        if file.is_waiting() {
            tracing::info!(file = file.file, why = error.chain(), "a policy waits for a module; {kept}");
            continue;
        }
        tracing::error!(file = file.file, error = error.chain(), advice, "a policy is broken; {kept}");
    }
    let good = generation.files.len() - generation.broken().count();
    tracing::info!(generation = generation.number, good, "policies are in force");
}

/// The folder itself, not what is below: a watch of a file in a mounted `ConfigMap` reports its first swap only.
fn watched(folder: &Path) -> (mpsc::Receiver<()>, Option<RecommendedWatcher>) {
    let (sender, changes) = mpsc::channel(1);
    let notice = move |event: notify::Result<Event>| {
        // Reading the folder opens it: that is no change.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            // One that waits already stands for this one too.
            sender.try_send(()).ok();
        }
    };
    let watcher = notify::recommended_watcher(notice).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watcher {
        Ok(watcher) => (changes, Some(watcher)),
        Err(error) => {
            tracing::warn!(%error, "the policy folder cannot be watched; it is read every {} s", POLL.as_secs());
            (changes, None)
        }
    }
}

/// Waits for a change, and then until nothing has changed for a while.
async fn settled(changes: &mut mpsc::Receiver<()>) {
    if changes.recv().await.is_none() {
        return std::future::pending().await;
    }
    let rest = async { while let Ok(Some(())) = tokio::time::timeout(SETTLED, changes.recv()).await {} };
    tokio::time::timeout(AT_MOST, rest).await.ok();
}

#[cfg(test)]
mod tests;
