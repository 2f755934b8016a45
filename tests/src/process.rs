//! Running commands, waiting for conditions, and failing with a message that says what failed.

use std::fmt::{Debug, Display};
use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often [`wait_until`] looks at first.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long it does not look at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

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
    loop {
        let look = Instant::now();
        if ready() {
            return;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        thread::sleep(pause(look.elapsed(), start.elapsed()));
    }
}

/// Runs a command, and anew as long as it fails and what it says on standard error is that nothing was done. Panics after `limit`.
#[track_caller]
pub(crate) fn run_until_heard(
    what: impl Display,
    limit: Duration,
    command: impl Fn() -> Ran,
    nothing_done: impl Fn(&str) -> bool,
) -> Ran {
    let mut ran = command();
    wait_until(what, limit, || {
        let again = !ran.status.success() && nothing_done(&ran.stderr);
        if again {
            ran = command();
        }
        !again
    });
    ran
}

/// For how long not to look after a look that took so long, in a wait that has taken so long. To look may be to run a
/// command, and what is waited for needs the processor, too: so it is looked often at first, and then for a tenth of
/// the time.
fn pause(looked: Duration, waited: Duration) -> Duration {
    (looked * 9).min(waited / 4).clamp(LOOK_EVERY, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_often_at_first_and_seldom_where_that_takes_long() {
        let after = |looked, waited| pause(Duration::from_millis(looked), Duration::from_millis(waited)).as_millis();
        assert_eq!([after(20, 20), after(20, 400), after(20, 60_000)], [20, 100, 180]);
        assert_eq!([after(0, 60_000), after(200, 60_000)], [20, 500]);
    }
}
