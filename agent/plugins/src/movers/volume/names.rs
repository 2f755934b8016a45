//! What things are called in a mover's store.
//!
//! * `0123456789abcdef-7-0011223344556677` has the disks of the seventh point of a machine, as one run stored them: the last part is
//!   the run's own, drawn at random, so that no run ever writes into another one's, or removes it for its own.
//! * `…-begun` beside it has no disks: a run is at it, see `claim.rs`.
//! * `…-checked` beside it has no disks either, and a description: what remora knows of the point, and how much of it was read back.
//!   It is stored last, and makes a point of the first one.
//! * `0123456789abcdef-7-break-89abcdef` has no disks: after that point, somebody wrote to a disk behind the hypervisor's back.
//!
//! Everything else is somebody else's.

use std::fmt;

use remora_core::{PointId, RepositoryId, Result, VmName};

use crate::host::Digest;

const BEGUN: &str = "begun";
const CHECKED: &str = "checked";
const BREAK: &str = "break";

/// Hexadecimal digits of what is a run's own.
const OWN: usize = 16;

/// What one run stores of a point. Shown, it is the name of the disks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Attempt {
    pub(super) point: PointId,
    own: String,
}

impl Attempt {
    /// One that nobody else has.
    pub(super) fn new(point: PointId) -> Self {
        Self { point, own: format!("{:016x}", fastrand::u64(..)) }
    }

    pub(super) fn begun(&self) -> String {
        format!("{self}-{BEGUN}")
    }

    pub(super) fn checked(&self) -> String {
        format!("{self}-{CHECKED}")
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.point, self.own)
    }
}

/// What a name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    Disks(Attempt),
    Begun(Attempt),
    Checked(Attempt),
    Break(PointId),
}

impl Named {
    pub(super) fn point(&self) -> &PointId {
        match self {
            Self::Disks(attempt) | Self::Begun(attempt) | Self::Checked(attempt) => &attempt.point,
            Self::Break(point) => point,
        }
    }
}

/// None if it is somebody else's.
pub(super) fn parse(name: &str) -> Option<Named> {
    let parts: Vec<_> = name.split('-').collect();
    let (point, rest) = parts.split_at_checked(2)?;
    let point: PointId = point.join("-").parse().ok()?;
    let attempt = |own: &str| {
        let digits = own.len() == OWN && own.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| Attempt { point: point.clone(), own: own.into() })
    };
    match rest {
        [BREAK, _] => Some(Named::Break(point)),
        [own] => attempt(own).map(Named::Disks),
        [own, BEGUN] => attempt(own).map(Named::Begun),
        [own, CHECKED] => attempt(own).map(Named::Checked),
        _ => None,
    }
}

/// What a new note of a break after a point is called.
pub(super) fn break_after(point: &PointId) -> String {
    format!("{point}-{BREAK}-{:08x}", fastrand::u32(..))
}

/// The id of a machine's point: the same whenever it is asked for, in this repository.
pub(super) fn point_id(repository: RepositoryId, vm: &VmName, sequence: u64) -> Result<PointId> {
    let digest = Digest::of(format!("{repository} {}", vm.as_str()).as_bytes());
    Ok(PointId::new(hex::encode(&digest.as_bytes()[..8]), sequence)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_points_from_notes_and_from_what_is_somebody_elses() {
        let id: PointId = "0123456789abcdef-7".parse().unwrap();
        let attempt = Attempt::new(id.clone());
        assert_eq!(parse(&attempt.to_string()), Some(Named::Disks(attempt.clone())));
        assert_eq!(parse(&attempt.begun()), Some(Named::Begun(attempt.clone())));
        assert_eq!(parse(&attempt.checked()), Some(Named::Checked(attempt.clone())));
        assert_eq!(parse(&break_after(&id)), Some(Named::Break(id.clone())));
        assert_ne!(Attempt::new(id), attempt);
        for foreign in [
            "",
            "nightly",
            "0123456789abcdef",
            "0123456789abcdef-7",
            "0123456789abcdef-7-checked",
            "0123456789abcdef-7-break",
            "0123456789abcdef-7-001122334455667",
            "0123456789abcdef-7-0011223344556677-checked-x",
            "0123456789abcdef-7-0011223344556677-other",
            "x-7",
        ] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
