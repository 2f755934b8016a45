//! The lab: real libvirt, real QEMU and real guests for the tests of every crate, and what the tests compare with.
//!
//! [`Lab::shared`] is the lab of a test binary. [`Lab::domain`] builds domains: quick paused ones without any guest,
//! whose disks are written through QEMU ([`Domain::write`]), and booted ones with a small Linux. [`truth`] says what
//! the hypervisor holds. [`ApiServer`] is a Kubernetes that only stores objects, [`Cluster`] one that runs KubeVirt. Needs
//! root, Debian 12 and the packages that `make setup` installs.
//!
//! A failure of the lab itself is a panic that says what failed: there is nothing that a test could do about it. The
//! crate knows nothing of the product's crates, so that all of them may use it in their tests.

mod age;
pub mod agent;
pub mod api_server;
pub mod appliance;
mod cache;
mod capabilities;
mod certificate;
pub mod cluster;
mod config_map;
pub mod content;
mod controller;
mod deployed;
pub mod domain;
pub mod files;
pub mod fleet;
mod gate;
pub mod guest;
mod http;
pub mod image;
pub mod lab;
pub mod languages;
pub mod layout;
pub mod meddler;
mod namespace;
pub mod plain;
mod plugin;
mod ports;
pub mod process;
pub mod python;
pub mod registry;
mod relay;
pub mod remora;
pub mod s3;
pub mod scattered;
pub mod seeds;
mod server;
pub mod small;
pub mod truth;
pub mod webdav;

pub use age::age;
pub use agent::RemoraAgent;
pub use api_server::{Answer, ApiServer, Mark, Request, condition};
pub use appliance::Appliance;
pub use cache::tool;
pub use cluster::Cluster;
pub use config_map::MountedConfigMap;
pub use controller::{Controller, KeyAnswer};
pub use deployed::Deployed;
pub use domain::{Domain, DomainBuilder};
pub use fleet::Fleet;
pub use guest::{Agent, Guest};
pub use image::{DiskSpec, Format, Image};
pub use lab::Lab;
pub use languages::Language;
pub use layout::Layout;
pub use meddler::{Fault, Meddler};
pub use plain::PlainStore;
pub use plugin::{Plugin, hostile_policy};
pub use process::{Must, Ran, run, wait_until};
pub use registry::{Registry, SigningKey};
pub use relay::Relay;
pub use remora::{PASSPHRASE, Remora};
pub use s3::{S3, Transport};
pub use small::{Holding, Small};
pub use webdav::WebDav;

/// One KiB in bytes.
pub const KIB: u64 = 1 << 10;
/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;
/// One GiB in bytes.
pub const GIB: u64 = 1 << 30;
