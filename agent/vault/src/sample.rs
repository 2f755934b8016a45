//! How much of the data a verification reads.

use std::str::FromStr;

use jiff::Timestamp;
use remora_core::{Error, ErrorKind};

use crate::map::node::RecordRef;

/// What a verification reads. Manifests, maps and the footers of all segments it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// No data: that it is there, by the footers.
    Structure,
    /// A part of the data, another one each day.
    Sample(Sample),
    /// All data.
    All,
}

/// A share of the chunks: some of a prime number of parts, each day the next ones. So runs that are any number of days
/// apart come by all parts, unless that is a multiple of the prime, which is 11 or more: no week, no month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    share: Share,
    /// The first of its parts.
    first: u64,
}

/// How many of how many parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    width: u64,
    /// A prime.
    parts: u64,
}

/// An odd number, so that the chunks of a segment are spread over the parts.
const SPREAD: u64 = 0xd134_2543_de82_ef95;

const DAY: i64 = 24 * 60 * 60;

const FEWEST_PARTS: u64 = 11;

const LEAST_PERCENT: f64 = 0.01;

impl Sample {
    /// The sample of a day.
    pub fn of_day(share: Share, day: Timestamp) -> Self {
        let day = day.as_second().div_euclid(DAY).cast_unsigned() % share.parts;
        Self { share, first: day * share.width % share.parts }
    }

    pub(crate) fn has(self, chunk: RecordRef) -> bool {
        let segment = u64::from_le_bytes(*chunk.segment.0.first_chunk().expect("8 of 16 bytes"));
        let place = segment.wrapping_add(u64::from(chunk.number).wrapping_mul(SPREAD));
        let part = (u128::from(place) * u128::from(self.share.parts)) >> u64::BITS;
        self.has_part(part as u64)
    }

    fn has_part(self, part: u64) -> bool {
        (part + self.share.parts - self.first) % self.share.parts < self.share.width
    }
}

impl FromStr for Share {
    type Err = Error;

    /// From a percentage such as `5%` or `0.5%`, which is rounded to a number of parts.
    // Of numbers up to 10,000 that are not negative.
    #[allow(clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn from_str(text: &str) -> Result<Self, Error> {
        let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match percent {
            Some(percent) if (LEAST_PERCENT..=100.0).contains(&percent) => {
                let parts = largest_prime_up_to((100.0 / percent) as u64).max(FEWEST_PARTS);
                let width = ((percent / 100.0 * parts as f64).round() as u64).clamp(1, parts);
                Ok(Self { width, parts })
            }
            _ => Err(Error::new(ErrorKind::Invalid, format!("{text:?} is no share of the data"))
                .advise("Give a percentage from 0.01% to 100%, such as 5%.")),
        }
    }
}

fn largest_prime_up_to(most: u64) -> u64 {
    let is_prime = |n: &u64| (2..*n).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (2..=most).rev().find(is_prime).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::SegmentId;

    fn day(number: u64) -> Timestamp {
        Timestamp::from_second(number.cast_signed() * DAY + 12_345).unwrap()
    }

    /// How many runs, one every `days` days, have every part in their samples.
    fn runs_to_cover(share: Share, days: u64) -> u64 {
        let mut missing: Vec<u64> = (0..share.parts).collect();
        let mut run = 0;
        while !missing.is_empty() {
            let sample = Sample::of_day(share, day(20_000 + run * days));
            missing.retain(|part| !sample.has_part(*part));
            run += 1;
            assert!(run <= share.parts, "{share:?} every {days} days misses parts {missing:?}");
        }
        run
    }

    #[test]
    #[allow(clippy::cast_precision_loss)]
    fn regular_runs_cover_everything() {
        for percent in [0.01, 0.5, 1.0, 5.0, 9.0, 10.0, 33.0, 50.0, 100.0] {
            let share: Share = format!("{percent}%").parse().unwrap();
            for days in (1..=60_u64).filter(|days: &u64| !days.is_multiple_of(share.parts)) {
                runs_to_cover(share, days);
            }
            assert_eq!(runs_to_cover(share, 1), share.parts.div_ceil(share.width), "daily runs repeat nothing");
            let is = share.width as f64 / share.parts as f64 * 100.0;
            assert!((is - percent).abs() < percent / 8.0 + 0.01, "{percent} % became {is} %");
        }
        for days in [7, 14, 28, 30, 31] {
            assert!(runs_to_cover("5%".parse().unwrap(), days) <= 20);
        }
    }

    #[test]
    fn a_sample_is_about_its_share_of_the_chunks_of_a_segment_and_of_all() {
        let share = "5%".parse().unwrap();
        let mut all = 0;
        for segment in 0..100_u8 {
            let id = SegmentId(*blake3::hash(&[segment]).as_bytes().first_chunk().unwrap());
            let sample = Sample::of_day(share, day(u64::from(segment) * 3));
            let chosen = (0..256).filter(|number| sample.has(RecordRef { segment: id, number: *number })).count();
            assert!((5..=25).contains(&chosen), "{chosen} of 256");
            all += chosen;
        }
        assert!((1100..1600).contains(&all), "{all} of 25600");
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!("100%".parse::<Share>().unwrap(), Share { width: 11, parts: 11 });
        assert_eq!("5%".parse::<Share>().unwrap(), Share { width: 1, parts: 19 });
        for bad in ["", "5", "%", "0%", "-1%", "0.001%", "101%", "NaN%", "five%"] {
            assert_eq!(bad.parse::<Share>().unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}
