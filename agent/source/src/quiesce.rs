//! Freezing and thawing the guest's filesystems through its agent, which may be absent, hung or unwilling.

use std::time::Duration;

use remora_core::{Error, ErrorKind};
use virt::error::ErrorNumber;
use virt_sys::VIR_DOMAIN_RUNNING;

use crate::connection::{CallError, DomainHandle, Repeat, USUAL};
use crate::raw;

/// How long the guest may take to freeze; Windows' VSS gives up after 60 s.
pub(crate) const FREEZE_LIMIT: Duration = Duration::from_mins(1);

/// How long the guest may then stay frozen, which Windows' VSS limits to 10 s too. A job begins within a tenth of a
/// second unless somebody else holds the VM.
pub(crate) const HOLD_LIMIT: Duration = Duration::from_secs(10);

/// How long libvirt waits for an answer of the agent, in seconds.
const AGENT_SECONDS: u16 = 60;

/// What became of the wish to freeze.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frozen {
    /// So many filesystems are frozen.
    Yes(u32),
    /// The guest is surely not frozen, and why.
    No(String),
    /// The agent did not answer, so a freeze may still happen; and what libvirt said.
    Unsure(String),
}

/// What a thaw says of the time before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thawed {
    /// As many filesystems as were frozen: the guest was frozen until now.
    AllThatWereFrozen,
    /// Fewer: somebody thawed them earlier.
    Fewer,
}

/// Asks the guest to freeze its filesystems.
pub(crate) async fn freeze(domain: &DomainHandle) -> Frozen {
    match domain.call(USUAL, Repeat::Safe, raw::state).await {
        Ok(VIR_DOMAIN_RUNNING) => {}
        Ok(_) => return Frozen::No("the VM is paused".into()),
        Err(error) => return Frozen::No(error.message().to_owned()),
    }
    // libvirt waits for an agent for ever unless told otherwise. Telling it needs the same lock as a backup job does:
    // if that cannot be had, the guest would stay frozen until it can.
    let told = domain.call(USUAL, Repeat::Safe, |domain| raw::set_agent_timeout(domain, Some(AGENT_SECONDS))).await;
    if let Err(error) = told {
        return Frozen::No(error.message().to_owned());
    }
    match domain.call(FREEZE_LIMIT + USUAL, Repeat::Never, raw::freeze).await {
        Ok(count) => Frozen::Yes(count),
        Err(error) if nothing_was_sent(&error) => Frozen::No(error.message().to_owned()),
        Err(error) => Frozen::Unsure(error.message().to_owned()),
    }
}

/// Thaws the guest, of which `frozen` filesystems were frozen.
pub(crate) async fn thaw(domain: &DomainHandle, frozen: u32) -> Result<Thawed, CallError> {
    let thawed = domain.call(FREEZE_LIMIT + USUAL, Repeat::Safe, raw::thaw).await?;
    Ok(if thawed >= frozen { Thawed::AllThatWereFrozen } else { Thawed::Fewer })
}

/// After a freeze was tried, and never while the guest is frozen, for it can block: restores libvirt's default, as what
/// was set before us cannot be asked.
pub(crate) async fn forget_agent_deadline(domain: &DomainHandle) {
    let told = domain.call(USUAL, Repeat::Safe, |domain| raw::set_agent_timeout(domain, None)).await;
    if let Err(error) = told {
        tracing::debug!(vm = %domain.vm, %error, "cannot restore libvirt's deadline for the guest agent");
    }
}

/// For [`remora_core::point::Quiesce::Required`].
pub(crate) fn refused(why: &str) -> Error {
    Error::new(ErrorKind::Refused, "the guest's filesystems could not be frozen").because(why.to_owned()).advise(
        "Start qemu-guest-agent in the guest (and give the VM its channel org.qemu.guest_agent.0), or back up with --quiesce=preferred.",
    )
}

/// Whether libvirt knew at once that there is no agent to talk to.
fn nothing_was_sent(error: &CallError) -> bool {
    has_no_agent(error)
        || match error.number() {
            Some(ErrorNumber::OperationInvalid) => true,
            Some(ErrorNumber::AgentUnresponsive) => error.message().contains("not connected"),
            _ => false,
        }
}

/// Whether the VM has no channel to an agent: nobody could ever freeze its guest. Where there is a channel but no answer, the
/// guest may have been frozen before.
pub(crate) fn has_no_agent(error: &CallError) -> bool {
    matches!(error.number(), Some(ErrorNumber::ArgumentUnsupported | ErrorNumber::ConfigUnsupported))
}
