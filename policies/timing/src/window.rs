//! A window in the week.

use jiff::Timestamp;
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use serde::Deserialize;

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

impl Window {
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
        if !self.days.is_empty() && !self.days.iter().any(|day| day.weekday() == date.weekday()) {
            return None;
        }
        let last = if self.to <= self.from { date.tomorrow().ok()? } else { date };
        let from = zone.to_timestamp(date.to_datetime(self.from)).ok()?;
        // If that comes twice, the second one: between the two the clocks show times of the window once more.
        let to = zone.to_ambiguous_timestamp(last.to_datetime(self.to)).later().ok()?;
        Some((from, to))
    }
}
