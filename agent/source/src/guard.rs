//! The run's end of its watchdog.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use remora_core::{Error, ErrorKind};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::state::{Broken, JobState};
use crate::watchdog::{BEAT, Event, Spec, Step};

/// How long a watchdog may take to start, and to end; on a busy host it waits for a processor.
const STARTED: Duration = Duration::from_mins(1);

/// A watchdog that watches. If it is dropped without [`Guard::dismiss`] the watchdog cleans up.
#[derive(Debug)]
pub(crate) struct Guard {
    steps: mpsc::Sender<Told>,
    process: Child,
    teller: JoinHandle<()>,
    listener: JoinHandle<()>,
}

/// A step to be told, and who wants to know that it was.
type Told = (Step, oneshot::Sender<std::io::Result<()>>);

impl Guard {
    /// Starts a watchdog with `command` and waits until it watches. What it tells goes into `state`.
    pub(crate) async fn start(command: &[OsString], spec: &Spec, state: &Arc<JobState>) -> Result<Self, Error> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "starting the watchdog: no command is configured for it"))?;
        let failed = |source| Error::io(format!("starting the watchdog {}", program.display()), source);
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut input = process.stdin.take().expect("it was asked to be piped");
        let output = process.stdout.take().expect("it was asked to be piped");
        let mut lines = BufReader::new(output).lines();
        let spec = serde_json::to_string(spec).expect("texts and numbers are always JSON");
        write(&mut input, &spec).await.map_err(failed)?;
        match timeout(STARTED, next_event(&mut lines)).await {
            Ok(Some(Event::Ready)) => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::Failed,
                    format!("the watchdog {} does not answer", program.display()),
                ));
            }
        }
        let (steps, to_tell) = mpsc::channel(1);
        let teller = tokio::spawn(tell_all(input, to_tell));
        let listener = tokio::spawn(listen(lines, Arc::clone(state)));
        Ok(Self { steps, process, teller, listener })
    }

    /// Tells the watchdog about a step. An error means that it is gone; nothing must go on without it.
    pub(crate) async fn tell(&self, step: Step) -> Result<(), Error> {
        let (answer, told) = oneshot::channel();
        let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let told = match self.steps.send((step, answer)).await {
            Ok(()) => told.await.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        told.map_err(|source| Error::io("telling the watchdog what comes next", source))
    }

    /// Lets the watchdog end: all is cleaned up. It may stay a while if the guest's agent does not answer.
    pub(crate) async fn dismiss(mut self, wait: Wait) {
        self.listener.abort();
        if self.tell(Step::Done).await.is_ok() && wait == Wait::UntilItEnds {
            timeout(STARTED, self.process.wait()).await.ok();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Closes the pipe.
        self.teller.abort();
        self.listener.abort();
    }
}

/// Whether to wait for the end of a dismissed watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    UntilItEnds,
    No,
}

/// Tells the steps, and in between that we live. Stands among the tasks that take QEMU's replies: where those cannot
/// run this cannot either.
async fn tell_all(mut input: ChildStdin, mut steps: mpsc::Receiver<Told>) {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            step = steps.recv() => {
                let Some((step, answer)) = step else { return };
                // Who asked may be gone.
                answer.send(tell_one(&mut input, step).await).ok();
            }
            _ = beat.tick() => {
                if tell_one(&mut input, Step::Alive).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn tell_one(input: &mut ChildStdin, step: Step) -> std::io::Result<()> {
    write(input, &serde_json::to_string(&step).expect("a unit enum is always JSON")).await
}

async fn write(input: &mut ChildStdin, line: &str) -> std::io::Result<()> {
    input.write_all(format!("{line}\n").as_bytes()).await?;
    input.flush().await
}

async fn next_event(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<Event> {
    loop {
        // Anything that is no event is chatter of what wraps the watchdog.
        if let Ok(event) = serde_json::from_str(&lines.next_line().await.ok()??) {
            return Some(event);
        }
    }
}

async fn listen(mut lines: Lines<BufReader<ChildStdout>>, state: Arc<JobState>) {
    while let Some(event) = next_event(&mut lines).await {
        if let Event::Stopping(reason) = event {
            state.break_off(Broken {
                kind: ErrorKind::NoSpace,
                what: format!("the backup was ended so that the guest gets no write error: {reason}"),
                advice: "Free some room there or name a folder on a larger filesystem with --scratch, and back up when the guest writes less.",
            });
        }
    }
    state.break_off(Broken {
        kind: ErrorKind::Failed,
        what: "the watchdog process of this backup ended".into(),
        advice: "Find out who killed `remora watchdog`, and try again.",
    });
}

#[cfg(test)]
mod tests {
    use remora_core::{CheckpointName, RepositoryId, VmName};

    use super::*;

    fn spec() -> Spec {
        Spec {
            uri: "test:///default".into(),
            vm: VmName::new("a\nb").unwrap(),
            uuid: "u".into(),
            checkpoint: CheckpointName::random(RepositoryId::random()),
            files: Vec::new(),
            volumes: Vec::new(),
            freezing_at_most: Duration::from_secs(1),
            frozen_at_most: Duration::from_secs(1),
            run: 0,
            silent_at_most: Duration::from_secs(1),
        }
    }

    fn shell(script: &str) -> Vec<OsString> {
        ["/bin/sh", "-c", script].map(OsString::from).into()
    }

    #[tokio::test]
    async fn its_reason_and_its_end_are_noted_and_the_first_counts() {
        let state = Arc::new(JobState::default());
        // It may hear that the run lives before it hears of the step.
        let script = r#"read spec; echo chatter; echo '"ready"'
            while read step; do case $step in *beginning*) break ;; esac; done; echo '{"stopping":"full up"}'"#;
        let mut guard = Guard::start(&shell(script), &spec(), &state).await.unwrap();
        assert!(state.error().is_none());
        guard.tell(Step::Beginning).await.unwrap();
        while state.error().is_none() {
            tokio::task::yield_now().await;
        }
        guard.process.wait().await.unwrap();
        let error = state.error().unwrap();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("full up"), "{error}");
    }

    #[tokio::test]
    async fn one_that_dies_breaks_the_job() {
        let state = Arc::new(JobState::default());
        let _guard = Guard::start(&shell(r#"read spec; echo '"ready"'"#), &spec(), &state).await.unwrap();
        while state.error().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(state.error().unwrap().to_string().contains("watchdog"));
    }

    #[tokio::test]
    async fn one_that_cannot_start_is_an_error() {
        let state = Arc::new(JobState::default());
        for command in [vec![], vec!["/nonexistent/remora".into()], shell("read spec; exit 1")] {
            assert!(Guard::start(&command, &spec(), &state).await.is_err(), "{command:?}");
        }
    }
}
