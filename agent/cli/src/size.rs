//! Sizes as people write them.

use std::num::NonZeroU64;
use std::str::FromStr;

use serde::Deserialize;

/// A number of bytes that is not zero: `50MiB`, `1GiB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Size(pub(crate) NonZeroU64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = "a size such as 50MiB is wanted";
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err("a size such as 50MiB is wanted: the units are KiB, MiB and GiB"),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or(wanted)?;
        NonZeroU64::new(bytes).map(Self).ok_or("a size of zero makes no sense")
    }
}

impl TryFrom<String> for Size {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units_and_are_never_zero() {
        for (text, bytes) in [("4096", 4096), ("50MiB", 50 << 20), ("1 GiB", 1 << 30), ("7KiB", 7 << 10), ("1B", 1)] {
            assert_eq!(text.parse::<Size>().map(|size| size.0.get()), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "0", "0KiB", "50MB", "-1", "1.5GiB", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
