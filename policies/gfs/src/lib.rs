//! `builtin:gfs`: keeps so many points of hours, days, weeks, months and years. The rules are those of `remora prune`.

use jiff::{SignedDuration, SpanRelativeTo, Timestamp};
use remora_retention::{Candidate, Rules, plan};
use remora_sdk::Invalid;
use remora_sdk::retention::{Fate, Policy, Request, Verdict};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    last: u32,
    #[serde(default)]
    hourly: u32,
    #[serde(default)]
    daily: u32,
    #[serde(default)]
    weekly: u32,
    #[serde(default)]
    monthly: u32,
    #[serde(default)]
    yearly: u32,
    /// So many points are kept whatever their age.
    #[serde(default = "one")]
    min_count: u32,
    /// Points younger than this are kept, such as `7d`.
    #[serde(default)]
    min_age: Option<String>,
}

const fn one() -> u32 {
    1
}

struct Gfs(Rules);

impl Policy for Gfs {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Invalid> {
        let Settings { last, hourly, daily, weekly, monthly, yearly, min_count, min_age } = settings;
        let mut invalid = Invalid::default();
        if [last, hourly, daily, weekly, monthly, yearly].iter().all(|count| *count == 0) {
            invalid.add("", "no rule keeps anything: give last, hourly, daily, weekly, monthly or yearly");
        }
        let min_age = match min_age.as_deref().map(age) {
            None => SignedDuration::ZERO,
            Some(Some(age)) => age,
            Some(None) => {
                invalid.add("/minAge", "a time such as 36h, 30d or 8w is wanted");
                SignedDuration::ZERO
            }
        };
        invalid.or(Self(Rules { last, hourly, daily, weekly, monthly, yearly, min_count, min_age }))
    }

    fn judge(&self, request: &Request) -> Vec<Verdict> {
        // Times beyond jiff's are no point's: the host has them from its own clock.
        let time = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        let candidates: Vec<_> = (0_usize..)
            .zip(&request.points)
            .map(|(n, point)| Candidate { point: n, time: time(point.time), held: point.held_until.map(time) })
            .collect();
        let verdicts = plan(&candidates, &self.0, time(request.now)).into_iter();
        let fate = |fate| match fate {
            remora_retention::Fate::Keep => Fate::Keep,
            remora_retention::Fate::Drop => Fate::Drop,
        };
        verdicts.map(|verdict| Verdict { fate: fate(verdict.fate), reason: verdict.reason }).collect()
    }
}

fn age(text: &str) -> Option<SignedDuration> {
    let span: jiff::Span = text.parse().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok().filter(|age| !age.is_negative())
}

remora_sdk::retention!(Gfs);
