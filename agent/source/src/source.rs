//! The source: which libvirt, and the claim of one of its VMs.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use remora_core::ports::{ClaimedVm, Patience, Source};
use remora_core::{Error, ErrorKind, Result, VmName};
use virt::connect::Connect;
use virt::domain::Domain;

use crate::claim::Claimed;
use crate::connection::{DomainHandle, Libvirt, Repeat, USUAL};
use crate::options::LibvirtOptions;

/// The VMs of a libvirt on this host.
#[derive(Debug)]
pub struct LibvirtSource {
    pub(crate) libvirt: Arc<Libvirt>,
    pub(crate) options: Arc<LibvirtOptions>,
}

impl LibvirtSource {
    /// Connects when first used. `Unsupported` for a libvirt on another host, whose disks could not be read from here.
    pub fn new(options: LibvirtOptions) -> Result<Self> {
        let uri = options.uri();
        if is_remote(&uri) {
            return Err(Error::new(ErrorKind::Unsupported, format!("{uri} is a libvirt on another host"))
                .advise("Run remora on the host that runs the VM."));
        }
        options.check_paths()?;
        Ok(Self { libvirt: Arc::new(Libvirt::new(uri)), options: Arc::new(options) })
    }

    /// The URI of the libvirt that it talks to.
    pub fn uri(&self) -> &str {
        self.libvirt.uri()
    }

    /// The names of all VMs, sorted; those that are shut off too.
    pub async fn vms(&self) -> Result<Vec<VmName>> {
        let list = |connection: &Connect| {
            connection.list_all_domains(0)?.iter().map(Domain::get_name).collect::<std::result::Result<Vec<_>, _>>()
        };
        let names = self.libvirt.call(USUAL, Repeat::Safe, list).await;
        let names = names.map_err(|error| error.while_doing(format_args!("listing the VMs of {}", self.uri())))?;
        let mut vms: Vec<_> = names.into_iter().filter_map(|name| VmName::new(name).ok()).collect();
        vms.sort();
        Ok(vms)
    }

    /// The domain of that name.
    async fn find(&self, vm: &VmName) -> Result<DomainHandle> {
        let name = vm.clone();
        let lookup = move |connection: &Connect| Domain::lookup_by_name(connection, name.as_str())?.get_uuid_string();
        match self.libvirt.call(USUAL, Repeat::Safe, lookup).await {
            Ok(uuid) => Ok(DomainHandle { libvirt: Arc::clone(&self.libvirt), vm: vm.clone(), uuid }),
            Err(error) => {
                let error = error.while_doing(format_args!("looking for the VM {:?} in {}", vm.as_str(), self.uri()));
                if error.kind() != ErrorKind::NotFound {
                    return Err(error);
                }
                let known = self.vms().await.unwrap_or_default();
                let known: Vec<_> = known.iter().take(20).map(|vm| format!("{:?}", vm.as_str())).collect();
                Err(error.advise(if known.is_empty() {
                    "This libvirt has no VMs; name another with --connect.".to_owned()
                } else {
                    format!("It has these: {}.", known.join(", "))
                }))
            }
        }
    }

    /// The run folder.
    pub(crate) fn run_dir(&self) -> &Path {
        &self.options.run_dir
    }
}

#[async_trait]
impl Source for LibvirtSource {
    async fn claim(&self, vm: &VmName, patience: Patience) -> Result<Box<dyn ClaimedVm>> {
        let domain = self.find(vm).await?;
        let claimed = Claimed::claim(domain, Arc::clone(&self.options), patience).await;
        Ok(Box::new(claimed.map_err(|error| error.within(format_args!("claiming the VM {:?}", vm.as_str())))?))
    }
}

/// Whether a URI such as `qemu+ssh://host/system` names a host.
fn is_remote(uri: &str) -> bool {
    let Some((_, rest)) = uri.split_once("://") else { return false };
    let host = rest.split('/').next().unwrap_or_default();
    !matches!(host, "" | "localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_libvirt_elsewhere_is_refused() {
        for (uri, remote) in [
            ("qemu:///system", false),
            ("qemu+unix:///system?socket=/run/x/y", false),
            ("test:///default", false),
            ("qemu+ssh://root@host/system", true),
            ("qemu+tls://10.0.0.1/system", true),
        ] {
            let options = LibvirtOptions { connect: Some(uri.into()), ..LibvirtOptions::new(Vec::new()) };
            assert_eq!(LibvirtSource::new(options).is_err(), remote, "{uri}");
        }
    }

    #[tokio::test]
    async fn a_vm_that_is_not_there_is_named_beside_those_that_are() {
        let options = LibvirtOptions { connect: Some("test:///default".into()), ..LibvirtOptions::new(Vec::new()) };
        let source = LibvirtSource::new(options).unwrap();
        let error = source.claim(&VmName::new("no\nsuch").unwrap(), Patience::None).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.advice().unwrap().contains("\"test\""), "{:?}", error.advice());
        assert!(error.to_string().contains(r#""no\nsuch""#), "{error}");
    }
}
