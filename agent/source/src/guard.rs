//! The run's end of its watchdog.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use remora_core::{Error, ErrorKind};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::state::{Broken, JobState};
use crate::watchdog::{Event, Spec, Step};

/// How long a watchdog may take to start, and to end.
const STARTED: Duration = Duration::from_secs(10);

/// A watchdog that watches. If it is dropped without [`Guard::dismiss`] the watchdog cleans up.
#[derive(Debug)]
pub(crate) struct Guard {
    input: ChildStdin,
    process: Child,
    listener: JoinHandle<()>,
}

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
        let input = process.stdin.take().expect("it was asked to be piped");
        let output = process.stdout.take().expect("it was asked to be piped");
        let mut lines = BufReader::new(output).lines();
        let mut guard = Self { input, process, listener: tokio::spawn(async {}) };
        let line = serde_json::to_string(spec).expect("texts and numbers are always JSON");
        guard.write(&line).await.map_err(failed)?;
        match timeout(STARTED, next_event(&mut lines)).await {
            Ok(Some(Event::Ready)) => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::Failed,
                    format!("the watchdog {} does not answer", program.display()),
                ));
            }
        }
        guard.listener = tokio::spawn(listen(lines, Arc::clone(state)));
        Ok(guard)
    }

    /// Tells the watchdog about a step. An error means that it is gone; nothing must go on without it.
    pub(crate) async fn tell(&mut self, step: Step) -> Result<(), Error> {
        let line = serde_json::to_string(&step).expect("a unit enum is always JSON");
        self.write(&line).await.map_err(|source| Error::io("telling the watchdog what comes next", source))
    }

    /// Lets the watchdog end: all is cleaned up. It may stay a while if the guest's agent does not answer.
    pub(crate) async fn dismiss(mut self, wait: Wait) {
        self.listener.abort();
        if self.tell(Step::Done).await.is_ok() && wait == Wait::UntilItEnds {
            timeout(STARTED, self.process.wait()).await.ok();
        }
    }

    async fn write(&mut self, line: &str) -> std::io::Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await?;
        self.input.flush().await
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Whether to wait for the end of a dismissed watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    UntilItEnds,
    No,
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
            socket_folder: "/nonexistent".into(),
            volumes: Vec::new(),
            freezing_at_most: Duration::from_secs(1),
            frozen_at_most: Duration::from_secs(1),
        }
    }

    fn shell(script: &str) -> Vec<OsString> {
        ["/bin/sh", "-c", script].map(OsString::from).into()
    }

    #[tokio::test]
    async fn its_reason_and_its_end_are_noted_and_the_first_counts() {
        let state = Arc::new(JobState::default());
        let script = r#"read spec; echo chatter; echo '"ready"'; read step; echo '{"stopping":"full up"}'"#;
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
