//! How many GETs are under way at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// GETs that were asked and are not yet answered in full.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Fetches {
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Fetch {
    all: Arc<Fetches>,
    /// The answer's head, until it is whole.
    head: Vec<u8>,
    /// Of the answer's body, once the head is known.
    left: Option<usize>,
}

impl Fetch {
    pub(super) fn begin(all: &Arc<Fetches>) -> Self {
        let now = all.now.fetch_add(1, Ordering::Relaxed) + 1;
        all.most.fetch_max(now, Ordering::Relaxed);
        Self { all: Arc::clone(all), head: Vec::new(), left: None }
    }

    /// Takes more of the answer; whether that is all of it. One that does not tell its length ends with its head.
    pub(super) fn answered(&mut self, bytes: &[u8]) -> bool {
        let left = if let Some(left) = self.left {
            left.saturating_sub(bytes.len())
        } else {
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
            let body = self.head.len() - end - 4;
            length(&self.head[..end]).saturating_sub(body)
        };
        self.left = Some(left);
        left == 0
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.all.now.fetch_sub(1, Ordering::Relaxed);
    }
}

fn length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.and_then(|length| length.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_ends_with_the_last_byte_of_its_answer() {
        let all = Arc::<Fetches>::default();
        let mut one = Fetch::begin(&all);
        let mut other = Fetch::begin(&all);
        assert!(other.answered(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"));
        drop(other);
        for part in ["HTTP/1.1 206 Partial Content\r\ncontent-le", "ngth: 7\r", "\n\r\nabc", "def"] {
            assert!(!one.answered(part.as_bytes()), "{part:?}");
        }
        assert!(one.answered(b"g"));
        drop(one);
        drop(Fetch::begin(&all));
        assert_eq!((all.most(), all.now.load(Ordering::Relaxed)), (2, 0));
    }
}
