//! remora on Kubernetes: its resources.
//!
//! Depends on `kube` alone; knows nothing of the programs. Start reading at `resources.rs`; [`crds`] prints what
//! `deploy/base/crds.yaml` holds.

pub mod crds;
// The derive of the schemas repeats each struct, public, in a scope of its own.
#[allow(unreachable_pub)]
pub mod resources;
