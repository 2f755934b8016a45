//! Who this agent is.

/// This agent's pod, as the downward API tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// The node that it runs on.
    pub node: String,
    /// The namespace of remora.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID: what a claim names.
    pub uid: String,
}
