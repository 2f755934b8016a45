//! Jitter and blackout windows, which every policy that schedules has in its settings.

mod window;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, SpanRelativeTo, Timestamp};
use remora_sdk::Invalid;
use serde::{Deserialize, Deserializer};

pub use window::Window;

/// The settings that have to do with when in the day.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// By whose clocks; a name of the time zone database.
    pub timezone: String,
    /// Starts are spread over so long.
    pub jitter: Length,
    /// When no run may begin.
    pub blackout: Vec<Window>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { timezone: "UTC".into(), jitter: Length(0), blackout: Vec::new() }
    }
}

/// A length of time in whole seconds, written as `90s`, `30m`, `12h` or `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Length(pub i64);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || serde::de::Error::custom(format!("{text:?} is no time such as 90s, 30m, 12h or 7d"));
        let span: jiff::Span = text.parse().map_err(|_| wrong())?;
        let length: SignedDuration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
        if length.is_negative() { Err(wrong()) } else { Ok(Self(length.as_secs())) }
    }
}

/// Jitter and blackout windows of one policy.
#[derive(Clone, Debug)]
pub struct Timing {
    zone: TimeZone,
    jitter: i64,
    blackout: Vec<Window>,
}

/// More windows than anybody has: after so many in a row there is no time left to run.
const WINDOWS_IN_A_ROW: usize = 1_000;

impl Timing {
    /// From settings.
    pub fn new(settings: Settings) -> Result<Self, Invalid> {
        let zone = TimeZone::get(&settings.timezone).map_err(|_| {
            let name = &settings.timezone;
            Invalid::field("/timezone", format!("there is no time zone {name:?}; one is Europe/Prague, another UTC"))
        })?;
        if window::cover_the_week(&settings.blackout) {
            let what = "the windows cover the whole week, so that nothing would ever run; leave some time between them";
            return Err(Invalid::field("/blackout", what));
        }
        Ok(Self { zone, jitter: settings.jitter.0, blackout: settings.blackout })
    }

    /// By whose clocks.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// How much later than its occasion a VM starts, in seconds: always the same for one VM, so that the time between two
    /// of its runs does not vary.
    pub fn delay(&self, seed: u64) -> i64 {
        // At most the jitter, which is not negative.
        (seed % (self.jitter.unsigned_abs() + 1)).cast_signed()
    }

    /// When a run that is due at `due` may begin: then, or after the blackout windows that it, or now, falls into. None if
    /// they leave no time at all.
    pub fn start(&self, due: i64, now: i64) -> Option<i64> {
        let wanted = due.max(now);
        let mut at = Timestamp::from_second(wanted).ok()?;
        for _ in 0..WINDOWS_IN_A_ROW {
            match self.blackout.iter().find_map(|window| window.end(at, &self.zone)) {
                Some(end) => at = end,
                None if at.as_second() == wanted => return Some(due),
                None => return Some(at.as_second()),
            }
        }
        None
    }
}

/// An instant as people write it, by the policy's clocks.
pub fn written(at: i64, zone: &TimeZone) -> String {
    match Timestamp::from_second(at) {
        Ok(at) => at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string(),
        Err(_) => at.to_string(),
    }
}
