//! What is left out, and why.

use serde::Serialize;

/// Something of the guest's that is not shown, or not copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Where it would be.
    pub what: String,
    /// Why it is not.
    pub why: String,
}
