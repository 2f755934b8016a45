//! What is logged, kept. A log is this test's own if the test has one thread.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

/// Lines of a log.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// All of them, by now.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A log of nothing, to be made before a test's own and held as long: where there is one log alone, a callsite asks that of the
/// thread that comes by first, which may be another test's, for all.
pub(crate) fn another() -> tracing::Dispatch {
    let off = tracing::level_filters::LevelFilter::OFF;
    tracing::Dispatch::new(tracing_subscriber::fmt().with_max_level(off).finish())
}
