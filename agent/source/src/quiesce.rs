//! Freezing and thawing the guest's filesystems through its agent, which may be absent, hung or unwilling.

use std::time::Duration;

use remora_core::{Error, ErrorKind};
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt_sys::VIR_DOMAIN_RUNNING;

use crate::connection::{CallError, DomainHandle, Repeat, USUAL};
use crate::raw;

/// How long the guest may take to freeze, and how long it may then stay frozen. The Windows agent's VSS gives up after
/// 60 s (freeze) and 10 s (hold).
pub(crate) const FREEZE_LIMIT: Duration = Duration::from_mins(1);

/// The same for libvirt, in seconds.
const FREEZE_SECONDS: u16 = 60;

/// How long an answer to a thaw may take, in seconds.
const THAW_SECONDS: u16 = 20;

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
    let result = domain
        .call(FREEZE_LIMIT + USUAL, Repeat::Never, |domain| with_agent_deadline(domain, raw::freeze, FREEZE_SECONDS))
        .await;
    match result {
        Ok(count) => Frozen::Yes(count),
        Err(error) if nothing_was_sent(&error) => Frozen::No(error.message().to_owned()),
        Err(error) => Frozen::Unsure(error.message().to_owned()),
    }
}

/// Thaws the guest, of which `frozen` filesystems were frozen.
pub(crate) async fn thaw(domain: &DomainHandle, frozen: u32) -> Result<Thawed, CallError> {
    let thawed = domain.call(USUAL, Repeat::Safe, thaw_now).await?;
    Ok(if thawed >= frozen { Thawed::AllThatWereFrozen } else { Thawed::Fewer })
}

/// Thaws the guest and says how many filesystems were frozen.
pub(crate) fn thaw_now(domain: &Domain) -> Result<u32, virt::error::Error> {
    with_agent_deadline(domain, raw::thaw, THAW_SECONDS)
}

/// libvirt waits for ever for an agent unless told otherwise. What it was told before cannot be asked, so its default
/// is restored.
fn with_agent_deadline(
    domain: &Domain,
    work: fn(&Domain) -> Result<u32, virt::error::Error>,
    seconds: u16,
) -> Result<u32, virt::error::Error> {
    // Fails if there is no agent, which `work` then says better.
    raw::set_agent_timeout(domain, Some(seconds)).ok();
    let result = work(domain);
    raw::set_agent_timeout(domain, None).ok();
    result
}

/// For [`remora_core::point::Quiesce::Required`].
pub(crate) fn refused(why: &str) -> Error {
    Error::new(ErrorKind::Refused, "the guest's filesystems could not be frozen").because(why.to_owned()).advise(
        "Start qemu-guest-agent in the guest (and give the VM its channel org.qemu.guest_agent.0), or back up with --quiesce=preferred.",
    )
}

/// Whether libvirt knew at once that there is no agent to talk to.
fn nothing_was_sent(error: &CallError) -> bool {
    match error.number() {
        Some(ErrorNumber::ArgumentUnsupported | ErrorNumber::ConfigUnsupported | ErrorNumber::OperationInvalid) => true,
        Some(ErrorNumber::AgentUnresponsive) => error.message().contains("not connected"),
        _ => false,
    }
}
