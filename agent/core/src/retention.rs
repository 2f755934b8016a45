//! Which points of a VM to keep: the rules of [`remora_retention`], for points that the repository names.

use crate::PointId;

pub use remora_retention::{Fate, Rules, plan};

/// A point to decide on.
pub type Candidate = remora_retention::Candidate<PointId>;

/// A point's fate and why.
pub type Verdict = remora_retention::Verdict<PointId>;
