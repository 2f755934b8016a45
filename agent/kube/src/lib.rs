//! remora on Kubernetes: its resources, and the programs' halves that speak with the API server.
//!
//! Depends on `kube`, on the vault, whose repositories the controller opens, on `remora-transfer` for the certificates of
//! workers, on `remora-service` for health, and, with the feature `node`, on `remora-source`, whose port to Kubernetes it
//! implements; knows nothing of the programs. Start reading at `resources.rs` (what users ask for), then `kubevirt.rs` (what
//! KubeVirt answers) and `controller.rs` and `node.rs` (what is done about it). `keys.rs` and `targets.rs` are what both of
//! these must agree on. [`crds`] prints what `deploy/base/crds.yaml` holds.

mod api_server;
pub mod conditions;
pub mod controller;
pub mod crds;
mod deadline;
pub mod keys;
pub mod kubevirt;
#[cfg(feature = "node")]
pub mod node;
mod recorder;
// The derive of the schemas repeats each struct, public, in a scope of its own.
#[allow(unreachable_pub)]
pub mod resources;
pub mod targets;
mod verification;

pub use api_server::client;
