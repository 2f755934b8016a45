//! What a claim and every view opened from it share.

use std::sync::Arc;

use remora_core::ports::VmState;

use crate::connection::DomainHandle;
use crate::definition::Definition;
use crate::lock::VmLock;
use crate::options::LibvirtOptions;

/// A VM that is ours for as long as this lives.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) domain: DomainHandle,
    pub(crate) options: Arc<LibvirtOptions>,
    pub(crate) definition: Definition,
    pub(crate) state: VmState,
    _lock: VmLock,
}

impl Vm {
    pub(crate) fn new(
        domain: DomainHandle,
        options: Arc<LibvirtOptions>,
        definition: Definition,
        state: VmState,
        lock: VmLock,
    ) -> Self {
        Self { domain, options, definition, state, _lock: lock }
    }
}
