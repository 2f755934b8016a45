//! Letting time pass for a repository: its objects become older, as their store tells it.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::process::Must;

/// More than the 72 hours for which readers keep what was dropped, and than the day after which a session is dead.
const FOUR_DAYS: Duration = Duration::from_hours(96);

/// Lets everything below a folder be four days old: the objects of a folder store, or of the S3 server, which keeps
/// them as files.
pub fn age(folder: &Path) {
    for entry in fs::read_dir(folder).must("list what is to become older") {
        let entry = entry.must("list what is to become older");
        if entry.file_type().must("look at what is to become older").is_dir() {
            age(&entry.path());
        } else {
            let file = File::options().append(true).open(entry.path()).must("open what is to become older");
            file.set_modified(SystemTime::now() - FOUR_DAYS).must("make a file older");
        }
    }
}
