//! What policies answered last, in the form in which it is kept: one that fails is as if it had said that again, to an agent
//! that was started since too.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use remora_core::VmName;
use serde::{Deserialize, Serialize};

/// What policies answered last, by their names.
pub type Answered = BTreeMap<String, LastAnswers>;

/// What one of them answered last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAnswers {
    /// The VMs that it selects.
    pub(crate) selected: BTreeSet<VmName>,
    /// When their next runs are due, as far as it was asked.
    pub(crate) due: BTreeMap<VmName, LastDue>,
}

/// When the next run of a VM is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDue {
    /// The end of what was settled when it was asked.
    pub(crate) after: Timestamp,
    /// What it said.
    pub(crate) start: Option<Timestamp>,
}
