//! Running commands, waiting for conditions, and failing with a message that says what failed.

use std::fmt::{Debug, Display};
use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often [`wait_until`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// For results whose failure means that the lab itself is broken.
pub trait Must<T> {
    /// The value, or a panic "cannot WHAT: ERROR" at the caller's line.
    fn must(self, what: impl Display) -> T;
}

impl<T, E: Display> Must<T> for Result<T, E> {
    #[track_caller]
    fn must(self, what: impl Display) -> T {
        match self {
            Ok(value) => value,
            Err(error) => panic!("cannot {what}: {error}"),
        }
    }
}

impl<T> Must<T> for Option<T> {
    #[track_caller]
    fn must(self, what: impl Display) -> T {
        match self {
            Some(value) => value,
            None => panic!("cannot {what}"),
        }
    }
}

/// A command that has ended, with all that it said.
pub struct Ran {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, as text.
    pub stderr: String,
}

#[expect(clippy::return_self_not_must_use, reason = "often only the check is wanted")]
impl Ran {
    /// Itself if it succeeded, a panic with all that it said otherwise.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self:?}");
        self
    }

    /// Itself if it failed, a panic otherwise.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(!self.status.success(), "wanted a failure of {self:?}");
        self
    }

    /// The exit code; a panic if a signal ended it.
    #[track_caller]
    pub fn code(&self) -> i32 {
        self.status.code().must(format_args!("take an exit code from {self:?}"))
    }

    /// Standard output as text, without white space at its end.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).must(format_args!("read the output of {} as text", self.command)).trim_end()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).must(format_args!("read JSON from {self:?}"))
    }
}

impl Debug for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        write!(f, "{}\n  {}\n  stdout: {}\n  stderr: {}", self.command, self.status, stdout.trim_end(), self.stderr)
    }
}

/// Runs a command to its end, with nothing on standard input.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    run_with_input(command, b"")
}

/// Runs a command to its end, with `input` on standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Ran {
    let line = format!("{command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.spawn().must(format_args!("start {line} (is its package installed? `make setup` does it)"));
    let output = thread::scope(|scope| {
        if let Some(mut stdin) = child.stdin.take() {
            // A command that ends without reading all of its input says why itself.
            scope.spawn(move || stdin.write_all(input).ok());
        }
        child.wait_with_output().must(format_args!("wait for {line}"))
    });
    Ran {
        command: line,
        status: output.status,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
    }
}

/// Waits until `ready`, and panics after `limit`.
#[track_caller]
pub fn wait_until(what: impl Display, limit: Duration, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        thread::sleep(LOOK_EVERY);
    }
}
