//! What answers of HTTP servers mean, as nearly every mover reads them.

use std::fmt::Write;

use super::{Class, Error, Object, Response, Sink};

impl Error {
    /// What the status of an answer means, if nothing more is known of it.
    pub fn of_status(response: &Response, message: impl Into<String>) -> Self {
        let class = match response.status {
            401 => Class::Auth,
            403 => Class::Permission,
            404 | 410 => Class::NotFound,
            409 | 412 => Class::Conflict,
            429 => Class::Throttled,
            507 => Class::Quota,
            // 423: another client works with it right now.
            408 | 423 | 500..=599 => Class::Retryable,
            _ => Class::Permanent,
        };
        let mut error = Self::new(class, format!("http-{}", response.status), message);
        if matches!(class, Class::Throttled | Class::Retryable) {
            // Seconds; a date, which it may be too, is left to the host's own pauses.
            let seconds = response.header("retry-after").and_then(|value| value.trim().parse::<u64>().ok());
            error.retry_after_ms = seconds.map(|seconds| seconds.saturating_mul(1_000));
        }
        error
    }
}

impl Response {
    /// The first header of this name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.name == name).map(|header| header.value.as_str())
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the answer to a `HEAD` tells of an object.
    pub fn object(&self, key: &str) -> Result<Object, Error> {
        let broken =
            |what: &str| Error::new(Class::Retryable, "no-header", format!("the answer about {key} has no {what}"));
        let size = self.header("content-length").and_then(|value| value.parse().ok());
        let modified = self.header("last-modified").and_then(http_time);
        Ok(Object {
            key: key.into(),
            size: size.ok_or_else(|| broken("content-length"))?,
            modified: modified.ok_or_else(|| broken("last-modified"))?,
            etag: self.header("etag").map(Into::into),
        })
    }
}

/// An error unless the answer is a success; `doing` is such as "storing". Its text has nothing of what the server says:
/// that may be anything, a secret that it was sent too.
pub fn done(doing: &str, key: &str, answer: &Response) -> Result<(), Error> {
    let message = || format!("{doing} {key}: the server answers {}", answer.status);
    if answer.is_success() { Ok(()) } else { Err(Error::of_status(answer, message())) }
}

/// The value of a `range` header; `len` is at least 1.
pub fn range(offset: u64, len: u64) -> String {
    format!("bytes={offset}-{}", offset + len - 1)
}

/// An error unless the sink has as many bytes as were asked for.
pub fn whole(key: &str, offset: u64, len: u64, into: &Sink) -> Result<(), Error> {
    if into.len() == len {
        return Ok(());
    }
    let message = format!("reading {key}: {len} bytes from {offset} on were asked for, {} came", into.len());
    Err(Error::new(Class::Invalid, "short", message))
}

/// Percent-encoded, but for letters, digits, `-`, `.`, `_`, `~` and what is in `also`, such as `/` in a path.
pub fn escaped(text: &str, also: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.as_bytes().contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a string takes all");
        }
    }
    escaped
}

/// The seconds since 1970 of a header's time, such as `Wed, 21 Oct 2015 07:28:00 GMT`.
pub fn http_time(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_ascii_whitespace().skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let number = |text: &str| text.parse::<u16>().ok().map(i64::from);
    let (day, year) = (number(day)?, number(year)?);
    // Of a year that begins in March, so that a leap day is its last.
    let month = MONTHS.iter().zip(0..).find_map(|(name, at)| (*name == month).then_some((at + 10_i64) % 12))?;
    let year = if month >= 10 { year - 1 } else { year };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let mut clock = time.splitn(3, ':');
    let (hour, minute, second) = (number(clock.next()?)?, number(clock.next()?)?, number(clock.next()?)?);
    (words.next()? == "GMT").then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}
