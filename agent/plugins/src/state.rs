//! What is kept in the state folder of a program.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What nobody wanted for so long is removed.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(30 * 24);

/// That something is wanted is noted no more often than this.
const NOTED_EVERY: Duration = Duration::from_hours(24);

/// Where what was fetched from registries is kept.
pub(crate) fn fetched(state: &Path) -> PathBuf {
    state.join("fetched")
}

/// Where what was compiled is kept, of policies and of movers: a private folder.
pub(crate) fn compiled(state: &Path) -> PathBuf {
    state.join("compiled")
}

/// How long nobody wanted it.
fn unwanted(path: &Path, now: SystemTime) -> Duration {
    let time = fs::metadata(path).and_then(|about| about.modified()).unwrap_or(now);
    now.duration_since(time).unwrap_or_default()
}

/// Notes that it is wanted: the time of its file is when that was last.
pub(crate) fn is_wanted(path: &Path, now: SystemTime) {
    if unwanted(path, now) > NOTED_EVERY
        && let Err(error) = fs::File::open(path).and_then(|file| file.set_modified(now))
    {
        tracing::warn!(path = %path.display(), %error, "that it is wanted cannot be noted");
    }
}

/// Whether nobody wanted it for a month.
pub(crate) fn is_forgotten(path: &Path, now: SystemTime) -> bool {
    unwanted(path, now) > FORGOTTEN_AFTER
}

/// Removes it.
pub(crate) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => tracing::info!(path = %path.display(), "nobody wants it any more, and it is removed"),
        Err(error) => tracing::warn!(path = %path.display(), %error, "nobody wants it any more, and it stays"),
    }
}
