//! When a run has to be over: for its agent, and for the controller.

use jiff::{SignedDuration, Timestamp};

use crate::resources::BackupRun;

/// When the run's deadline passes. A text that the schema would not take counts as the default, four hours.
pub(crate) fn of(run: &BackupRun) -> Option<Timestamp> {
    let created = run.metadata.creation_timestamp.as_ref()?.0;
    created.checked_add(parse(&run.spec.deadline).unwrap_or(SignedDuration::from_hours(4))).ok()
}

/// `90m`, `4h`, `1h30m`.
fn parse(text: &str) -> Option<SignedDuration> {
    let (mut total, mut number) = (0_i64, String::new());
    for letter in text.chars() {
        let unit = match letter {
            '0'..='9' => {
                number.push(letter);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return None,
        };
        total = number.parse::<i64>().ok()?.checked_mul(unit)?.checked_add(total)?;
        number.clear();
    }
    (number.is_empty() && !text.is_empty()).then(|| SignedDuration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_seconds_minutes_and_hours() {
        for (text, seconds) in
            [("90m", Some(5400)), ("4h", Some(14400)), ("1h30m5s", Some(5405)), ("0s", Some(0)), ("10s", Some(10))]
        {
            assert_eq!(parse(text).map(|d| d.as_secs()), seconds, "{text}");
        }
        assert_eq!(parse(&"99999h".repeat(5)).map(|d| d.as_secs()), Some(5 * 99_999 * 3600));
        for bad in ["", "h", "5", "1d", "99999999999999999999h", "1h5"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
