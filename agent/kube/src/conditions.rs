//! Conditions in the usual form.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It does.
    True,
    /// It does not.
    False,
    /// It is not known yet.
    Unknown,
}

impl Truth {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The condition of a run that may have left checkpoints which no point needs; there only if it may.
pub(crate) const CHECKPOINTS_STAY: &str = "CheckpointsStay";

/// What a condition says, without since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Says {
    /// Whether it holds.
    pub truth: Truth,
    /// Why, in one word of capitals and small letters.
    pub reason: Cow<'static, str>,
    /// Why, and what to do: sentences.
    pub message: String,
}

impl Says {
    /// That it holds.
    pub fn yes(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { truth: Truth::True, reason: reason.into(), message: message.into() }
    }

    /// That it does not.
    pub fn no(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { truth: Truth::False, reason: reason.into(), message: message.into() }
    }

    /// That it may yet.
    pub fn not_yet(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { truth: Truth::Unknown, reason: reason.into(), message: message.into() }
    }

    /// As a condition of an object that has `earlier` ones: since when changes with whether it holds only.
    pub fn condition(&self, kind: &str, earlier: &[Condition], generation: Option<i64>, now: Timestamp) -> Condition {
        let same = find(earlier, kind).filter(|one| one.status == self.truth.as_str());
        Condition {
            type_: kind.into(),
            status: self.truth.as_str().into(),
            reason: self.reason.clone().into_owned(),
            message: shortened(&self.message),
            observed_generation: generation,
            last_transition_time: same.map_or(Time(now), |one| one.last_transition_time.clone()),
        }
    }
}

/// The condition of that type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|one| one.type_ == kind)
}

/// Whether the condition of that type is True.
pub fn holds(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|one| one.status == "True")
}

/// Whether a condition says something else than the one of its type among `earlier` ones, or there was none.
pub(crate) fn is_news(earlier: &[Condition], now: &Condition) -> bool {
    find(earlier, &now.type_).is_none_or(|earlier| {
        (&earlier.status, &earlier.reason, &earlier.message) != (&now.status, &now.reason, &now.message)
    })
}

/// The most that the API server takes, and then some.
const LONGEST: usize = 4096;

pub(crate) fn shortened(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.into();
    }
    let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when_changes_with_whether_it_holds_only() {
        let (then, now) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(9));
        let first = Says::no("A", "a").condition("Ready", &[], Some(1), then);
        let other_reason = Says::no("B", "b").condition("Ready", std::slice::from_ref(&first), Some(2), now);
        assert_eq!((other_reason.last_transition_time.0, other_reason.reason.as_str()), (then, "B"));
        let holds = Says::yes("C", "c").condition("Ready", &[other_reason], Some(2), now);
        assert_eq!(holds.last_transition_time.0, now);
    }

    #[test]
    fn a_message_of_any_length_is_taken() {
        let long = "ä".repeat(LONGEST);
        let condition = Says::no("A", long).condition("Ready", &[], None, Timestamp::UNIX_EPOCH);
        assert!(condition.message.len() < LONGEST + 9 && condition.message.ends_with("ä…"));
    }
}
