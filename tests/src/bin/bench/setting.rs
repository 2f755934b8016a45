//! What several benchmarks share: the lab, a disk of 4 GiB, and the rate of a full backup.

use std::cell::{Cell, OnceCell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};

use remora_tests::{GIB, Lab, Must, Remora, content};

/// The size of the disk that full backups and restores are measured with.
pub(crate) const DISK: u64 = 4 * GIB;

/// How often what takes half a minute is repeated.
pub(crate) const REPEATS: usize = 3;

/// The lab and what was made in it.
pub(crate) struct Setting {
    pub(crate) lab: Lab,
    disk: OnceCell<PathBuf>,
    rate: Cell<Option<f64>>,
    sections: RefCell<Vec<Section>>,
}

/// A part of the report beside the table of limits.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) text: String,
}

impl Setting {
    pub(crate) fn start() -> Self {
        Self { lab: Lab::start(), disk: OnceCell::new(), rate: Cell::new(None), sections: RefCell::default() }
    }

    /// A raw disk of 4 GiB, half text, half noise.
    pub(crate) fn disk(&self) -> &Path {
        self.disk.get_or_init(|| {
            let path = self.lab.scratch("content").join("disk.raw");
            content::make_disk(&path, DISK, DISK);
            path
        })
    }

    /// Bytes a second of a full backup: the median of `full` if it ran, else of one backup now.
    pub(crate) fn full_rate(&self) -> f64 {
        self.rate.get().unwrap_or_else(|| crate::full::rate(self))
    }

    /// Adds a section to the report.
    pub(crate) fn tell(&self, title: &'static str, text: String) {
        self.sections.borrow_mut().push(Section { title, text });
    }

    /// The sections so far.
    pub(crate) fn into_sections(self) -> Vec<Section> {
        self.sections.into_inner()
    }

    pub(crate) fn set_full_rate(&self, rate: f64) {
        self.rate.set(Some(rate));
    }
}

/// Removes a repository that is not needed any more.
pub(crate) fn remove(remora: &Remora) {
    fs::remove_dir_all(remora.repository()).must("remove a repository");
}
