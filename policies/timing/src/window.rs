//! A window in the week.

use jiff::Timestamp;
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use serde::Deserialize;

/// In seconds.
const DAY: i64 = 86_400;

/// From a time of day to another one, on some days of the week. One that ends before it begins ends on the next day.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days on which it begins; every day if none are named.
    #[serde(default)]
    days: Vec<Day>,
    from: Time,
    to: Time,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    const fn weekday(self) -> Weekday {
        match self {
            Self::Mon => Weekday::Monday,
            Self::Tue => Weekday::Tuesday,
            Self::Wed => Weekday::Wednesday,
            Self::Thu => Weekday::Thursday,
            Self::Fri => Weekday::Friday,
            Self::Sat => Weekday::Saturday,
            Self::Sun => Weekday::Sunday,
        }
    }
}

/// Whether windows leave no time in the week, to the second.
pub(crate) fn cover_the_week(windows: &[Window]) -> bool {
    let mut all: Vec<_> = windows.iter().flat_map(Window::in_the_week).collect();
    all.sort_unstable();
    let mut covered = 0;
    for (from, to) in all {
        if from > covered {
            return false;
        }
        covered = covered.max(to);
    }
    covered >= 7 * DAY
}

impl Window {
    /// From when to when it is, each time, in seconds after a week has begun: from the day before on, for it may reach into that.
    fn in_the_week(&self) -> impl Iterator<Item = (i64, i64)> {
        let over_midnight = if self.to <= self.from { DAY } else { 0 };
        let days = (-1..7).filter(move |day: &i64| self.begins_on(Weekday::Monday.wrapping_add(*day)));
        days.map(move |day| (day * DAY + second(self.from), day * DAY + over_midnight + second(self.to)))
    }

    fn begins_on(&self, weekday: Weekday) -> bool {
        self.days.is_empty() || self.days.iter().any(|day| day.weekday() == weekday)
    }

    /// When it ends, if `at` lies in it.
    pub(crate) fn end(&self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let today = zone.to_datetime(at).date();
        [today.yesterday().ok()?, today].into_iter().find_map(|date| {
            let (from, to) = self.on(date, zone)?;
            (from <= at && at < to).then_some(to)
        })
    }

    /// The window that begins on `date`.
    fn on(&self, date: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        if !self.begins_on(date.weekday()) {
            return None;
        }
        let last = if self.to <= self.from { date.tomorrow().ok()? } else { date };
        let from = zone.to_timestamp(date.to_datetime(self.from)).ok()?;
        // If that comes twice, the second one: between the two the clocks show times of the window once more.
        let to = zone.to_ambiguous_timestamp(last.to_datetime(self.to)).later().ok()?;
        Some((from, to))
    }
}

fn second(time: Time) -> i64 {
    i64::from(time.hour()) * 3_600 + i64::from(time.minute()) * 60 + i64::from(time.second())
}
