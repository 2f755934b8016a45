//! Who may do what with the files of a point.

mod records;
mod v0_1;
mod v0_2;

use std::time::Duration;

use remora_core::Result;
use remora_core::policy::{Access, Authorize, Decision};

use super::{BATCH, policy, translate};
use crate::host::{Authorizing, Reuse, Version};

policy! {
    /// A component that decides on files.
    AuthorizePolicy, Authorizing, super::QUICK
}

impl AuthorizePolicy {
    fn canary(&self) -> Result<()> {
        let at = jiff::Timestamp::from_second(1_767_225_600).expect("it is a time of 2026");
        let nobody = remora_core::policy::Subject { user: "canary".into(), groups: Vec::new(), grants: Vec::new() };
        self.authorize(&[Access {
            subject: nobody,
            action: remora_core::policy::Action::Read,
            vm: translate::nobody(),
            point: "0000000000000000-1".into(),
            point_time: at,
            path: b"/canary".to_vec(),
            now: at,
            approvals: Vec::new(),
        }])
        .map(|_| ())
    }

    /// Decides in a new instance: what a warm one says must be the same.
    pub fn authorize_fresh(&self, requests: &[Access]) -> Result<Vec<Decision>> {
        self.ask(Reuse::Never, requests)
    }

    pub(super) fn ask(&self, reuse: Reuse, requests: &[Access]) -> Result<Vec<Decision>> {
        self.ask_within(reuse, self.0.deadline(), requests)
    }

    /// Decides on what one call may hold, within what is left of its time.
    pub(crate) fn decide(&self, requests: &[Access], time: Duration) -> Result<Vec<Decision>> {
        self.ask_within(Reuse::Ready, time, requests)
    }

    fn ask_within(&self, reuse: Reuse, time: Duration, requests: &[Access]) -> Result<Vec<Decision>> {
        self.0.call(reuse, time, "`authorize`", |world, store| match world {
            Version::V0_1(world) => v0_1::ask(world, store, requests),
            Version::V0_2(world) => v0_2::ask(world, store, requests),
        })
    }
}

impl Authorize for AuthorizePolicy {
    fn authorize(&self, requests: &[Access]) -> Result<Vec<Decision>> {
        if requests.len() <= BATCH {
            return self.ask(Reuse::Ready, requests);
        }
        let batches = requests.chunks(BATCH).map(|batch| self.ask(Reuse::Ready, batch));
        Ok(batches.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}
