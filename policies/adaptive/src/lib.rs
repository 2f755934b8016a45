//! `builtin:adaptive`: schedules by how much a VM changes, so that a run reads about as much as is wished for.

use remora_sdk::Invalid;
use remora_sdk::schedule::{Answer, Policy, Request, Run};
use serde::{Deserialize, Deserializer};
use timing::{Length, Timing};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    /// The shortest time between two runs.
    min: Length,
    /// The longest.
    max: Length,
    /// How much a run should find changed.
    target: Size,
    #[serde(default)]
    timezone: Option<String>,
    #[serde(default)]
    jitter: Length,
    #[serde(default)]
    blackout: Vec<timing::Window>,
}

/// A number of bytes, written as `500MiB` or `1GiB`.
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
        let parse = || {
            let (number, shift) = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
            number.trim().parse::<u64>().ok()?.checked_mul(1 << shift).filter(|size| *size > 0)
        };
        parse().map(Self).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no size such as 500MiB or 1GiB")))
    }
}

struct Adaptive {
    min: i64,
    max: i64,
    target: u64,
    timing: Timing,
}

/// From so many of the newest runs the rate is taken: enough to level out a quiet night, few enough to follow.
const RUNS: usize = 8;

impl Policy for Adaptive {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        let mut invalid = Invalid::default();
        if settings.min.0 < 60 {
            invalid.add("/min", "at least 1m is wanted");
        }
        if settings.max < settings.min {
            invalid.add("/max", "it is shorter than min");
        }
        if settings.jitter > settings.max {
            invalid.add("/jitter", "it is longer than max, the longest time between two runs; give less");
        }
        let zone = settings.timezone.unwrap_or_else(|| "UTC".into());
        let timing = timing::Settings { timezone: zone, jitter: settings.jitter, blackout: settings.blackout };
        let timing = Timing::new(timing)?;
        invalid.or(Self { min: settings.min.0, max: settings.max.0, target: settings.target.0, timing })
    }

    fn next(&self, request: &Request) -> Answer {
        let delay = self.timing.delay(request.seed);
        let (due, reason) = match request.runs.first() {
            None => (request.after.saturating_add(delay), "there is no point yet".to_owned()),
            Some(newest) => {
                let interval = self.interval(&request.runs);
                // A point of a clock ahead of this one does not tell when it was made.
                let made = if newest.time > request.now { request.after } else { newest.time.max(request.after) };
                // Jitter spreads the first runs, and with them all later ones.
                let due = made.saturating_add(interval);
                (due, format!("{} minutes after the last run, by how much changes", interval / 60))
            }
        };
        match self.timing.start(due, request.now) {
            Some(start) => Answer { start: Some(start), reason },
            None => Answer { start: None, reason: "the blackout windows leave no time".into() },
        }
    }
}

impl Adaptive {
    /// The time in which about the target changes, within the limits.
    fn interval(&self, newest_first: &[Run]) -> i64 {
        let pairs = newest_first.windows(2).take(RUNS);
        // A full or a reread tells nothing of what changed.
        let increments = pairs.filter(|pair| pair[0].changed < pair[0].size && pair[0].time > pair[1].time);
        let (changed, seconds) = increments.fold((0_u128, 0_u128), |(changed, seconds), pair| {
            (changed + u128::from(pair[0].changed), seconds + u128::from(pair[0].time.abs_diff(pair[1].time)))
        });
        match (seconds, changed) {
            (0, _) => self.min,
            (_, 0) => self.max,
            (seconds, changed) => {
                let wished = u128::from(self.target) * seconds / changed;
                i64::try_from(wished).unwrap_or(i64::MAX).clamp(self.min, self.max)
            }
        }
    }
}

remora_sdk::schedule!(Adaptive);
