//! What runs of all kinds have in common: a repository, somebody who has claimed them, an end.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BackupRun, RepositoryReference, RestoreRun};
use crate::conditions::{find, holds};

/// A run.
pub trait Run:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// Where the point is, or goes.
    fn repository(&self) -> &RepositoryReference;
    /// Whether its owner has had enough of it, but for deleting it.
    fn is_to_cancel(&self) -> bool;
    /// What is said of it.
    fn conditions(&self) -> &[Condition];
    /// The node whose agent has it.
    fn node(&self) -> Option<&str>;
    /// The UID of the agent's pod that has claimed it.
    fn agent(&self) -> Option<&str>;
    /// What changes while that lives.
    fn heartbeat(&self) -> Option<i64>;
    /// The generation that its status tells of.
    fn observed_generation(&self) -> Option<i64>;
    /// Whether its agent has said its last word, and what is left to do is the controller's.
    fn is_left_to_controller(&self) -> bool;

    /// Whether it is complete or has failed.
    fn has_ended(&self) -> bool {
        holds(self.conditions(), "Complete") || holds(self.conditions(), "Failed")
    }

    /// Whether somebody wants it to end.
    fn is_cancelled(&self) -> bool {
        self.is_to_cancel() || self.is_leaving()
    }

    /// Whether it is being deleted.
    fn is_leaving(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }

    /// Whether there is nothing for an agent to do.
    fn is_over(&self) -> bool {
        self.has_ended() || self.is_left_to_controller()
    }
}

/// Both kinds say these things in fields of the same names.
macro_rules! run {
    ($kind:ty, $is_left_to_controller:expr) => {
        impl Run for $kind {
            fn repository(&self) -> &RepositoryReference {
                &self.spec.repository
            }

            fn is_to_cancel(&self) -> bool {
                self.spec.cancel
            }

            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map_or(&[], |status| &status.conditions)
            }

            fn node(&self) -> Option<&str> {
                self.status.as_ref()?.node.as_deref()
            }

            fn agent(&self) -> Option<&str> {
                self.status.as_ref()?.agent.as_deref()
            }

            fn heartbeat(&self) -> Option<i64> {
                self.status.as_ref()?.heartbeat
            }

            fn observed_generation(&self) -> Option<i64> {
                self.status.as_ref()?.observed_generation
            }

            fn is_left_to_controller(&self) -> bool {
                $is_left_to_controller(self)
            }
        }
    };
}

run!(BackupRun, |_| false);
run!(RestoreRun, |run: &RestoreRun| {
    find(run.conditions(), "Written").is_some_and(|written| written.status != "Unknown")
});
