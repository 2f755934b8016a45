//! What keeps a repository sound and small: checking, repairing, dropping, holding.

use std::str::FromStr;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use remora_core::{PointId, VmName};
use remora_vault::Share;

#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// The point; all if none
    pub(crate) point: Option<PointId>,
    /// Read no data: only manifests, maps, and what segments say of themselves
    #[arg(long, conflicts_with = "sample")]
    pub(crate) structure_only: bool,
    /// Read this part of the data, such as 5%, each day another one: regular runs cover everything
    #[arg(long, value_name = "PERCENT", value_parser = Share::from_str)]
    pub(crate) sample: Option<Share>,
    /// Store again what is lost and the running VM still has; the next backup does so with the rest of its newest point
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Prune {
    /// The VM; all if none
    #[arg(value_parser = VmName::from_str)]
    pub(crate) vm: Option<VmName>,
    #[command(flatten)]
    pub(crate) keep: Keep,
    /// Keep at least so many of the newest points, whatever the other rules say
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) min_count: u32,
    /// Keep every point that is younger than this (`36h`, `30d`)
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) min_age: Option<SignedDuration>,
    /// Tell what would become of each point, and what that would free, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Which points to keep; at least one rule must be given, so that a forgotten one drops nothing.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Keep {
    /// Keep the newest N points
    #[arg(long = "keep-last", value_name = "N")]
    pub(crate) last: Option<u32>,
    /// Keep the newest point of each of the last N hours that have one
    #[arg(long = "keep-hourly", value_name = "N")]
    pub(crate) hourly: Option<u32>,
    /// Of the last N days that have one, by the calendar in UTC
    #[arg(long = "keep-daily", value_name = "N")]
    pub(crate) daily: Option<u32>,
    /// Of the last N weeks, which begin on Monday
    #[arg(long = "keep-weekly", value_name = "N")]
    pub(crate) weekly: Option<u32>,
    /// Of the last N months
    #[arg(long = "keep-monthly", value_name = "N")]
    pub(crate) monthly: Option<u32>,
    /// Of the last N years
    #[arg(long = "keep-yearly", value_name = "N")]
    pub(crate) yearly: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct Hold {
    /// The point
    pub(crate) point: PointId,
    /// Until when it is held, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", required_unless_present = "clear")]
    pub(crate) until: Option<Timestamp>,
    /// Hold it no longer
    #[arg(long, conflicts_with = "until")]
    pub(crate) clear: bool,
}

fn age(text: &str) -> Result<SignedDuration, String> {
    let span: jiff::Span = text.parse().map_err(|_| "a time such as 36h, 30d or 8w is wanted")?;
    let age = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours());
    age.ok().filter(|age| !age.is_negative()).ok_or_else(|| "a time of hours, days or weeks is wanted".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;
    use crate::args::tests::parse;

    #[test]
    fn pruning_needs_a_rule_and_holding_a_time() {
        for bad in [
            ["prune"].as_slice(),
            &["prune", "vm", "--min-count", "3"],
            &["prune", "--keep-last", "-1"],
            &["prune", "--keep-last=1", "--min-age=soon"],
            &["prune", "--keep-last=1", "--min-age=-1h"],
            &["hold", "0011223344556677-1"],
            &["hold", "0011223344556677-1", "--clear", "--until", "2027-01-01T00:00:00Z"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let Command::Prune(prune) = parse(&["prune", "vm", "--keep-daily=7", "--min-age=2d"]).unwrap().command else {
            panic!("it is another command")
        };
        assert_eq!((prune.keep.daily, prune.keep.last, prune.min_count), (Some(7), None, 1));
        assert_eq!(prune.min_age, Some(SignedDuration::from_hours(48)));
        assert!(parse(&["hold", "0011223344556677-1", "--until", "2027-01-01T00:00:00Z"]).is_ok());
        assert!(parse(&["hold", "0011223344556677-1", "--clear"]).is_ok());
    }
}
