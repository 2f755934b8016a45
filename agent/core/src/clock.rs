//! What to make of a time that another clock has noted, or this one before it was set back.

use jiff::{SignedDuration, Timestamp};

/// Clocks that are kept in time differ by less.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// Whether what is noted as of then was noted by a clock that is ahead of this one, or was and has been set back since.
pub fn is_ahead(noted: Timestamp, now: Timestamp) -> bool {
    noted.duration_since(now) > AHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_that_noted_more_than_an_hour_after_now() {
        let now: Timestamp = "2026-01-10T02:00:00Z".parse().unwrap();
        for (noted, ahead) in [
            ("2026-01-10T02:00:05Z", false),
            ("2026-01-10T03:00:00Z", false),
            ("2026-01-10T03:00:01Z", true),
            ("2066-01-10T02:00:00Z", true),
            ("1966-01-10T02:00:00Z", false),
        ] {
            assert_eq!(is_ahead(noted.parse().unwrap(), now), ahead, "{noted}");
        }
    }
}
