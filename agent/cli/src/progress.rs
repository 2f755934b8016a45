//! Progress on standard error: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use remora_core::ports::{NoProgress, Progress};

use crate::output::{bytes, say};

/// Plain lines come no closer than this.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows the progress of one run while it lives.
pub(crate) enum Shown {
    Nothing(Arc<NoProgress>),
    Bar(Arc<Bar>),
    Lines(Arc<Lines>),
}

impl Shown {
    /// `doing` such as "backing up".
    pub(crate) fn new(silent: Silence, doing: &str) -> Self {
        match silent {
            Silence::Silent => Self::Nothing(Arc::new(NoProgress)),
            Silence::Audible if std::io::stderr().is_terminal() => Self::Bar(Arc::new(Bar::new(doing))),
            Silence::Audible => Self::Lines(Arc::new(Lines::new(doing))),
        }
    }

    /// The port.
    pub(crate) fn port(&self) -> Arc<dyn Progress> {
        match self {
            Self::Nothing(none) => Arc::clone(none) as _,
            Self::Bar(bar) => Arc::clone(bar) as _,
            Self::Lines(lines) => Arc::clone(lines) as _,
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.0.finish_and_clear();
        }
    }
}

/// Whether progress and notes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    Silent,
    Audible,
}

/// A bar with rate and time left.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    fn new(doing: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
        let template = "{msg} [{bar:30}] {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(doing.to_owned());
        Self(bar)
    }
}

impl Progress for Bar {
    fn expect(&self, bytes: u64) {
        self.0.inc_length(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

/// Lines for logs.
pub(crate) struct Lines {
    doing: String,
    began: Instant,
    expected: AtomicU64,
    done: AtomicU64,
    last: Mutex<Instant>,
}

impl Lines {
    fn new(doing: &str) -> Self {
        let began = Instant::now();
        let (expected, done) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { doing: doing.into(), began, expected, done, last: Mutex::new(began) }
    }

    fn line(&self, elapsed: Duration) -> String {
        let (expected, done) = (self.expected.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed));
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = done.saturating_mul(1000) / millis;
        let percent = done.saturating_mul(100).checked_div(expected).unwrap_or(100).min(100);
        let left = expected.saturating_sub(done).checked_div(rate);
        let left = left.map_or_else(String::new, |seconds| format!(", {seconds} s left"));
        format!("{}: {percent} %, {} of {}, {}/s{left}", self.doing, bytes(done), bytes(expected), bytes(rate))
    }
}

impl Progress for Lines {
    fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        // Whoever finds the lock taken leaves the line to the holder.
        if let Ok(mut last) = self.last.try_lock()
            && last.elapsed() >= LINE_EVERY
        {
            *last = Instant::now();
            say(&self.line(self.began.elapsed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_percent_rate_and_time_left() {
        let lines = Lines::new("backing up");
        assert_eq!(lines.line(Duration::ZERO), "backing up: 100 %, 0 B of 0 B, 0 B/s");
        lines.expect(10 << 20);
        lines.advance(4 << 20);
        assert_eq!(lines.line(Duration::from_secs(2)), "backing up: 40 %, 4.00 MiB of 10.00 MiB, 2.00 MiB/s, 3 s left");
    }
}
