//! The rules, and what becomes of each point by them.

use std::collections::HashSet;
use std::hash::Hash;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A point to decide on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate<P> {
    /// Which.
    pub point: P,
    /// The instant that it shows.
    pub time: Timestamp,
    /// Until when somebody holds it.
    pub held: Option<Timestamp>,
}

/// What is kept. A point is kept if any rule keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The newest points.
    pub last: u32,
    /// The newest point of each of so many hours; hours without a point do not count. Likewise the next ones.
    pub hourly: u32,
    /// Of days, by the calendar in UTC.
    pub daily: u32,
    /// Of weeks; they begin on Monday.
    pub weekly: u32,
    /// Of months.
    pub monthly: u32,
    /// Of years.
    pub yearly: u32,
    /// So many points are kept whatever their age.
    pub min_count: u32,
    /// Points younger than this are kept.
    pub min_age: SignedDuration,
}

impl Default for Rules {
    /// Keeps the newest point alone.
    fn default() -> Self {
        let (last, hourly, daily, weekly, monthly, yearly) = (0, 0, 0, 0, 0, 0);
        Self { last, hourly, daily, weekly, monthly, yearly, min_count: 1, min_age: SignedDuration::ZERO }
    }
}

/// What becomes of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It stays.
    Keep,
    /// It goes.
    Drop,
}

/// A point's fate and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict<P> {
    /// Which point.
    pub point: P,
    /// The instant that it shows.
    pub time: Timestamp,
    /// What becomes of it.
    pub fate: Fate,
    /// The rules that keep it, or that none does.
    pub reason: String,
}

/// Decides on all points of a VM, given in the order of their sequence, oldest first; so are the verdicts. The newest
/// point is the last of the sequence: a clock that was set back changes nothing about that.
pub fn plan<P: Clone>(points: &[Candidate<P>], rules: &Rules, now: Timestamp) -> Vec<Verdict<P>> {
    let mut periods = Periods::default();
    let newest_first = points.iter().rev().zip(0_u32..).map(|(candidate, newer)| {
        let mut reasons = Vec::new();
        if newer < rules.last {
            reasons.push(format!("last {}", newer + 1));
        }
        periods.keep(candidate.time, rules, &mut reasons);
        if newer < rules.min_count {
            reasons.push("minimum count".into());
        }
        // Of a clock ahead of this one, a point has no age yet.
        if now.duration_since(candidate.time).max(SignedDuration::ZERO) < rules.min_age {
            reasons.push("minimum age".into());
        }
        if let Some(until) = candidate.held.filter(|until| *until > now) {
            reasons.push(format!("held until {until}"));
        }
        let (fate, reason) =
            if reasons.is_empty() { (Fate::Drop, "no rule keeps it".into()) } else { (Fate::Keep, reasons.join(", ")) };
        Verdict { point: candidate.point.clone(), time: candidate.time, fate, reason }
    });
    let mut verdicts: Vec<Verdict<P>> = newest_first.collect();
    verdicts.reverse();
    verdicts
}

/// The periods that have their point.
#[derive(Default)]
struct Periods {
    hours: HashSet<(Date, i8)>,
    days: HashSet<Date>,
    weeks: HashSet<(i16, i8)>,
    months: HashSet<(i16, i8)>,
    years: HashSet<i16>,
}

impl Periods {
    fn keep(&mut self, time: Timestamp, rules: &Rules, reasons: &mut Vec<String>) {
        let time = TimeZone::UTC.to_datetime(time);
        let (date, week) = (time.date(), time.date().iso_week_date());
        let (year, month) = (date.year(), date.month());
        let mut note = |first: bool, name: String| reasons.extend(first.then_some(name));
        let hour = format!("hourly {date}T{:02}", time.hour());
        note(first_of(&mut self.hours, (date, time.hour()), rules.hourly), hour);
        note(first_of(&mut self.days, date, rules.daily), format!("daily {date}"));
        let week = (week.year(), week.week());
        note(first_of(&mut self.weeks, week, rules.weekly), format!("weekly {}-W{:02}", week.0, week.1));
        note(first_of(&mut self.months, (year, month), rules.monthly), format!("monthly {year}-{month:02}"));
        note(first_of(&mut self.years, year, rules.yearly), format!("yearly {year}"));
    }
}

/// Whether a point is the first that is seen of its period, and the period among the first `limit`.
fn first_of<T: Eq + Hash>(seen: &mut HashSet<T>, period: T, limit: u32) -> bool {
    (seen.len() as u64) < u64::from(limit) && seen.insert(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(times: &[&str]) -> Vec<Candidate<u64>> {
        let point = |(n, time): (u64, &&str)| Candidate { point: n, time: time.parse().unwrap(), held: None };
        (1..).zip(times).map(point).collect()
    }

    /// The sequence numbers of what is kept, with the reasons.
    fn kept(points: &[Candidate<u64>], rules: &Rules) -> Vec<(u64, String)> {
        let verdicts = plan(points, rules, "2026-03-01T00:00:00Z".parse().unwrap());
        let kept = verdicts.into_iter().filter(|verdict| verdict.fate == Fate::Keep);
        kept.map(|verdict| (verdict.point, verdict.reason)).collect()
    }

    #[test]
    fn each_rule_keeps_what_it_says() {
        let points = candidates(&[
            "2024-12-30T10:00:00Z", // Monday of week 1 of 2025
            "2025-12-31T23:30:00Z",
            "2026-02-01T12:00:00Z", // Sunday
            "2026-02-02T12:00:00Z", // Monday
            "2026-02-02T12:59:59Z",
            "2026-02-02T13:00:00Z",
        ]);
        let none = Rules { min_count: 0, ..Rules::default() };
        let table: &[(Rules, &[(u64, &str)])] = &[
            (none.clone(), &[]),
            (Rules::default(), &[(6, "minimum count")]),
            (Rules { last: 2, ..none.clone() }, &[(5, "last 2"), (6, "last 1")]),
            (Rules { hourly: 2, ..none.clone() }, &[(5, "hourly 2026-02-02T12"), (6, "hourly 2026-02-02T13")]),
            (Rules { daily: 2, ..none.clone() }, &[(3, "daily 2026-02-01"), (6, "daily 2026-02-02")]),
            (
                Rules { weekly: 9, ..none.clone() },
                &[(1, "weekly 2025-W01"), (2, "weekly 2026-W01"), (3, "weekly 2026-W05"), (6, "weekly 2026-W06")],
            ),
            (Rules { monthly: 2, ..none.clone() }, &[(2, "monthly 2025-12"), (6, "monthly 2026-02")]),
            (Rules { yearly: 3, ..none.clone() }, &[(1, "yearly 2024"), (2, "yearly 2025"), (6, "yearly 2026")]),
            (Rules { min_count: 2, ..none.clone() }, &[(5, "minimum count"), (6, "minimum count")]),
            (
                Rules { min_age: SignedDuration::from_hours(27 * 24 + 12), ..none.clone() },
                &[(4, "minimum age"), (5, "minimum age"), (6, "minimum age")],
            ),
            (Rules { last: 1, yearly: 1, ..none }, &[(6, "last 1, yearly 2026")]),
        ];
        for (rules, expected) in table {
            let expected: Vec<_> = expected.iter().map(|(n, reason)| (*n, (*reason).to_owned())).collect();
            assert_eq!(kept(&points, rules), expected, "{rules:?}");
        }
    }

    #[test]
    fn a_hold_beats_every_rule_until_it_ends() {
        let mut points = candidates(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]);
        points[0].held = Some("2026-03-01T00:00:01Z".parse().unwrap());
        points[1].held = Some("2026-03-01T00:00:00Z".parse().unwrap());
        let rules = Rules { min_count: 0, ..Rules::default() };
        assert_eq!(kept(&points, &rules), [(1, "held until 2026-03-01T00:00:01Z".into())]);
    }

    #[test]
    fn the_newest_is_the_last_of_the_sequence_whatever_its_clock_said() {
        let points = candidates(&["2026-02-02T00:00:00Z", "2026-02-01T00:00:00Z"]);
        let rules = Rules { last: 1, daily: 1, min_count: 0, ..Rules::default() };
        assert_eq!(kept(&points, &rules), [(2, "last 1, daily 2026-02-01".into())]);
    }

    #[test]
    fn a_point_of_a_clock_ahead_is_not_too_young_where_no_age_is_asked_for() {
        let points = candidates(&["2026-03-01T00:00:01Z"]);
        let rules = Rules { min_count: 0, ..Rules::default() };
        assert_eq!(kept(&points, &rules), []);
        let rules = Rules { min_age: SignedDuration::from_secs(1), ..rules };
        assert_eq!(kept(&points, &rules), [(1, "minimum age".into())]);
    }

    /// Over random points and rules: a larger number in any rule keeps all that the smaller one kept.
    #[test]
    fn a_larger_rule_never_drops_more() {
        let mut seed = 1_u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        for _ in 0..2_000 {
            let mut ages: Vec<i64> = (0..random(40)).map(|_| random(3 * 365 * 24 * 60).cast_signed()).collect();
            ages.sort_unstable_by(|a, b| b.cmp(a));
            let points: Vec<Candidate<u64>> = (1..)
                .zip(&ages)
                .map(|(n, minutes)| Candidate { point: n, time: now - SignedDuration::from_mins(*minutes), held: None })
                .collect();
            let mut rule = || random(12) as u32;
            let fewer = Rules {
                last: rule(),
                hourly: rule(),
                daily: rule(),
                weekly: rule(),
                monthly: rule(),
                yearly: rule(),
                min_count: rule(),
                min_age: SignedDuration::from_hours(i64::from(rule())),
            };
            let mut more = fewer.clone();
            let grown: [&mut u32; 7] = [
                &mut more.last,
                &mut more.hourly,
                &mut more.daily,
                &mut more.weekly,
                &mut more.monthly,
                &mut more.yearly,
                &mut more.min_count,
            ];
            for rule in grown {
                *rule += random(3) as u32;
            }
            let kept = |rules: &Rules| -> HashSet<u64> {
                let verdicts = plan(&points, rules, now);
                assert_eq!(verdicts.len(), points.len());
                verdicts.into_iter().filter(|v| v.fate == Fate::Keep).map(|v| v.point).collect()
            };
            assert!(kept(&fewer).is_subset(&kept(&more)), "{fewer:?} keeps what {more:?} does not");
        }
    }
}
