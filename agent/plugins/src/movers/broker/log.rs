//! What a mover says, for the host's log: bounded, without secrets, and on one line. And what servers say to it, without secrets.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::super::words::Level;
use super::Ear;

/// Lines each second.
const LINES: u32 = 100;

/// Bytes of a line.
const LONGEST: usize = 4 << 10;

/// What stands where a secret was.
pub(in super::super) const BLOTTED: &str = "[secret]";

/// A secret shorter than this is not looked for: it would be found in everything.
const SHORTEST: usize = 4;

/// Encoded secrets beside the given ones, at most: a mover makes them with whatever user's name it likes, and each is looked for in
/// all that servers send. No more are sent.
const ENCODED: usize = 16;

pub(super) struct Log {
    mover: String,
    /// How secrets look in text.
    shapes: Vec<Zeroizing<String>>,
    encoded: Mutex<Vec<Zeroizing<String>>>,
    pace: Mutex<Pace>,
    ear: Option<Ear>,
}

/// The lines of the running second.
struct Pace {
    since: Instant,
    written: u32,
    left_out: u32,
}

impl Log {
    pub(super) fn new<'a>(
        mover: String,
        secrets: impl IntoIterator<Item = &'a Zeroizing<Vec<u8>>>,
        ear: Option<Ear>,
    ) -> Self {
        let mut shapes = Vec::new();
        for secret in secrets.into_iter().filter(|secret| secret.len() >= SHORTEST) {
            shapes.extend(std::str::from_utf8(secret).ok().map(|text| Zeroizing::new(text.to_owned())));
            shapes.push(Zeroizing::new(Base64::encode_string(secret)));
            shapes.push(Zeroizing::new(hex::encode(&**secret)));
        }
        // One that has another in it goes first.
        shapes.sort_by_key(|shape| std::cmp::Reverse(shape.len()));
        let pace = Pace { since: Instant::now(), written: 0, left_out: 0 };
        Self { mover, shapes, encoded: Mutex::default(), pace: Mutex::new(pace), ear }
    }

    /// Another shape of a secret; whether there is room for it.
    pub(super) fn also_blot(&self, shape: &str) -> bool {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        let known = encoded.iter().any(|known| **known == shape);
        if !known && encoded.len() < ENCODED {
            encoded.push(Zeroizing::new(shape.to_owned()));
            return true;
        }
        known
    }

    /// Bytes of the longest secret that is looked for.
    pub(super) fn longest(&self) -> usize {
        let encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        encoded.iter().chain(&self.shapes).map(|shape| shape.len()).max().unwrap_or_default()
    }

    /// What a server sent, without secrets: it may send back what it was sent, at once or when it is asked what it keeps. What is
    /// shorter than the blot stands in many answers by chance, and could be guessed from its HMAC.
    pub(super) fn without_secrets(&self, bytes: Vec<u8>) -> Vec<u8> {
        let encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        let shapes = encoded.iter().chain(&self.shapes).map(|shape| shape.as_bytes());
        shapes.filter(|shape| shape.len() >= BLOTTED.len()).fold(bytes, blotted)
    }

    /// Text of the mover's that can be shown.
    pub(super) fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        for shape in encoded.iter().chain(&self.shapes) {
            if text.contains(shape.as_str()) {
                text = text.replace(shape.as_str(), BLOTTED);
            }
        }
        let mut plain = String::with_capacity(text.len().min(LONGEST));
        for c in text.chars() {
            if plain.len() >= LONGEST {
                plain.push('…');
                break;
            }
            if c.is_control() { plain.extend(c.escape_default()) } else { plain.push(c) }
        }
        plain
    }

    pub(super) fn write(&self, level: Level, line: &str) {
        let Some(left_out) = self.turn(Instant::now()) else { return };
        if left_out > 0 {
            tracing::warn!(mover = self.mover, "{left_out} lines of it were left out: it writes too many");
        }
        let line = self.plain(line);
        if let Some(ear) = &self.ear {
            ear(&line);
        }
        match level {
            Level::Debug => tracing::debug!(mover = self.mover, "{line}"),
            Level::Info => tracing::info!(mover = self.mover, "{line}"),
            Level::Warn => tracing::warn!(mover = self.mover, "{line}"),
            Level::Error => tracing::error!(mover = self.mover, "{line}"),
        }
    }

    /// Whether a line may be written now, and how many were left out before it.
    fn turn(&self, now: Instant) -> Option<u32> {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = 0;
        if now.duration_since(pace.since) >= Duration::from_secs(1) {
            left_out = pace.left_out;
            *pace = Pace { since: now, written: 0, left_out: 0 };
        }
        if pace.written >= LINES {
            pace.left_out += 1;
            return None;
        }
        pace.written += 1;
        Some(left_out)
    }
}

/// Bytes with a blot wherever a shape was.
fn blotted(bytes: Vec<u8>, shape: &[u8]) -> Vec<u8> {
    let place = |bytes: &[u8]| bytes.windows(shape.len()).position(|here| here[0] == shape[0] && here == shape);
    let Some(mut at) = place(&bytes) else { return bytes };
    let (mut clean, mut rest) = (Vec::with_capacity(bytes.len()), &bytes[..]);
    loop {
        clean.extend_from_slice(&rest[..at]);
        clean.extend_from_slice(BLOTTED.as_bytes());
        rest = &rest[at + shape.len()..];
        match place(rest) {
            Some(next) => at = next,
            None => break,
        }
    }
    clean.extend_from_slice(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(secrets: &[&str]) -> Log {
        let secrets: Vec<_> = secrets.iter().map(|text| Zeroizing::new(text.as_bytes().to_vec())).collect();
        Log::new("acme".into(), &secrets, None)
    }

    #[test]
    fn secrets_are_blotted_out_in_every_shape_that_is_known() {
        let log = log(&["hunter22", "hunter2266", "abc"]);
        log.also_blot(&Base64::encode_string(b"me:hunter22"));
        let text = format!(
            "is it hunter22, hunter2266, {}, {} or {}? abc\n\u{1b}[31m",
            Base64::encode_string(b"hunter22"),
            hex::encode("hunter22"),
            Base64::encode_string(b"me:hunter22"),
        );
        assert_eq!(log.plain(&text), "is it [secret], [secret], [secret], [secret] or [secret]? abc\\n\\u{1b}[31m");
        assert!(log.plain(&"x".repeat(10_000)).len() < 4_200);
    }

    #[test]
    fn what_a_server_sends_back_has_no_secret_in_it() {
        let log = log(&["hunter22", "hunter2266", "abc"]);
        assert!(log.also_blot("bWU6aHVudGVyMjI="));
        let sent = b"\xff hunter22hunter2266 bWU6aHVudGVyMjI= 68756e7465723232 hunter2 abc \xff";
        let clean = b"\xff [secret][secret] [secret] [secret] hunter2 abc \xff";
        assert_eq!(log.without_secrets(sent.to_vec()), clean);
        assert_eq!(log.without_secrets(b"hunter22".to_vec()), b"[secret]");
        assert_eq!(log.without_secrets(Vec::new()), b"");
    }

    #[test]
    fn no_more_shapes_are_made_than_are_looked_for() {
        let log = log(&[]);
        assert!((0..ENCODED).all(|n| log.also_blot(&n.to_string())));
        assert!(log.also_blot("0") && !log.also_blot("another"));
    }

    #[test]
    fn too_many_lines_are_counted_and_left_out() {
        let log = log(&[]);
        let now = log.pace.lock().unwrap().since;
        let written = (0..250).filter(|_| log.turn(now).is_some()).count();
        assert_eq!(written, 100);
        assert_eq!(log.turn(now + Duration::from_secs(1)), Some(150));
        assert_eq!(log.turn(now + Duration::from_secs(1)), Some(0));
    }
}
